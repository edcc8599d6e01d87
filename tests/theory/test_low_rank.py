"""Proposition 4.4: its closed forms by hand, its inequality by naive loops."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from lpft.errors import InputError
from lpft.theory import (
    MOST_INFORMATIVE_EPSILON,
    check_low_rank,
    first_informative_rank,
    promised_probability,
)


def test_promised_probability_by_hand():
    # eps = 1/2: (1/4 - 1/8) / 4 = 1/32.
    assert promised_probability(32, 0.5) == pytest.approx(1 - 4 / math.e, rel=1e-14)
    assert promised_probability(320, 0.5) == pytest.approx(1 - 4 * math.exp(-10), rel=1e-14)


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.2, 0.3, 0.5, 2 / 3, 0.9, 0.99])
def test_the_first_informative_rank_is_the_smallest_with_a_promise_above_zero(epsilon):
    smallest = next(r for r in range(1, 10_000) if promised_probability(r, epsilon) > 0)
    assert first_informative_rank(epsilon) == smallest


def test_ranks_up_to_37_promise_nothing_at_any_epsilon():
    grid = np.linspace(0.001, 0.999, 999)
    assert max(promised_probability(37, epsilon) for epsilon in grid) < 0
    assert promised_probability(38, MOST_INFORMATIVE_EPSILON) > 0
    assert first_informative_rank(MOST_INFORMATIVE_EPSILON) == 38
    assert min(first_informative_rank(epsilon) for epsilon in grid) == 38


def naive_frequencies(head, inputs, rank, epsilon, sigma, draws, seed):
    """Kernels entry by entry from the models' gradients in B, for the same draws of A."""
    rng = np.random.default_rng(seed)
    outer = head @ head.T
    norm = np.linalg.svd(outer, compute_uv=False)[0]
    held, printed = {}, {}
    for _ in range(draws):
        factor = sigma * rng.normal(size=(rank, inputs.shape[1]))
        for i in range(len(inputs)):
            for j in range(i, len(inputs)):
                lora = (factor @ inputs[i]) @ (factor @ inputs[j]) * outer
                full = inputs[i] @ inputs[j] * outer
                gap = np.linalg.svd(lora - sigma**2 * rank * full, compute_uv=False)[0]
                mean = (inputs[i] @ inputs[i] + inputs[j] @ inputs[j]) / 2
                bound = epsilon * mean * norm
                held.setdefault((i, j), []).append(gap <= sigma**2 * rank * bound)
                printed.setdefault((i, j), []).append(gap <= bound)
    return tuple(min(np.mean(hits) for hits in pair.values()) for pair in (held, printed))


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("rank", [3, 40])
def test_frequencies_against_the_naive_loop(sigma, rank):
    rng = np.random.default_rng(5)
    head, inputs = rng.normal(size=(3, 4)), rng.normal(size=(4, 6))
    (found,) = check_low_rank(
        head,
        inputs,
        ranks=[rank],
        epsilons=[0.3],
        sigma=sigma,
        draws=25,
        rng=np.random.default_rng(9),
    )
    expected = naive_frequencies(head, inputs, rank, 0.3, sigma, 25, 9)
    assert (found.held, found.held_as_printed) == expected
    assert (found.rank, found.epsilon, found.draws, found.pairs) == (rank, 0.3, 25, 10)


def test_a_single_sample_meets_the_chi_square_probability():
    # ||A x||^2 / (sigma^2 ||x||^2) is chi-square with r degrees of freedom.
    rank, epsilon, draws = 64, 0.2, 2000
    (found,) = check_low_rank(
        np.eye(2),
        np.array([[1.0, 2.0, -1.0]]),
        ranks=[rank],
        epsilons=[epsilon],
        sigma=0.3,
        draws=draws,
        rng=np.random.default_rng(0),
    )
    exact = chi2.cdf((1 + epsilon) * rank, rank) - chi2.cdf((1 - epsilon) * rank, rank)
    assert abs(found.held - exact) < 5 * math.sqrt(exact * (1 - exact) / draws)


def check(sigma, ranks=(64, 256), epsilons=(0.3, 0.5)):
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(5, 32))
    head = rng.normal(size=(3, 8))
    return check_low_rank(
        head, inputs, ranks=ranks, epsilons=epsilons, sigma=sigma, draws=200, rng=rng
    )


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_the_corrected_form_holds_at_every_scale_of_the_factor(sigma):
    checks = check(sigma)
    assert len(checks) == 4
    assert all(item.held >= item.promised for item in checks)
    assert [item.vacuous for item in checks] == [True, False, False, False]


def test_the_printed_form_fails_where_sigma_squared_r_is_above_one():
    informative = [item for item in check(1.0) if not item.vacuous]
    assert len(informative) == 3
    assert all(item.held_as_printed < 0.1 < item.promised for item in informative)


def test_the_printed_form_is_the_weaker_one_where_sigma_squared_r_is_below_one():
    assert all(item.held_as_printed >= item.held for item in check(0.01))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [0]}, "rank: expected at least 1, found 0"),
        ({"epsilons": [1.0]}, "epsilon: expected a number between 0 and 1, found 1.0"),
        ({"epsilons": [0.0]}, "epsilon"),
        ({"sigma": 0.0}, "sigma and draws above 0"),
        ({"draws": 0}, "sigma and draws above 0"),
    ],
)
def test_bad_settings_are_refused(change, message):
    arguments = {"ranks": [64], "epsilons": [0.5], "sigma": 1.0, "draws": 2} | change
    with pytest.raises(InputError, match=message):
        check_low_rank(np.eye(2), np.eye(2), rng=np.random.default_rng(0), **arguments)
