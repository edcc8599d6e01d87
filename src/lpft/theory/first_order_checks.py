"""Proposition 4.1 on a small transformer: the first-order prediction's error as the rate falls."""

from collections.abc import Iterator
from itertools import pairwise

import torch

from lpft.ntk.dynamics import FirstOrderError, FirstStep
from lpft.theory.check import TheoryCheck
from lpft.theory.random_bert import CLASSES, TEXTS, random_bert, random_tokens

TRAININGS = (("all parameters", None, 1e-5), ("LoRA of rank 4", 4, 1e-2))
"""What trains, the rank, and a rate at which the prediction errs by about a hundredth."""

DECADES = 3
LEAST_FALL = 8.0
"""Of the error, where the rate falls 10 times."""


def first_order_checks(seed: int) -> Iterator[TheoryCheck]:
    """The fall of the relative error of logits and of features, decade by decade of the rate."""
    generator = torch.Generator().manual_seed(seed)
    train, evaluated = random_tokens(generator), random_tokens(generator)
    labels = torch.randint(CLASSES, (TEXTS,), generator=generator).numpy()
    for trained, rank, largest in TRAININGS:
        model = random_bert(seed, rank)
        rates = [largest * 10.0**-decade for decade in range(DECADES + 1)]
        errors = FirstStep(model, train, labels).errors(evaluated, rates)
        for output in ("logits", "features"):
            for larger, smaller in pairwise(errors):
                fall = _known(larger, output) / _known(smaller, output)
                yield TheoryCheck(
                    claim="Proposition 4.1",
                    setting=f"{trained}: {output}, rate {larger.rate:.0e} to {smaller.rate:.0e}",
                    measured=fall,
                    promised=10.0,
                    holds=fall >= LEAST_FALL,
                    note=f"fall of the relative error, to {_known(smaller, output):.1e}; "
                    f"at least {LEAST_FALL:g} asked",
                )


def _known(error: FirstOrderError, output: str) -> float:
    value = getattr(error, output)
    assert value is not None, "a random head passes every residual on"
    return float(value)
