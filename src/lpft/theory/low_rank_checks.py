"""Proposition 4.4: P of LoRA on a small transformer, and the bound on F in linear models."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from lpft.data.tokens import Tokens
from lpft.model.adapters import plain_classifier
from lpft.model.classifier import LinearHeadClassifier
from lpft.theory.check import TheoryCheck
from lpft.theory.linear_kernels import pretrain_effective
from lpft.theory.low_rank import (
    MOST_INFORMATIVE_EPSILON,
    LowRankCheck,
    check_low_rank,
    first_informative_rank,
)
from lpft.theory.random_bert import CLASSES, random_bert, random_tokens

LORA_RANK = 4
RANKS = (64, 128, 256, 512, 1024)
EPSILONS = (0.1, 0.2, 0.3, 0.5)
SIGMA = 1.0
DRAWS = 400
SIGNIFICANCE = 1e-6
"""Chance of a binomial shortfall as large as the one measured, below which a promise is broken."""


def low_rank_checks(seed: int) -> Iterator[TheoryCheck]:
    """P with and without an adapter, then how often the bound on F holds, by rank and eps."""
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(CLASSES, 16))
    inputs = rng.normal(size=(8, 64))
    inputs[1] = inputs[0] + 0.1 * rng.normal(size=64)
    inputs *= np.geomspace(0.5, 2, len(inputs))[:, None]

    difference = pretrain_difference(
        random_bert(seed),
        random_bert(seed, LORA_RANK),
        random_tokens(torch.Generator().manual_seed(seed)),
    )
    yield TheoryCheck(
        claim="Proposition 4.4",
        setting="P of LoRA less P of full fine-tuning",
        measured=difference,
        promised=0.0,
        holds=difference == 0,
        note="largest entry, on a BERT whose adapter has B = 0",
    )

    checks = check_low_rank(
        head, inputs, ranks=RANKS, epsilons=EPSILONS, sigma=SIGMA, draws=DRAWS, rng=rng
    )
    for check in checks:
        yield TheoryCheck(
            claim="Proposition 4.4",
            setting=_setting(check),
            measured=check.held,
            promised=check.promised,
            holds=None if check.vacuous else _kept(check.held, check),
            note=_rate_note(check),
        )
    for check in checks:
        if check.epsilon == max(EPSILONS):
            yield TheoryCheck(
                claim="Proposition 4.4 as printed",
                setting=_setting(check),
                measured=check.held_as_printed,
                promised=check.promised,
                holds=_kept(check.held_as_printed, check),
                note=f"lacks the factor sigma^2 r = {check.sigma**2 * check.rank:g} on the right",
            )


def pretrain_difference(plain: nn.Module, adapted: nn.Module, tokens: Tokens) -> float:
    """The largest entry of P of ``adapted`` less P of ``plain``, each from its own features."""
    batch = tokens.batch(list(range(len(tokens))))
    kernels = []
    for model in (plain, adapted):
        classifier = plain_classifier(model).eval()
        assert isinstance(classifier, LinearHeadClassifier)
        with torch.no_grad():
            features = classifier.features(**batch).double().numpy()
        kernels.append(pretrain_effective(features, features))
    return float(np.abs(kernels[1] - kernels[0]).max())


def _setting(check: LowRankCheck) -> str:
    return f"r={check.rank}, eps={check.epsilon:g}"


def _rate_note(check: LowRankCheck) -> str:
    if check.vacuous:
        return (
            f"promises nothing below r = {first_informative_rank(check.epsilon)}; at the best eps "
            f"of 2/3, below r = {first_informative_rank(MOST_INFORMATIVE_EPSILON)}"
        )
    return f"least often held of {check.pairs} pairs, {check.draws} draws of A"


def _kept(held: float, check: LowRankCheck) -> bool:
    """Whether a shortfall of the frequency, if there is one, may be chance."""
    successes = round(held * check.draws)
    test = binomtest(successes, check.draws, check.promised, alternative="less")
    return bool(test.pvalue >= SIGNIFICANCE)
