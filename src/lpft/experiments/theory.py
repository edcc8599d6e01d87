"""The paper's propositions checked numerically: a measured number beside each promised one."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn
from transformers import BertConfig

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.adapters import add_adapter
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk.firstorder import FirstOrderError, FirstStep
from lpft.theory import (
    MOST_INFORMATIVE_EPSILON,
    LowRankCheck,
    check_low_rank,
    check_orthogonal,
    first_informative_rank,
    pretrain_effective,
)
from lpft.training.randomness import seeded

HEADER = ("claim", "setting", "measured", "promised", "holds", "note")

CLASSES = 3
TEXTS = 12
VOCABULARY = 50
MOST_TOKENS = 12
HEAD_STD = 0.5
"""Of V's entries: a head as large as linear probing leaves it, so that features move as well."""

LAYERS, WIDTH = 2, 32
INITIALIZER_RANGE = 0.1
"""Of the encoder: at the usual 0.02 LayerNorm would blow up steps of so narrow an embedding."""

TRAININGS = (("all parameters", None, 1e-5), ("LoRA of rank 4", 4, 1e-2))
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


def run_theory(*, seed: int = 0) -> list[TheoryCheck]:
    """Proposition 4.1, Corollary 4.3 and Proposition 4.4, numerically and in float64.

    Takes seconds on a CPU and needs no file or network: the transformer of Proposition 4.1 is a
    BERT of two layers with random weights, the others are linear models; ``seed`` draws them all.

    Source: Tomihari and Sato, NeurIPS 2024; Proposition 4.4 with the factor sigma^2 r that the
    paper's own form lacks, and that form too, which fails.

    Raises:
        InputError: a seed outside 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a number from 0 to 2**32 - 1, found {seed}")
    return [*_first_order(seed), *_orthogonal(seed), *_low_rank(seed)]


def theory_table(checks: Sequence[TheoryCheck]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of text, one row for each check."""
    verdicts = {True: "yes", False: "NO", None: "vacuous"}
    rows: list[tuple[str, ...]] = [
        (
            check.claim,
            check.setting,
            _digits(check.measured),
            _digits(check.promised),
            verdicts[check.holds],
            check.note,
        )
        for check in checks
    ]
    return HEADER, rows


def theory_json(checks: Sequence[TheoryCheck], *, seed: int) -> dict[str, Any]:
    """``{"seed", "checks": [{"claim", "setting", "measured", "promised", "holds", "note"}]}``."""
    return {"seed": seed, "checks": [asdict(check) for check in checks]}


def _digits(value: float) -> str:
    """Four digits; a probability that they would round up to certainty is not shown as one."""
    return ">0.9999" if 0.99995 <= value < 1 else f"{value:.4g}"


def _first_order(seed: int) -> Iterator[TheoryCheck]:
    generator = torch.Generator().manual_seed(seed)
    train, evaluated = _random_tokens(generator), _random_tokens(generator)
    labels = torch.randint(CLASSES, (TEXTS,), generator=generator).numpy()
    for trained, rank, largest in TRAININGS:
        model = _random_bert(seed, rank)
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


def _orthogonal(seed: int) -> Iterator[TheoryCheck]:
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
        yield TheoryCheck(
            claim="Corollary 4.3",
            setting=f"linear encoder, d={inputs}, h={features}, C={classes}, N={rows}",
            measured=orthogonal,
            promised=0.0,
            holds=orthogonal <= ROUNDING < generic,
            note=f"largest relative change of a feature, {len(checks)} trainings of up to "
            f"{max(STEPS)} steps; of other inputs the smallest is {generic:.1e}",
        )


def _low_rank(seed: int) -> Iterator[TheoryCheck]:
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(CLASSES, 16))
    inputs = rng.normal(size=(8, 64))
    inputs[1] = inputs[0] + 0.1 * rng.normal(size=64)
    inputs *= np.geomspace(0.5, 2, len(inputs))[:, None]

    encoder = rng.normal(size=(16, 64))
    factor = rng.normal(size=(max(RANKS), 64))
    adapted = encoder + np.zeros((16, max(RANKS))) @ factor
    full, lora = (
        pretrain_effective(inputs @ weight.T, inputs @ weight.T) for weight in (encoder, adapted)
    )
    difference = float(np.abs(lora - full).max())
    yield TheoryCheck(
        claim="Proposition 4.4",
        setting="P of LoRA less P of full fine-tuning",
        measured=difference,
        promised=0.0,
        holds=difference == 0,
        note="largest entry; the adapter starts at zero",
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


def _random_bert(seed: int, lora_rank: int | None) -> nn.Module:
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


def _random_tokens(generator: torch.Generator) -> Tokens:
    """Texts of 3 to 12 tokens, drawn at random; id 0 is padding."""
    lengths = torch.randint(3, MOST_TOKENS + 1, (TEXTS,), generator=generator).tolist()
    ids = [
        torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]
    masks = [[1] * length for length in lengths]
    return Tokens(
        columns={"input_ids": ids, "attention_mask": masks},
        pad_values={"input_ids": 0, "attention_mask": 0},
        padding_side="right",
    )
