"""Environment variables that other libraries obey and a user of this one did not set for it.

A launcher's variables (torchrun, accelerate launch, MPI, Kubeflow's and Databricks' templates) make
accelerate wait for processes that nobody started, or change the precision or the device of a
training. They are refused by name, unless the user asked for several processes. SLURM's own
variables have no effect.
"""

import os
from collections.abc import Mapping

from lpft import distributed
from lpft.errors import InputError, named

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

_OF_LAUNCHED = ("ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY")
"""Those of them that a launcher may set for the processes that the user asked for."""

_PRECISION: dict[str, tuple[str, ...]] = {
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", "strict"),
    "DNNL_DEFAULT_FPMATH_MODE": ("", "strict"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("", *_OFF),
}
"""Those that change the precision of every float32 product."""


def check_environment(
    *,
    training: bool = True,
    launched: bool | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Refuse variables that would make a computation another one than its settings say.

    Args:
        training: whether a model is trained, or else only evaluated.
        launched: whether the user asked for the processes of a launcher, by default whether this
            process joined them.
        variables: the environment, by default that of this process.

    Raises:
        InputError: there are such variables; all of a kind are named.
    """
    environment = os.environ if variables is None else variables

    def obeyed(harmless: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [
            name
            for name, values in harmless.items()
            if name in environment and environment[name].strip().lower() not in values
        ]

    def listed(names: list[str]) -> str:
        return ", ".join(f"{name}={environment[name]}" for name in names)

    launched = distributed.joined() if launched is None else launched
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
        changed = {name: values for name, values in changed.items() if name not in _OF_LAUNCHED}
    others = [*(obeyed(changed) if training else []), *obeyed(_PRECISION)]
    if others:
        raise InputError(
            f"the environment changes the computation ({listed(others)}): unset "
            f"{' '.join(others)}, and choose the device and precision by the settings"
        )
