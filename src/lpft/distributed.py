"""One training by several processes that a launcher started, each with a share of every batch.

All of them run the same code on the same data. Rows are shared out where texts are read by the
encoder, in steps and in evaluation; everything else is computed by each process to the same result,
so that control flow never differs. Where it would depend on last digits or on the machine, the main
process decides (:func:`agreed`). The main process (rank 0) alone writes to the run's folder.
Without :func:`join` there is one process, and these functions change nothing.
:func:`check_environment` refuses variables of a launcher that other libraries would obey.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from lpft.errors import InputError, named, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = TypeVar("Value")

SECONDS_TO_MEET = 60
"""How long a process waits for the others to start."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and accelerate launch set for every process."""

_joined = False


def join(*, seconds: float = SECONDS_TO_MEET) -> None:
    """Meet the other processes of the launcher that started this one.

    Uses gloo on CPUs and NCCL on GPUs; with GPUs each process takes that of its local rank.

    Args:
        seconds: how long to wait for the others.

    Raises:
        InputError: no launcher started this process, or not all processes arrived in time.
    """
    global _joined
    if _joined:
        return
    missing = [name for name in _VARIABLES if not os.environ.get(name, "").strip()]
    if missing:
        raise InputError(
            f"{named('distributed')} needs a launcher that starts every process and sets "
            f"{', '.join(missing)}: torchrun --nproc_per_node 2 -m lpft train ..., or accelerate "
            f"launch with several GPUs; or leave {named('distributed')} out"
        )
    try:
        rank, size, local = (int(os.environ[name]) for name in _VARIABLES[:3])
    except ValueError as error:
        raise InputError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from error
    # A model with parameters that no text reaches needs a search for them; where there are none,
    # torch would warn that it was not needed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import torch.distributed as dist

    wait = timedelta(seconds=seconds)
    try:
        store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=wait))
        # Where the launcher keeps the store, that one answers before the other processes are there.
        store.set(f"lpft/{rank}", "")
        store.wait([f"lpft/{other}" for other in range(size)], wait)
    except (dist.DistError, RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"process {rank} of {size} did not meet the others within {seconds:g} s at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({one_line(error)}): start "
            "all of them at the same time, with the same address and number of processes"
        ) from error
    backend = "gloo"
    if torch.cuda.is_available():
        if local < torch.cuda.device_count():  # or else check_device refuses to train on a GPU
            torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    _joined = True
    atexit.register(leave)  # or gloo aborts a process whose others are gone


def check_device(kind: str) -> None:
    """Refuse a GPU that would be another process' too.

    Raises:
        InputError: the launcher started more processes on this machine than it has GPUs.
    """
    if not _joined or kind != "cuda":
        return
    import torch

    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise InputError(
            f"process {local} of this machine has no GPU of its own: start at most {count} "
            f"processes on it, as many as it has GPUs, or give {named('device')} cpu"
        )


def leave() -> None:
    """Part from the other processes, which may go on alone."""
    global _joined
    if _joined:
        import torch.distributed as dist

        _joined = False
        gc.collect()  # a wrapped model that outlives its group would abort the process
        dist.destroy_process_group()


def joined() -> bool:
    """Whether :func:`join` was called: this process is one of a launcher's, if only of one."""
    return _joined


def rank() -> int:
    """The number of this process, 0 to :func:`size` - 1."""
    return sys.modules["torch.distributed"].get_rank() if _joined else 0


def size() -> int:
    """How many processes share this training."""
    return sys.modules["torch.distributed"].get_world_size() if _joined else 1


def is_main() -> bool:
    """Whether this process writes the run's folder and speaks to the user."""
    return rank() == 0


def agreed(decide: Callable[[], Value]) -> Value:
    """What ``decide`` returns in the main process, in all of them; it is called there alone."""
    if size() == 1:
        return decide()
    import torch.distributed as dist

    values: list[Any] = [decide() if is_main() else None]
    with _lost():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def every(condition: bool) -> bool:
    """Whether ``condition`` holds in all processes."""
    return all(gathered(condition))


def require_same(values: Mapping[str, str]) -> None:
    """Refuse to go on where processes do not have the same ``values``, which are named.

    Raises:
        InputError: some differ between processes.
    """
    all_values = gathered(dict(values))
    differing = [name for name in values if len({of[name] for of in all_values}) > 1]
    if differing:
        raise InputError(
            f"the {size()} processes do not have the same {' and '.join(differing)}: start all of "
            "them with the same options, data and model"
        )


def summed(array: "NDArray[Any]") -> "NDArray[Any]":
    """The elementwise sum of all processes' arrays, in place."""
    if size() > 1:
        import torch
        import torch.distributed as dist

        with _lost():
            dist.all_reduce(torch.from_numpy(array))
    return array


def wait_for_all() -> None:
    """Go on once every process is here."""
    if size() > 1:
        import torch.distributed as dist

        with _lost():
            # Not dist.barrier, which takes the GPU where there is one.
            dist.all_gather_object([None] * size(), None)


def gathered(value: Value) -> list[Value]:
    """The ``value`` of each process, in the order of their ranks."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * size()
    with _lost():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def _lost() -> Iterator[None]:
    """Another process that ends in between is named instead of the socket's error."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"process {rank()} lost another process of the training ({one_line(error)}): see what "
            "that one said, then start all again"
        ) from error


# Environment variables that other libraries obey, though nobody set them for this program. Those of
# a launcher (torchrun, accelerate launch, MPI, Kubeflow, Databricks) make accelerate
# wait for processes that nobody started, or change the precision or the device of a training. They
# are refused unless the user asked for several processes. SLURM's own have no effect.

_OFF = ("0", "false", "no", "off", "n", "f")
_ONE = ("1", "0", "-1")

_PROCESSES: dict[str, tuple[str, ...]] = {
    "LOCAL_RANK": ("-1",),
    "WORLD_SIZE": _ONE,
    "PMI_SIZE": _ONE,
    "OMPI_COMM_WORLD_SIZE": _ONE,
    "MV2_COMM_WORLD_SIZE": _ONE,
}
"""By these accelerate becomes one of several processes; the values have no effect."""

_SHARDING: dict[str, tuple[str, ...]] = {
    f"ACCELERATE_USE_{name}": _OFF
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "SAGEMAKER", "PARALLELISM_CONFIG")
}
"""By these it divides the model among processes."""

_TRAINING: dict[str, tuple[str, ...]] = {
    "ACCELERATE_MIXED_PRECISION": ("no",),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    "ACCELERATE_USE_CPU": _OFF,
    "ACCELERATE_TORCH_DEVICE": (),
    "ACCELERATE_CPU_AFFINITY": _OFF,
}
"""Those that change its precision, its compiler, its steps, its device or its cores."""

_SET_BY_LAUNCHERS = ("ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY")
"""Those of them that a launcher may set for the processes that the user asked for."""

_PRECISION: dict[str, tuple[str, ...]] = {
    "ONEDNN_DEFAULT_FPMATH_MODE": ("strict",),
    "DNNL_DEFAULT_FPMATH_MODE": ("strict",),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": _OFF,
}
"""Those that change the precision of every float32 product."""


def check_environment(
    *,
    training: bool = True,
    launched: bool | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Refuse variables that would make a computation another one than its settings say.

    One that is set but empty counts as not set. It is removed from this process's environment, as
    accelerate cannot read it.

    Args:
        training: whether a model is trained, or else only evaluated.
        launched: whether the user asked for the processes of a launcher, by default whether this
            process joined them.
        variables: the environment, by default that of this process.

    Raises:
        InputError: there are such variables; all of a kind are named.
    """
    if variables is None:
        for name in (*_PROCESSES, *_SHARDING, *_TRAINING, *_PRECISION):
            if name in os.environ and not os.environ[name].strip():
                del os.environ[name]
    environment = os.environ if variables is None else variables

    def obeyed(harmless: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [
            name
            for name, values in harmless.items()
            if environment.get(name, "").strip().lower() not in ("", *values)
        ]

    def listed(names: list[str]) -> str:
        return ", ".join(f"{name}={environment[name]}" for name in names)

    launched = joined() if launched is None else launched
    sharding = obeyed(_SHARDING) if training else []
    if sharding:
        raise InputError(
            f"the environment asks for a model divided among processes ({listed(sharding)}), which "
            f"is not supported: each process holds the whole model; unset {' '.join(sharding)}"
        )
    processes = obeyed(_PROCESSES) if training and not launched else []
    if processes:
        raise InputError(
            f"the environment asks for distributed training ({listed(processes)}): give "
            f"{named('distributed')} to lpft train if you want it, or else unset "
            f"{' '.join(processes)} or start without the launcher"
        )
    changed = _TRAINING
    if launched:
        changed = {
            name: values for name, values in changed.items() if name not in _SET_BY_LAUNCHERS
        }
    numerical = [*(obeyed(changed) if training else []), *obeyed(_PRECISION)]
    if numerical:
        raise InputError(
            f"the environment changes the computation ({listed(numerical)}): unset "
            f"{' '.join(numerical)}, and choose the device and precision by the settings"
        )
