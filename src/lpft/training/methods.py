"""The table of methods: how the head starts, and which parameters then train."""

from dataclasses import dataclass
from typing import Literal

from lpft.errors import InputError


@dataclass(frozen=True)
class Method:
    """One way to train a classifier.

    ``trained`` is ``head`` (nothing but linear probing), ``all``, or the name of an adapter in
    :data:`lpft.model.adapters.ADAPTERS`, whose factors train together with the head.
    """

    name: str
    head_start: Literal["random", "lp"]
    trained: str
    summary: str

    @property
    def fine_tunes(self) -> bool:
        return self.trained != "head"

    @property
    def adapter(self) -> str | None:
        return None if self.trained in ("head", "all") else self.trained


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lp", "lp", "head", "linear probing: logistic regression on frozen features"),
        Method("ft", "random", "all", "fine-tuning of everything from a random head"),
        Method("lp-ft", "lp", "all", "linear probing, then fine-tuning of everything"),
        Method("lora", "random", "lora", "low-rank factors and a random head"),
        Method("lp-lora", "lp", "lora", "linear probing, then low-rank factors and the head"),
        Method("dora", "random", "dora", "weight-decomposed low-rank factors and a random head"),
        Method("lp-dora", "lp", "dora", "linear probing, then weight-decomposed factors"),
    )
}


def with_lp_head(name: str) -> str | None:
    """The method that trains what ``name`` does from an LP head; None where it does so itself.

    None too where there is no such method, or no method ``name``.
    """
    asked = METHODS.get(name)
    if asked is None or asked.head_start == "lp":
        return None
    return next(
        (m.name for m in METHODS.values() if m.head_start == "lp" and m.trained == asked.trained),
        None,
    )


def get_method(name: str) -> Method:
    """The row of ``name``.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)}")
    return METHODS[name]
