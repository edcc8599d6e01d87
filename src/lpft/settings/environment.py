"""Environment variables that other libraries obey and a user of this one did not set for it.

A launcher's variables (torchrun, accelerate launch, MPI, Kubeflow's and Databricks' templates) make
accelerate wait for processes that nobody started, or change the precision or the device of a
training. They are refused by name; nothing here reads them. SLURM's own variables have no effect.
"""

import os
from collections.abc import Mapping

from lpft.errors import InputError

_OFF = ("0", "false", "no", "off", "n", "f")
_ONE = ("1", "0", "-1")

_PROCESSES: dict[str, tuple[str, ...]] = {
    "LOCAL_RANK": ("-1",),
    "WORLD_SIZE": _ONE,
    "PMI_SIZE": _ONE,
    "OMPI_COMM_WORLD_SIZE": _ONE,
    "MV2_COMM_WORLD_SIZE": _ONE,
    **{
        f"ACCELERATE_USE_{name}": _OFF
        for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "SAGEMAKER", "PARALLELISM_CONFIG")
    },
}
"""By these accelerate becomes one of several processes; the values have no effect."""

_TRAINING: dict[str, tuple[str, ...]] = {
    "ACCELERATE_MIXED_PRECISION": ("no",),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    "ACCELERATE_USE_CPU": _OFF,
    "ACCELERATE_TORCH_DEVICE": (),
    "ACCELERATE_CPU_AFFINITY": _OFF,
}
"""Those that change its precision, its compiler, its steps, its device or its cores."""

_PRECISION: dict[str, tuple[str, ...]] = {
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", "strict"),
    "DNNL_DEFAULT_FPMATH_MODE": ("", "strict"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("", *_OFF),
}
"""Those that change the precision of every float32 product."""


def check_environment(*, training: bool = True, variables: Mapping[str, str] | None = None) -> None:
    """Refuse variables that would make a computation another one than its settings say.

    Args:
        training: whether a model is trained, or else only evaluated.
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

    processes = obeyed(_PROCESSES) if training else []
    if processes:
        raise InputError(
            f"the environment asks for distributed training ({listed(processes)}), which is not "
            "supported: a training is one process on one machine; unset "
            f"{' '.join(processes)}, or start without the launcher"
        )
    others = [*(obeyed(_TRAINING) if training else []), *obeyed(_PRECISION)]
    if others:
        raise InputError(
            f"the environment changes the computation ({listed(others)}): unset "
            f"{' '.join(others)}, and choose the device and precision by the settings"
        )
