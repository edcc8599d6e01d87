"""How kernels are computed: the options of :func:`lpft.ntk.empirical_ntk`, and their checks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from lpft.errors import InputError
from lpft.ntk.memory import parse_size
from lpft.settings import Device, Granularity, KernelKind, LinearMethod, Products


@dataclass(frozen=True)
class Options:
    """How kernels are computed; see :func:`lpft.ntk.empirical_ntk`."""

    method: LinearMethod = "auto"
    kernel: KernelKind = "sgd"
    granularity: Sequence[Granularity] = ()
    products: Products = "exact"
    dtype: torch.dtype = torch.float32
    memory: str | int | None = None
    cache_dir: str | Path | None = None
    device: Device = "auto"
    check_entries: int = 2


_CHOICES = {
    "method": LinearMethod,
    "kernel": KernelKind,
    "products": Products,
    "device": Device,
}
_WHOLE_GRADIENTS: tuple[LinearMethod, ...] = ("auto", "materialize")


def check_options(options: Options) -> None:
    """Refuse what does not exist or does not go together.

    Raises:
        InputError: the message names the option and what is expected.
    """
    for name, choices in _CHOICES.items():
        check_choice(name, getattr(options, name), choices)
    _check_granularity(options.granularity)
    if options.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the dtype {options.dtype} is not supported: expected torch.float32 or torch.float64"
        )
    if options.method not in _WHOLE_GRADIENTS:
        if options.kernel != "sgd":
            raise InputError(
                f"the kernel {options.kernel} takes signs of whole gradients, which the method "
                f"{options.method} of linear weights never forms: expected auto or materialize"
            )
        if options.products != "exact":
            raise InputError(
                f"products {options.products} are of whole gradients, which the method "
                f"{options.method} of linear weights never forms: expected auto or materialize"
            )
    if options.products == "tf32" and options.dtype != torch.float32:
        raise InputError(
            f"products tf32 are of float32 gradients, not of {options.dtype}: use exact or float32"
        )
    count = options.check_entries
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InputError(f"check_entries={options.check_entries!r}: expected a count, 0 or more")
    if not isinstance(options.cache_dir, str | Path | None):
        raise InputError(f"cache_dir={options.cache_dir!r}: expected the path of a folder")
    if options.memory is not None:
        parse_size(options.memory)


def check_choice(name: str, given: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    Raises:
        InputError: the message names the option and its values.
    """
    if given not in get_args(choices):
        expected = ", ".join(get_args(choices))
        raise InputError(f"{name}={given!r} is unknown: expected one of {expected}")


def _check_granularity(given: object) -> None:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(
            f"granularity={given!r}: expected some of {', '.join(get_args(Granularity))} in a tuple"
        )
    for part in given:
        check_choice("granularity", part, Granularity)
    for part, count in Counter(given).items():
        if count > 1:
            raise InputError(f"granularity names {part} twice: name each part once")
