"""The models that lpft is tested with, named without loading one."""

from dataclasses import dataclass

from lpft.settings import Pooling

MINILM_DESCRIPTION = "sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide, Apache-2.0)"


@dataclass(frozen=True)
class Family:
    """A model family that the tests train: its default pooling, and the modules LoRA adapts."""

    model_type: str
    pooling: Pooling
    adapted: tuple[str, ...]
    fused: bool = False


TESTED_FAMILIES = (
    Family("bert", "first", ("query", "value")),
    Family("roberta", "first", ("query", "value")),
    Family("distilbert", "first", ("q_lin", "v_lin")),
    Family("albert", "first", ("query", "value")),
    Family("deberta-v2", "first", ("query_proj", "value_proj")),
    Family("modernbert", "first", ("Wqkv",), fused=True),
    Family("gpt2", "last", ("c_attn",), fused=True),
    Family("llama", "last", ("q_proj", "v_proj")),
)
