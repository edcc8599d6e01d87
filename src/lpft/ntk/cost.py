"""What each exact method of contracting a linear weight costs, and which one costs least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lpft.ntk.layout import Pair
from lpft.settings import KernelKind

Method = Literal["materialize", "token_gram", "sandwich"]
METHODS: tuple[Method, ...] = get_args(Method)

_ELEMENTWISE_FLOPS = 50
"""What an element that is formed, read again and summed costs, in flops of a matrix product that
take as long."""


@dataclass(frozen=True)
class Shape:
    """Samples n of a tile and the tokens T of each that a weight sees."""

    samples: int
    tokens: float


def method_cost(
    method: Method,
    sizes: tuple[int, int],
    tiles: Mapping[int, Shape],
    pairs: Sequence[Pair],
    ranks: Sequence[int],
    kernel: KernelKind = "sgd",
) -> tuple[float, float]:
    """Flops to form J, and flops (or their equivalent) to contract, of one linear weight (a, b).

    Materialising costs ``2 N S T a b`` and ``2 N M r^2 a b``; the token Gram
    ``2 N T M T' (a + r^2 b)``; the sandwich ``2 N M (T T' a + S T T' b + r^2 T b)``, for heads of
    ``ranks`` r with S seeds in all. A tile with itself takes half, unless the kernel is asymmetric.
    """
    a, b = sizes
    seeds, squares = sum(ranks), sum(rank**2 for rank in ranks)
    forming = contracting = 0.0
    if method == "materialize":
        for tile in {tile for pair in pairs for tile in pair}:
            forming += 2 * seeds * tiles[tile].samples * tiles[tile].tokens * a * b
    for i, j in pairs:
        n, m = tiles[i].samples, tiles[j].samples
        t, s = tiles[i].tokens, tiles[j].tokens
        share = 1 if i == j and kernel != "asymmetric" else 2
        if method == "materialize":
            contracting += share * n * m * squares * a * b
        elif method == "token_gram":
            elementwise = _ELEMENTWISE_FLOPS * squares / 2
            contracting += share * n * t * m * s * (a + squares * b + elementwise)
        else:
            contracting += share * n * m * t * (s * a + seeds * s * b + squares * b)
            contracting += share * n * m * t * (s + seeds * b) * _ELEMENTWISE_FLOPS / 2
    return forming, contracting


def cheapest_method(
    sizes: tuple[int, int],
    tiles: Mapping[int, Shape],
    pairs: Sequence[Pair],
    ranks: Sequence[int],
    kernel: KernelKind = "sgd",
) -> Method:
    """The method of least cost; kernels of signs need the whole gradient."""
    if kernel != "sgd":
        return "materialize"
    return min(METHODS, key=lambda method: sum(method_cost(method, sizes, tiles, pairs, ranks)))
