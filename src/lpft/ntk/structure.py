"""What the planner and the sweep know of an encoder: its chain, its parameters, their places."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lpft.ntk.chain import Chain
from lpft.ntk.passes import Modules
from lpft.ntk.rules import Rule
from lpft.settings import Granularity

Kind = Literal["embeddings", "attention", "feed-forward", "LayerNorm", "bias"]
Form = Literal["outer", "rows", "vector"]


@dataclass(frozen=True)
class Parameter:
    """A wanted parameter: where it acts, and the sizes of its share of one text.

    ``layer`` is "embeddings", "layer 3" or "final" (joined where a parameter is shared), ``kind``
    the part of a transformer that it belongs to. A linear weight has ``sizes`` (a, b) and reaches
    ``tokens_per_token`` of a text's tokens, or one token where ``pooled``; another has (0, d).
    """

    name: str
    positions: tuple[int, ...]
    layer: str
    kind: Kind
    form: Form
    sizes: tuple[int, int]
    tokens_per_token: float
    pooled: bool
    fallback: bool

    def numbers_per_token(self, seeds: int) -> int:
        """What its uses leave of one token in inputs and in the gradients of all seeds."""
        a, b = self.sizes
        return 0 if self.form == "vector" else len(self.positions) * (a + seeds * b)


@dataclass(frozen=True)
class Structure:
    """What a trial found; ``units`` are runs of positions that share no parameter with others.

    ``direct`` parameters get their gradient from autograd, one text at a time: tables that are
    used whole, as DeBERTa's relative positions are, and the ``fallback``, which no rule knows.
    ``unreached`` ones had no gradient on the texts of the trial.

    ``widths`` are, per position, the numbers that one token leaves in inputs and in one seed's
    gradients; ``extras`` those that a batch leaves in one seed's gradients at the blocks' further
    arguments; ``forward_flops`` those of a forward pass per token.
    """

    chain: Chain | None
    batched: bool
    modules: Modules
    direct: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    unreached: tuple[str, ...]
    units: tuple[range, ...]
    widths: tuple[tuple[int, int], ...]
    extras: int
    forward_flops: float

    @property
    def fallback(self) -> tuple[str, ...]:
        """The parameters of no known kind, for which autograd is the only way."""
        return tuple(parameter.name for parameter in self.parameters if parameter.fallback)

    def of_unit(self, unit: int) -> list[Parameter]:
        """The parameters that act in a unit."""
        return [p for p in self.parameters if p.positions[0] in self.units[unit]]

    def parts(self, granularity: Sequence[Granularity]) -> int:
        """How many parts a kernel is split into beside its total."""
        return sum(len({getattr(p, by) for p in self.parameters}) for by in granularity)


def units_of(positions: int, shared: Iterable[Sequence[int]]) -> tuple[range, ...]:
    """Runs of positions, last first, cut wherever no parameter acts on both sides.

    ``shared`` are the positions of each parameter.
    """
    spans = [(min(places), max(places)) for places in shared]
    cuts = [cut for cut in range(1, positions) if not any(low < cut <= high for low, high in spans)]
    edges = [0, *cuts, positions]
    return tuple(range(start, stop) for start, stop in pairwise(edges))[::-1]


def layer_of(places: Sequence[int], positions: int) -> str:
    """The name of the layer, or of the first and last one, that a chain's positions stand for."""

    def name(place: int) -> str:
        if place == 0:
            return "embeddings"
        return "final" if place == positions - 1 else f"layer {place - 1}"

    if len(places) == 1:
        return name(places[0])
    return f"{name(places[0])} to {name(places[-1]).removeprefix('layer ')}"


def kind_of(name: str, form: Form, rule: Rule | None, *, before_blocks: bool) -> Kind:
    """The part of a transformer that a parameter belongs to, by the field's names of modules."""
    if name.endswith("bias"):
        return "bias"
    if form == "rows" or (before_blocks and rule is not Rule.SCALE):
        return "embeddings"
    if rule is Rule.SCALE:
        return "LayerNorm"
    return "attention" if "att" in name.lower() else "feed-forward"
