"""From the shares of tiles in a unit's parameters to sums by request, part and pair of tiles."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lpft.ntk.capture import Contribution, Outer
from lpft.ntk.contraction import Contraction, Sums, contract_vectors
from lpft.ntk.cost import Shape, cheapest_method, method_cost
from lpft.ntk.embedding_rows import contract_rows
from lpft.ntk.heads import HeadRows
from lpft.ntk.layout import Pair
from lpft.ntk.linear import contract_outer
from lpft.ntk.plan import Plan
from lpft.ntk.structure import Parameter
from lpft.ntk.tile_shares import outers_of_tile, rows_of_tile, vectors_of_tile
from lpft.settings import Granularity

TOTAL = "total"
Shares = dict[str, list[Contribution | None]]
"""By parameter: a tile's shares, one per batch; None where no gradient reaches it."""


@dataclass(frozen=True)
class Request:
    """A kernel to compute: for which head, and over which of the encoder's parameters."""

    name: str
    head: HeadRows
    parameters: frozenset[str]


def distinct_heads(requests: Sequence[Request]) -> list[HeadRows]:
    """The heads of the requests, each once."""
    return list({id(request.head): request.head for request in requests}.values())


class Contractor:
    """Contracts what the passes leave, for all requests at once.

    A part is ``total``, or in ``detailed`` blocks of groups also ``layer:...`` or ``kind:...``.
    ``done`` is told the flops of every contraction.
    """

    def __init__(
        self,
        plan: Plan,
        requests: Sequence[Request],
        granularity: Sequence[Granularity],
        detailed: Collection[Pair],
        contraction: Contraction,
        done: Callable[[float], None],
    ) -> None:
        self._plan = plan
        self._requests = requests
        self._granularity = granularity
        self._detailed = detailed
        self._contraction = contraction
        self._done = done
        self._heads = {id(h): number for number, h in enumerate(distinct_heads(requests))}

    def sums(
        self,
        wanted: Sequence[Parameter],
        held: Mapping[int, Shares],
        pairs: Sequence[Pair],
        *,
        consume: bool,
    ) -> dict[Pair, dict[str, Tensor]]:
        """The sums of the wanted parameters, by pair of tiles and ``request|part``.

        Each is (r n) x (r m), float64, for the r seeds of the request's head. ``held`` are the
        shares by tile; those that were contracted are forgotten if they may be consumed.
        """
        total: dict[Pair, dict[str, Tensor]] = {pair: {} for pair in pairs}
        for request in self._requests:
            of_request = [p for p in wanted if p.name in request.parameters]
            rank = request.head.rank
            for i, j in pairs:
                rows, columns = (rank * len(self._plan.tiles[tile].rows) for tile in (i, j))
                for part in [TOTAL, *(part for p in of_request for part in self._parts(p, (i, j)))]:
                    total[i, j][f"{request.name}|{part}"] = torch.zeros(
                        rows, columns, dtype=torch.float64, device=self._plan.device
                    )
        for group in self._together(wanted):
            sums = self._contract(group, held, pairs, consume=consume)
            for request in self._requests:
                if group[0].name in request.parameters:
                    head = self._heads[id(request.head)]
                    for pair in pairs:
                        if (pair, head) in sums:
                            for part in [TOTAL, *self._parts(group[0], pair)]:
                                total[pair][f"{request.name}|{part}"] += sums[pair, head]
        # From an accelerator once for all of the parameters.
        return {
            pair: {name: values.cpu() for name, values in piece.items()}
            for pair, piece in total.items()
        }

    def _together(self, wanted: Sequence[Parameter]) -> Iterator[list[Parameter]]:
        """Vectors that count for the same parts side by side, everything large alone."""
        vectors: dict[object, list[Parameter]] = {}
        for parameter in wanted:
            if parameter.form == "vector" and parameter.name not in self._plan.structure.direct:
                asking = tuple(r.name for r in self._requests if parameter.name in r.parameters)
                key = (asking, parameter.layer, parameter.kind)
                vectors.setdefault(key, []).append(parameter)
            else:
                yield [parameter]
        yield from vectors.values()

    def _contract(
        self,
        group: Sequence[Parameter],
        held: Mapping[int, Shares],
        pairs: Sequence[Pair],
        *,
        consume: bool,
    ) -> Sums:
        """One linear weight, one embedding, or several vectors side by side."""
        first = group[0]
        among = self._plan.demand.heads_of[first.name]
        present = {
            tile
            for tile, shares in held.items()
            if any(share is not None for p in group for share in shares.get(p.name, ()))
        }
        live = [pair for pair in pairs if set(pair) <= present]
        if not live or not among:
            return {}
        tiles = {tile: self._plan.tiles[tile] for tile in {tile for pair in live for tile in pair}}
        nothing = {number: [None] * len(tile.batches) for number, tile in tiles.items()}
        take = dict.pop if consume else dict.get
        shares = {
            number: [take(held[number], p.name, nothing[number]) for p in group] for number in tiles
        }
        if first.form == "outer":
            outers = {n: outers_of_tile(tile, shares[n][0]) for n, tile in tiles.items()}
            return self._linear(first, outers, live, among)
        if first.form == "rows":
            counts = {number: len(tile.rows) for number, tile in tiles.items()}
            rows = {n: rows_of_tile(tile, shares.pop(n)[0]) for n, tile in tiles.items()}
            return contract_rows(rows, counts, live, among, self._contraction)
        sizes = [parameter.sizes[1] for parameter in group]
        vectors = {
            n: vectors_of_tile(tile, list(zip(shares.pop(n), sizes, strict=True)))
            for n, tile in tiles.items()
        }
        return contract_vectors(vectors, live, among, self._contraction)

    def _linear(
        self,
        parameter: Parameter,
        outers: Mapping[int, Sequence[Outer]],
        pairs: Sequence[Pair],
        among: Sequence[int],
    ) -> Sums:
        """A linear weight by the method that costs least for the tokens that its texts have."""
        shapes = {tile: _shape(batches) for tile, batches in outers.items()}
        ranks, kernel = self._contraction.ranks(among), self._contraction.kernel
        method = self._plan.demand.method
        if method is None:
            method = cheapest_method(parameter.sizes, shapes, pairs, ranks, kernel)
        sums = contract_outer(outers, pairs, among, method, self._contraction)
        self._done(sum(method_cost(method, parameter.sizes, shapes, pairs, ranks, kernel)))
        return sums

    def _parts(self, parameter: Parameter, pair: Pair) -> list[str]:
        """The parts of a pair of tiles that a parameter counts for, beside the total."""
        rows, columns = (self._plan.tiles[tile].group for tile in pair)
        if (rows, columns) not in self._detailed:
            return []
        names = {"layer": parameter.layer, "kind": parameter.kind}
        return [f"{by}:{names[by]}" for by in self._granularity]


def _shape(batches: Sequence[Outer]) -> Shape:
    samples = sum(outer.inputs.shape[0] for outer in batches)
    tokens = sum(outer.inputs.shape[0] * outer.inputs.shape[1] for outer in batches)
    return Shape(samples, tokens / samples)
