"""The methods of training, as rows of one table."""

from dataclasses import dataclass
from typing import Literal

from lpft.errors import InputError, named
from lpft.settings.fields import Need, Setting


@dataclass(frozen=True)
class Method:
    """One way to train a classifier.

    ``trained`` is ``head`` (linear probing only), ``all``, or the name of an adapter in
    :data:`lpft.model.adapters.ADAPTERS`, whose factors are trained together with the head.
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

    def takes(self, setting: Setting) -> bool:
        """Whether a setting has an effect with this method."""
        lacking: set[Need] = set()
        if self.head_start != "lp":
            lacking.add("probing")
        if not self.fine_tunes:
            lacking.add("fine-tuning")
        if self.adapter is None:
            lacking.add("adapter")
        return setting.needs not in lacking


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


AUTO = "auto"
"""In place of a method: train several and keep the one that validation chooses."""


def get_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        InputError: there is no such method, or it is :data:`AUTO`, which stands for several.
    """
    if name == AUTO:
        raise InputError(
            f"{named('method')} auto trains several methods and keeps one, which only lpft train "
            f"and TextClassifier do: name one of {', '.join(METHODS)}"
        )
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)}")
    return METHODS[name]


def with_lp_head(name: str) -> str | None:
    """The method that trains the same parameters as ``name`` but starts from an LP head.

    None if ``name`` starts from an LP head itself, is unknown, or has no such partner.
    """
    method = METHODS.get(name)
    if method is None or method.head_start == "lp":
        return None
    return next(
        (m.name for m in METHODS.values() if m.head_start == "lp" and m.trained == method.trained),
        None,
    )
