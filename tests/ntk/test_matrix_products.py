"""Products of whole gradients against sums of outer products, in parts and in strips."""

import warnings

import pytest
import torch
from threadpoolctl import threadpool_info

from lpft.ntk import matrix_products
from lpft.ntk.matrix_products import parts_of_columns, product, symmetric_product


def normal(*shape: int, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(
        dtype
    )


def threads(monkeypatch, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)


def outer_products(rows):
    """``sum over k of r_k r_k^T``, in float64."""
    return torch.einsum("nk,mk->nm", rows.double(), rows.double())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(40, 50_001), (1, 100), (300, 1000), (9, 5)], ids=str)
def test_the_symmetric_product_in_as_many_parts_as_threads(monkeypatch, shape, count):
    threads(monkeypatch, count)
    monkeypatch.setattr(matrix_products, "_LEAST_WORK", 1)
    rows = normal(*shape)
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
    symmetric_product(normal(100, 10_000), "exact")
    assert counts() == before


def test_numbers_that_are_not_finite_stay_so_without_a_warning(monkeypatch):
    threads(monkeypatch, 2)
    rows = normal(100, 10_000, dtype=torch.float32)
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
    rows = normal(n, 40, dtype=torch.bfloat16).float()
    found = symmetric_product(rows, "bfloat16")
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found.double(), outer_products(rows), rtol=1e-6, atol=1e-5)


def test_the_product_of_different_factors():
    left, right = normal(4, 30), normal(5, 30).flip(0)
    torch.testing.assert_close(
        product(left, right), torch.einsum("nk,mk->nm", left, right), rtol=1e-12, atol=1e-12
    )
