"""The checks of ``lpft theory``: what the paper promises, beside what is measured.

Proposition 4.1, and P of Proposition 4.4, are checked on a BERT of two layers with random weights
in float64; Corollary 4.3, and the bound of Proposition 4.4, in linear models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn
from transformers import BertConfig

from lpft.data.tokens import Tokens
from lpft.model.adapters import add_adapter, plain_classifier
from lpft.model.classifier import LinearHeadClassifier, attach_head
from lpft.model.encoder import build_encoder, seeded
from lpft.ntk.dynamics import FirstStep
from lpft.theory import (
    MOST_INFORMATIVE_EPSILON,
    LowRankCheck,
    check_low_rank,
    check_orthogonal,
    first_informative_rank,
    pretrain_effective,
)

LORA_RANK = 4
TRAININGS = (("all parameters", None, 1e-5), (f"LoRA of rank {LORA_RANK}", LORA_RANK, 1e-2))
"""What trains, the rank, and a rate at which the prediction errs by about a hundredth."""

DECADES = 3
LEAST_FALL = 8.0
"""Of the error, where the rate falls 10 times."""

LINEAR_WIDTHS = ((8, 4, 2, 3), (32, 16, 3, 20), (128, 64, 5, 60))
"""Width of inputs, features and logits, and training rows (d, h, C, N) of the linear encoders."""

HEAD_SCALES = (0.02, 1.0)
STEPS = (1, 10, 100)
LINEAR_SEEDS = 10
ROUNDING = 1e-12
"""Relative change of a feature that counts as none."""

RANKS = (64, 128, 256, 512, 1024)
EPSILONS = (0.1, 0.2, 0.3, 0.5)
SIGMA = 1.0
DRAWS = 400
SIGNIFICANCE = 1e-6
"""Chance of a binomial shortfall as large as the one measured, below which a promise is broken."""

CLASSES = 3
TEXTS = 12
VOCABULARY = 50
MOST_TOKENS = 12
LAYERS, WIDTH = 2, 32
HEAD_STD = 0.5
"""Of V's entries: a head as large as linear probing leaves it, so that features move as well."""

INITIALIZER_RANGE = 0.1
"""Of the encoder: at the usual 0.02 LayerNorm would blow up steps of so narrow an embedding."""


@dataclass(frozen=True)
class TheoryCheck:
    """One number that the paper promises beside the measured one.

    ``holds`` is None where the promise is vacuous: nothing could break it.
    """

    claim: str
    setting: str
    measured: float
    promised: float
    holds: bool | None
    note: str


def first_order_checks(seed: int) -> Iterator[TheoryCheck]:
    """Proposition 4.1: the prediction's relative error falls with the rate, decade by decade."""
    generator = torch.Generator().manual_seed(seed)
    train, evaluated = random_tokens(generator), random_tokens(generator)
    labels = torch.randint(CLASSES, (TEXTS,), generator=generator).numpy()
    for trained, rank, largest in TRAININGS:
        rates = [largest * 10.0**-decade for decade in range(DECADES + 1)]
        errors = FirstStep(random_bert(seed, rank), train, labels).errors(evaluated, rates)
        for output in ("logits", "features"):
            for larger, smaller in pairwise(errors):
                before, after = (float(getattr(error, output)) for error in (larger, smaller))
                setting = f"{trained}: {output}, rate {larger.rate:.0e} to {smaller.rate:.0e}"
                fall = before / after
                note = f"fall of the relative error, to {after:.1e}; {LEAST_FALL:g} or more holds"
                yield TheoryCheck("Proposition 4.1", setting, fall, 10.0, fall >= LEAST_FALL, note)


def orthogonal_checks(seed: int) -> Iterator[TheoryCheck]:
    """Corollary 4.3: the largest change of a feature over trainings, for each linear model's shape.

    The features of inputs orthogonal to all training inputs must stay.
    """
    for inputs, features, classes, rows in LINEAR_WIDTHS:
        checks = [
            check_orthogonal(
                inputs=inputs,
                features=features,
                classes=classes,
                rows=rows,
                head_scale=head_scale,
                rate=0.1 / rows,
                steps=steps,
                seed=LINEAR_SEEDS * seed + draw,
            )
            for head_scale in HEAD_SCALES
            for steps in STEPS
            for draw in range(LINEAR_SEEDS)
        ]
        orthogonal = max(check.orthogonal for check in checks)
        generic = min(check.generic for check in checks)
        setting = f"linear encoder, d={inputs}, h={features}, C={classes}, N={rows}"
        holds = orthogonal <= ROUNDING < generic
        note = (
            f"largest relative change of a feature, {len(checks)} trainings of up to "
            f"{max(STEPS)} steps; of other inputs the smallest is {generic:.1e}"
        )
        yield TheoryCheck("Corollary 4.3", setting, orthogonal, 0.0, holds, note)


def low_rank_checks(seed: int) -> Iterator[TheoryCheck]:
    """Proposition 4.4: P with and without an adapter; how often the bound on F holds, by rank."""
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(CLASSES, 16))
    inputs = rng.normal(size=(8, 64))
    inputs[1] = inputs[0] + 0.1 * rng.normal(size=64)
    inputs *= np.geomspace(0.5, 2, len(inputs))[:, None]

    tokens = random_tokens(torch.Generator().manual_seed(seed))
    difference = pretrain_difference(random_bert(seed), random_bert(seed, LORA_RANK), tokens)
    setting = "P of LoRA less P of full fine-tuning"
    note = "largest entry, on a BERT whose adapter has B = 0"
    yield TheoryCheck("Proposition 4.4", setting, difference, 0.0, difference == 0, note)

    checks = check_low_rank(
        head, inputs, ranks=RANKS, epsilons=EPSILONS, sigma=SIGMA, draws=DRAWS, rng=rng
    )
    for check in checks:
        note = f"least often held of {check.pairs} pairs, {check.draws} draws of A"
        if check.vacuous:
            note = (
                f"promises nothing below r = {first_informative_rank(check.epsilon)}; at the best "
                f"eps of 2/3, below r = {first_informative_rank(MOST_INFORMATIVE_EPSILON)}"
            )
        yield _low_rank_check("Proposition 4.4", check, check.held, note)
    for check in checks:
        if check.epsilon == max(EPSILONS):
            note = f"lacks the factor sigma^2 r = {check.sigma**2 * check.rank:g} on the right"
            yield _low_rank_check("Proposition 4.4 as printed", check, check.held_as_printed, note)


def _low_rank_check(claim: str, check: LowRankCheck, held: float, note: str) -> TheoryCheck:
    """A shortfall of the frequency ``held`` breaks the promise where it is more than chance."""
    setting = f"r={check.rank}, eps={check.epsilon:g}"
    if check.vacuous:
        return TheoryCheck(claim, setting, held, check.promised, None, note)
    test = binomtest(round(held * check.draws), check.draws, check.promised, alternative="less")
    holds = bool(test.pvalue >= SIGNIFICANCE)
    return TheoryCheck(claim, setting, held, check.promised, holds, note)


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


def random_bert(seed: int, lora_rank: int | None = None) -> nn.Module:
    """The classifier that a seed gives; with LoRA of a rank, whose factor B is 0, around it."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=MOST_TOKENS,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=0,
    )
    with seeded(seed):
        encoder = build_encoder(config, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    model = attach_head(
        encoder, tuple(range(CLASSES)), pooling="first", head_bias=True, generator=generator
    )
    with torch.no_grad():
        model.head.weight.normal_(0.0, HEAD_STD, generator=generator)
    if lora_rank is None:
        return model
    with seeded(seed):
        return add_adapter(model, "lora", rank=lora_rank, alpha=lora_rank)


def random_tokens(generator: torch.Generator) -> Tokens:
    """Texts of 3 to 12 tokens, drawn at random; id 0 is padding."""
    lengths = torch.randint(3, MOST_TOKENS + 1, (TEXTS,), generator=generator).tolist()
    ids = [
        torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]
    return Tokens.from_lists(
        columns={"input_ids": ids, "attention_mask": [[1] * length for length in lengths]},
        pad_values={"input_ids": 0, "attention_mask": 0},
        padding_side="right",
    )
