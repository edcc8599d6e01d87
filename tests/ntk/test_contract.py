"""Contractions of random shares against the Jacobians that they stand for, in little room.

And the matrix products below them, in parts and in strips, against sums of outer products.
"""

import warnings

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from lpft.ntk import contract
from lpft.ntk.capture import Outer, Rows
from lpft.ntk.contract import (
    Contraction,
    Workspace,
    contract_outer,
    contract_rows,
    contract_tied,
    contract_vectors,
    parts_of_columns,
    product,
    symmetric_product,
)
from lpft.ntk.plan import METHODS

HEADS = (slice(0, 2), slice(2, 3), slice(3, 6))
SEEDS = 6
PAIRS = ((0, 0), (0, 1), (1, 1), (2, 1))
BATCHES = {0: [(3, 4), (2, 4), (1, 2)], 1: [(4, 3)], 2: [(2, 5), (2, 1)]}
"""Per tile: texts and tokens of its batches."""
COUNTS = {tile: sum(n for n, _ in batches) for tile, batches in BATCHES.items()}
SMALL, LARGE = 400, 1 << 20


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def contraction(kernel="sgd", size=LARGE, products="exact"):
    return Contraction(HEADS, kernel, products, Workspace(size, torch.float64, torch.device("cpu")))


def outers(a: int, b: int) -> dict[int, list[Outer]]:
    return {
        tile: [
            Outer(
                normal(n, t, a, seed=100 * tile + place),
                [normal(n, t, b, seed=100 * tile + 10 * place + s + 50) for s in range(SEEDS)],
            )
            for place, (n, t) in enumerate(batches)
        ]
        for tile, batches in BATCHES.items()
    }


def contracted(contract, shares, among, by, *arguments, pairs=PAIRS, counts=COUNTS):
    """What a contraction of shares adds to zeros."""
    sums = by.zero_sums(counts, pairs, among)
    contract(sums, shares, *arguments, by)
    return sums


def jacobians(shares: dict[int, list[Outer]]) -> dict[int, Tensor]:
    """Per tile S x n x (a b): ``g^T x`` of every text."""
    return {
        tile: torch.cat(
            [
                torch.stack(
                    [torch.einsum("ntb,nta->nba", g, outer.inputs) for g in outer.gradients]
                ).flatten(2)
                for outer in batches
            ],
            1,
        )
        for tile, batches in shares.items()
    }


def expected(rows: Tensor, columns: Tensor, head: int, kernel: str) -> Tensor:
    left, right = rows[HEADS[head]].flatten(0, 1), columns[HEADS[head]].flatten(0, 1)
    left = left.sign() if kernel == "signgd" else left
    return left @ (right if kernel == "sgd" else right.sign()).T


def assert_sums(found, jacobian, among, kernel="sgd"):
    assert set(found) == {(pair, head) for pair in PAIRS for head in among}
    for ((i, j), head), sums in found.items():
        assert sums.dtype == torch.float64
        torch.testing.assert_close(
            sums, expected(jacobian[i], jacobian[j], head, kernel), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("among", [(0, 1, 2), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("sizes", [(7, 5), (4, 9), (1, 6)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_linear_weights_by_every_method(method, sizes, among, size):
    shares = outers(*sizes)
    by = contraction(size=size)
    found = contracted(contract_outer, shares, among, by, method)
    assert_sums(found, jacobians(shares), among)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kernel", ["signgd", "asymmetric"])
def test_signs_of_linear_weights(kernel, size):
    shares = outers(7, 5)
    found = contracted(contract_outer, shares, (0, 2), contraction(kernel, size), "materialize")
    assert_sums(found, jacobians(shares), (0, 2), kernel)


def test_many_texts_meet_themselves_by_half():
    """Strips of the diagonal: none is left out, none counts twice."""
    for method in METHODS:
        for n in (1, 2, 5, 6, 7, 13):
            share = Outer(normal(n, 2, 3, seed=n), [normal(n, 2, 4, seed=s) for s in range(SEEDS)])
            found = contracted(
                contract_outer,
                {0: [share]},
                (0,),
                contraction(),
                method,
                pairs=[(0, 0)],
                counts={0: n},
            )
            jacobian = jacobians({0: [share]})[0]
            torch.testing.assert_close(
                found[(0, 0), 0], expected(jacobian, jacobian, 0, "sgd"), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kernel", ["sgd", "signgd", "asymmetric"])
def test_vectors(kernel, size):
    vectors = {
        tile: normal(SEEDS, sum(n for n, _ in batches), 23, seed=tile)
        for tile, batches in BATCHES.items()
    }
    before = {tile: vector.clone() for tile, vector in vectors.items()}
    found = contracted(contract_vectors, vectors, (0, 1, 2), contraction(kernel, size))
    assert_sums(found, before, (0, 1, 2), kernel)
    assert all(torch.equal(vectors[tile], before[tile]) for tile in vectors)


VOCABULARY = 6 + max(COUNTS.values())


def looked_up(width: int) -> tuple[dict[int, Rows], dict[int, Tensor]]:
    """Rows by tile with ids in many samples of it, in one, and in none; and J of them."""
    rows, jacobian = {}, {}
    for tile, count in COUNTS.items():
        table = torch.zeros(SEEDS, count, VOCABULARY, width, dtype=torch.float64)
        places = [(s, v) for s in range(count) for v in range(6) if (s * 7 + v * tile) % 3]
        places += [(s, 6 + s) for s in range(count)]
        vectors = normal(SEEDS, len(places), width, seed=tile + 30)
        samples, ids = (torch.tensor(column) for column in zip(*places, strict=True))
        table[:, samples, ids] = vectors
        rows[tile], jacobian[tile] = Rows(ids, samples, vectors), table.flatten(2)
    return rows, jacobian


@pytest.mark.parametrize("kernel", ["sgd", "signgd", "asymmetric"])
def test_rows_meet_where_ids_are_equal(kernel):
    rows, jacobian = looked_up(3)
    found = contracted(contract_rows, rows, (0, 2), contraction(kernel))
    assert_sums(found, jacobian, (0, 2), kernel)


@pytest.mark.parametrize("among", [(0, 1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("width", [3, 2 * VOCABULARY])
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kernel", ["sgd", "signgd", "asymmetric"])
def test_an_embedding_that_is_a_linear_weight_as_well(kernel, size, width, among):
    rows, jacobian = looked_up(width)
    shares = outers(width, VOCABULARY)
    both = {tile: (shares[tile], rows[tile]) for tile in shares}
    found = contracted(contract_tied, both, among, contraction(kernel, size))
    sums = {tile: of + jacobian[tile] for tile, of in jacobians(shares).items()}
    assert_sums(found, sums, among, kernel)


@pytest.mark.parametrize("among", [(0, 1, 2), (1,)], ids=str)
@pytest.mark.parametrize("kernel", ["sgd", "signgd", "asymmetric"])
def test_the_workspace_keeps_to_its_size(kernel, among):
    """Every contraction uses one buffer, of what the heads that are asked for take."""
    by = contraction(kernel, size=1000)
    vectors = {tile: normal(SEEDS, 6, 300, seed=tile) for tile in range(2)}
    contracted(contract_vectors, vectors, among, by, pairs=[(0, 1)], counts={0: 6, 1: 6})
    methods = METHODS if kernel == "sgd" else ("materialize",)
    for method in methods:
        for pair in PAIRS:
            shares = {tile: share for tile, share in outers(40, 3).items() if tile in pair}
            contracted(contract_outer, shares, among, by, method, pairs=[pair])
    assert 0 < by.workspace._buffer.numel() <= 1000 + 2 * 16


def test_tensors_of_the_workspace_do_not_overlap():
    workspace = Workspace(100, torch.float32, torch.device("cpu"))
    first = workspace.split({3: (2, 5), 7: (3,), 9: (4, 4)})
    for value, tensor in enumerate(first.values()):
        tensor.fill_(value)
    assert [tuple(tensor.shape) for tensor in first.values()] == [(2, 5), (3,), (4, 4)]
    assert [tensor.unique().tolist() for tensor in first.values()] == [[0.0], [1.0], [2.0]]
    assert workspace.split({0: (4,)})[0].data_ptr() == first[3].data_ptr()


def test_bfloat16_products_are_near():
    shares = outers(64, 32)
    found = contracted(
        contract_outer, shares, (0,), contraction(products="bfloat16"), "materialize"
    )
    jacobian = jacobians(shares)
    for ((i, j), head), sums in found.items():
        exact = expected(jacobian[i], jacobian[j], head, "sgd")
        error = torch.linalg.vector_norm(sums - exact) / torch.linalg.vector_norm(exact)
        assert 1e-5 < error < 1e-2


@pytest.mark.parametrize("kernel", ["sgd", "asymmetric"])
def test_bfloat16_products_are_summed_in_float32(kernel):
    """Only the factors are rounded: their products would lose two digits more."""
    shares = {
        tile: [Outer(o.inputs.float(), [g.float() for g in o.gradients]) for o in batches]
        for tile, batches in outers(64, 32).items()
    }
    by = Contraction(
        HEADS, kernel, "bfloat16", Workspace(LARGE, torch.float32, torch.device("cpu"))
    )
    jacobian = {tile: j.bfloat16().double() for tile, j in jacobians(shares).items()}
    for ((i, j), head), sums in contracted(
        contract_outer, shares, (0, 2), by, "materialize"
    ).items():
        rounded = expected(jacobian[i], jacobian[j], head, kernel)
        error = torch.linalg.vector_norm(sums - rounded) / torch.linalg.vector_norm(rounded)
        # A sum in another order may round a factor the other way; one to bfloat16 errs by 1e-3.
        assert error < 1e-4
    vectors = {tile: normal(SEEDS, 4, 50, seed=tile).float() for tile in range(2)}
    before = {tile: vector.clone() for tile, vector in vectors.items()}
    contracted(contract_vectors, vectors, (0,), by, pairs=[(0, 1)], counts={0: 4, 1: 4})
    assert all(torch.equal(vectors[tile], before[tile]) for tile in vectors)


def test_copies_of_the_gradients_share_the_workspace():
    """One copy is rounded or signed in place; the asymmetric kernel has its signs beside."""
    for products in ("exact", "bfloat16"):
        columns = [
            contraction(kernel, size=1200, products=products).columns(10)
            for kernel in ("sgd", "signgd", "asymmetric")
        ]
        assert columns == [120, 120, 60]


def threads(monkeypatch, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)


def outer_products(rows):
    """``sum over k of r_k r_k^T``, in float64."""
    return torch.einsum("nk,mk->nm", rows.double(), rows.double())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(40, 50_001), (1, 100), (300, 1000), (9, 5)], ids=str)
def test_the_symmetric_product_in_as_many_parts_as_threads(monkeypatch, shape, count):
    threads(monkeypatch, count)
    monkeypatch.setattr(contract, "_LEAST_WORK", 1)
    rows = normal(*shape, seed=3)
    found = symmetric_product(rows, "exact")
    torch.testing.assert_close(found, outer_products(rows), rtol=1e-12, atol=1e-9)
    assert torch.equal(found, found.T)
    assert torch.equal(found, symmetric_product(rows, "exact")), "the same bits every time"


def test_parts_by_hand(monkeypatch):
    threads(monkeypatch, 4)
    assert parts_of_columns(750, 100_000) == 4
    assert parts_of_columns(1000, 3500) == 3, "a fourth product would need more than the factors"
    assert parts_of_columns(1000, 999) == 1
    assert parts_of_columns(10, 1000) == 1, "too little for threads"
    threads(monkeypatch, 1)
    assert parts_of_columns(750, 100_000) == 1


def test_the_threads_of_the_blas_are_as_before(monkeypatch):
    def counts():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    threads(monkeypatch, 2)
    before = counts()
    symmetric_product(normal(100, 10_000, seed=3), "exact")
    assert counts() == before


def test_numbers_that_are_not_finite_stay_so_without_a_warning(monkeypatch):
    threads(monkeypatch, 2)
    rows = normal(100, 10_000, seed=3).float()
    rows[3, 7], rows[4] = torch.inf, 1e30
    rows[4, 5000:], rows[5], rows[5, 5000:] = 1e30, 1e30, -1e30  # inf - inf, from part to part
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = symmetric_product(rows, "exact")
    assert not found[3].isfinite().any()
    assert found[4, 4] == torch.inf
    assert found[4, 5].isnan()
    assert found[:3, :3].isfinite().all()


@pytest.mark.parametrize("n", [1, 5, 6, 7, 50])
def test_strips_of_rounded_numbers(n):
    """A CPU's numbers are rounded before, so that products in bfloat16 lose nothing but sums."""
    rows = normal(n, 40, seed=3).bfloat16().float()
    found = symmetric_product(rows, "bfloat16")
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found.double(), outer_products(rows), rtol=1e-6, atol=1e-5)


def test_the_product_of_different_factors():
    left, right = normal(4, 30, seed=3), normal(5, 30, seed=4)
    torch.testing.assert_close(
        product(left, right), torch.einsum("nk,mk->nm", left, right), rtol=1e-12, atol=1e-12
    )
