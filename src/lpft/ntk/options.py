"""How kernels are computed: the options of jobs, operators and explanations alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from lpft.errors import InputError, named
from lpft.executors import get_executor
from lpft.model.inference import resolve_device, resolve_dtype
from lpft.ntk.memory import parse_size
from lpft.settings.kernels import Granularity, KernelKind, LinearMethod, Products


@dataclass(frozen=True)
class Options:
    """How kernels are computed; see :func:`empirical_ntk`.

    Raises:
        InputError: a value is unknown, or two cannot be combined.
    """

    contraction: LinearMethod = "auto"
    update: KernelKind = "sgd"
    granularity: Granularity | Sequence[Granularity] = ()
    products: Products = "exact"
    dtype: torch.dtype = torch.float32
    memory: str | int | None = None
    cache_dir: str | Path | None = None
    device: str | torch.device = "auto"
    check_entries: int = 2
    check_products: int = 1
    executor: str = "local"
    workers: int = 1

    def __post_init__(self) -> None:
        for name, choices in (
            ("contraction", LinearMethod),
            ("update", KernelKind),
            ("products", Products),
        ):
            _check_choice(name, getattr(self, name), choices)
        if not isinstance(self.granularity, Sequence):
            expected = ", ".join(get_args(Granularity))
            raise InputError(
                f"granularity={self.granularity!r}: expected some of {expected} in a tuple"
            )
        for part in self.parts:
            _check_choice("granularity", part, Granularity)
            if self.parts.count(part) > 1:
                raise InputError(f"granularity names {part} twice: name each part once")
        object.__setattr__(self, "dtype", resolve_dtype(self.dtype))
        resolve_device(self.device)
        if self.contraction not in ("auto", "materialize"):
            reasons = {
                f"the update {self.update} takes signs": self.update != "sgd",
                f"products {self.products} are": self.products != "exact",
            }
            conflicts = [reason for reason, holds in reasons.items() if holds]
            if conflicts:
                raise InputError(
                    f"{conflicts[0]} of whole gradients, which the contraction {self.contraction} "
                    "of linear weights never forms: expected auto or materialize"
                )
        if self.products == "tf32" and self.dtype != torch.float32:
            raise InputError(
                f"products tf32 are of float32 gradients, not of {self.dtype}: use exact or float32"
            )
        for name in ("check_entries", "check_products"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise InputError(f"{name}={count!r}: expected a count, 0 or more")
        if not isinstance(self.cache_dir, str | Path | None):
            raise InputError(f"cache_dir={self.cache_dir!r}: expected the path of a folder")
        if self.memory is not None:
            parse_size(self.memory)
        self._check_workers()

    def _check_workers(self) -> None:
        count = self.workers
        if not isinstance(count, int) or isinstance(count, bool):
            raise InputError(f"workers={count!r}: expected a count, 1 or more")
        get_executor(self.executor, count)
        if not self.shared:
            return
        if self.cache_dir is None:
            raise InputError(
                f"{named('workers')} {count} with {named('executor')} {self.executor} leave their "
                "pieces in a folder that all of them see: name one by cache_dir"
            )
        if torch.device(resolve_device(self.device)).index is not None:
            raise InputError(
                f"device {self.device} is one for all workers: give cuda, so that each has its own"
            )

    @property
    def shared(self) -> bool:
        """Whether other processes compute the pieces."""
        return self.workers > 1 or self.executor != "local"

    @property
    def parts(self) -> tuple[Granularity, ...]:
        """The parts that the kernel is split into, as a tuple."""
        granularity = self.granularity
        return (granularity,) if isinstance(granularity, str) else tuple(granularity)


def _check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s."""
    if value not in get_args(choices):
        expected = ", ".join(get_args(choices))
        raise InputError(f"{name}={value!r} is unknown: expected one of {expected}")
