"""The recipe ``claims``: the eight claims of the paper, each with a verdict computed from runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpft.errors import InputError
from lpft.experiments.claims import (
    calibration,
    feature_change,
    ft_ratio,
    head_norm,
    head_scale,
    propositions,
    scores,
)
from lpft.experiments.claims.cases import WITHOUT_RATES, Outcome, Part
from lpft.experiments.claims.tables import SIDE_TABLES, side_table
from lpft.experiments.claims.verdicts import claim_verdicts
from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.tables_scores import EIGHT_SETS
from lpft.report.numbers import joined
from lpft.results.exhibits import OVERALL, Verdict, VerdictName
from lpft.results.pairing import SHARED, pairs_in
from lpft.results.quantities import DRAW_SEED

METHODS = ("ft", "lp-ft", "lora", "lp-lora")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its parts, and how its comparisons are measured and judged.

    ``published`` says what the paper's own means are, ``remark`` what limits the verdict.
    """

    number: int
    statement: str
    parts: tuple[Part, ...]
    outcomes: Callable[[Found, np.random.Generator], list[Outcome]]
    published: Callable[[], str]
    remark: str = ""

    def verdicts(self, found: Found) -> tuple[Verdict, ...]:
        """The verdict on the whole claim, at each choice of rates, and on each comparison."""
        generator = np.random.default_rng([DRAW_SEED, self.number])
        outcomes = self.outcomes(found, generator)
        return claim_verdicts(
            self.number,
            self.statement,
            self.parts,
            outcomes,
            published=self.published(),
            remark=self.remark,
        )


CLAIM_TABLE = (
    Claim(
        1,
        feature_change.STATEMENT,
        feature_change.PARTS,
        feature_change.feature_change_outcomes,
        feature_change.published_feature_change,
    ),
    Claim(
        2,
        head_norm.STATEMENT,
        head_norm.PARTS,
        head_norm.head_norm_outcomes,
        head_norm.published_head_norm,
    ),
    Claim(
        3,
        head_scale.STATEMENT,
        head_scale.PARTS,
        head_scale.head_scale_outcomes,
        lambda: "The paper shows it in figures 3, 10 and 11, and prints no numbers",
        head_scale.REMARK,
    ),
    Claim(
        4,
        calibration.STATEMENT,
        calibration.PARTS,
        calibration.calibration_outcomes,
        calibration.published_calibration,
        calibration.REMARK,
    ),
    Claim(
        5,
        ft_ratio.STATEMENT,
        ft_ratio.PARTS,
        ft_ratio.ft_ratio_outcomes,
        ft_ratio.published_ft_ratio,
    ),
    Claim(6, scores.STATEMENT, scores.PARTS, scores.score_outcomes, scores.published_scores),
    Claim(
        7,
        propositions.FIRST_ORDER_STATEMENT,
        propositions.FIRST_ORDER_PARTS,
        lambda found, _: propositions.first_order_outcomes(found),
        lambda: "",
        propositions.FIRST_ORDER_REMARK,
    ),
    Claim(
        8,
        propositions.LINEAR_STATEMENT,
        propositions.LINEAR_PARTS,
        lambda found, _: propositions.linear_outcomes(found),
        lambda: "",
        propositions.LINEAR_REMARK,
    ),
)
"""The claims by their number."""


def _plan(scope: Scope) -> Plan:
    """Each pair of methods at own and at shared rates, scaled heads on one task, and kernels.

    Raises:
        InputError: the scope's methods hold no pair with and without linear probing.
    """
    pairs = pairs_in(_claimed(scope).methods)
    if not pairs:
        raise InputError(
            f"the claims compare ft with lp-ft and lora with lp-lora, found "
            f"{', '.join(scope.methods)}: name both of a pair with --methods"
        )
    methods = [method for pair in pairs for method in pair]
    scope = _with_fewer_validation_rows(_claimed(scope))
    return Plan(
        runs=(
            *planned_runs(scope, methods=methods),
            *planned_runs(scope, methods=methods, rates=SHARED),
            *head_scale.scaled_plan(scope).runs,
        ),
        kernels=ft_ratio.ft_ratio_kernels(scope).kernels,
    )


def _claimed(scope: Scope) -> Scope:
    """Only the methods that the paper's claims are on."""
    return replace(scope, methods=tuple(name for name in scope.methods if name in METHODS))


def _with_fewer_validation_rows(scope: Scope) -> Scope:
    """Where training is limited, no more rows than that choose the epoch and the temperature.

    The last tenth of SST-2's training set is 6,735 rows, whose evaluation after every epoch would
    take several times as long as training on 500.
    """
    most = scope.settings.get("max_train_samples")
    if most is None:
        return scope
    return replace(scope, settings={"max_validation_samples": most, **scope.settings})


def _show(found: Found) -> Shown:
    found = replace(found, scope=_claimed(found.scope))
    verdicts = [verdict for claim in CLAIM_TABLE for verdict in claim.verdicts(found)]
    tables = [*(side_table(found, table) for table in SIDE_TABLES), ft_ratio.ft_ratio_table(found)]
    return Shown(
        exhibits=tuple(table for table in tables if table is not None),
        verdicts=tuple(verdicts),
        findings=(_in_short(verdicts), *feature_change.feature_change_findings(found)),
    )


def _in_short(verdicts: Sequence[Verdict]) -> str:
    """Which claims hold and which do not: as wholes, then at each choice of rates."""
    by_rates: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.comparison == OVERALL:
            by_rates.setdefault(verdict.rates, []).append(verdict)
    whole = by_rates.pop(WITHOUT_RATES)
    sentences = [f"Of the paper's {len(whole)} claims, taken as wholes: {_listed(whole)}."]
    sentences += [f"At {name} rates alone {_listed(found)}." for name, found in by_rates.items()]
    return " ".join(sentences)


def _listed(verdicts: Sequence[Verdict]) -> str:
    """``claims 1 and 2 hold; claim 3 cannot be told``, those of one verdict together."""
    by_verdict: dict[VerdictName, list[str]] = {}
    for verdict in verdicts:
        by_verdict.setdefault(verdict.verdict, []).append(str(verdict.claim))
    words: dict[VerdictName, tuple[str, str]] = {
        "holds": ("holds", "hold"),
        "does not hold": ("does not hold", "do not hold"),
        "cannot tell": ("cannot be told", "cannot be told"),
    }
    told = [
        f"{'claim' if len(numbers) == 1 else 'claims'} {joined(numbers)} "
        f"{words[verdict][len(numbers) > 1]}"
        for verdict, numbers in by_verdict.items()
    ]
    return "; ".join(told)


RECIPES = (
    Recipe(
        name="claims",
        title="The paper's claims",
        source="the text",
        tasks=(*EIGHT_SETS, "amazon"),
        methods=METHODS,
        plan=_plan,
        show=_show,
        step=propositions.keep_theory,
        kernel_samples=ft_ratio.SAMPLES,
        limits=(head_scale.LIMIT, calibration.LIMIT),
    ),
)
