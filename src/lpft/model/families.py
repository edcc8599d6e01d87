"""What differs between model families: the pooled token and the names of attention projections."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lpft.errors import InputError
from lpft.settings import Pooling


@dataclass(frozen=True)
class Family:
    """A model family that the tests train, with the modules that LoRA adapts in it."""

    model_type: str
    kind: Literal["encoder", "decoder"]
    adapted: tuple[str, ...]
    fused: bool = False

    @property
    def pooling(self) -> Pooling:
        return "first" if self.kind == "encoder" else "last"

    @property
    def adapted_text(self) -> str:
        names = ", ".join(self.adapted)
        return f"{names} (fused: query, key and value are all adapted)" if self.fused else names


TESTED_FAMILIES = (
    Family("bert", "encoder", ("query", "value")),
    Family("roberta", "encoder", ("query", "value")),
    Family("distilbert", "encoder", ("q_lin", "v_lin")),
    Family("albert", "encoder", ("query", "value")),
    Family("deberta-v2", "encoder", ("query_proj", "value_proj")),
    Family("modernbert", "encoder", ("Wqkv",), fused=True),
    Family("gpt2", "decoder", ("c_attn",), fused=True),
    Family("llama", "decoder", ("q_proj", "v_proj")),
)

_PROJECTION_NAMES = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("Wqkv",),
    ("qkv_proj",),
    ("query_key_value",),
    ("in_proj",),
)


def query_value_projections(module_names: Iterable[str]) -> tuple[str, ...]:
    """The last parts of the module names that are the query and value projections of attention.

    Where a family fuses query, key and value into one projection, that one is returned and LoRA
    adapts the keys too.

    Raises:
        InputError: none of the known names occurs.
    """
    last_parts = {name.rpartition(".")[2] for name in module_names}
    for names in _PROJECTION_NAMES:
        if last_parts.issuperset(names):
            return names
    known = ", ".join("/".join(names) for names in _PROJECTION_NAMES)
    raise InputError(
        f"this model has no query and value projections of a known name (known: {known}), "
        "so LoRA cannot be placed: use --method lp, ft or lp-ft"
    )
