"""The recipe ``claims``: the runs and kernels that the paper's eight claims need, and its page.

How each claim is measured and judged is in :mod:`lpft.experiments.comparisons`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lpft.errors import InputError, named
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.comparisons import CLAIMS, SCALES, SCORE_TABLES, scaled_scope
from lpft.experiments.figures import SCALES as PAPER_SCALES
from lpft.experiments.figures import head_scale_plan
from lpft.experiments.kernels import FT_RATIO, kernel_rows
from lpft.experiments.measures import (
    FEATURE_CHANGE,
    HEAD_NORM,
    Measure,
    RunRow,
    error_measure,
    eval_sets,
    measured_table,
    note_on_rates,
    run_measure,
    score_measure,
)
from lpft.experiments.plan import (
    ExperimentRuns,
    Plan,
    Recipe,
    Results,
    Scope,
    planned_kernels,
    planned_runs,
    planned_searches,
)
from lpft.experiments.theory import OWN_MODEL, THEORY, lora_kernel_table
from lpft.experiments.verdicts import WITHOUT_RATES
from lpft.report.text import summarise_feature_change
from lpft.results.differences import Comparison, Match
from lpft.results.exhibits import OVERALL, Table, Verdict, VerdictName
from lpft.results.formats import joined
from lpft.results.kernels import FT
from lpft.results.pairing import (
    LP_START,
    RANDOM_START,
    SHARED,
    TUNED,
    MethodRuns,
    methods_at_rates,
    pairings,
    pairs_in,
)
from lpft.results.quantities import feature_split

_CLAIMS = EXPERIMENTS["claims"]

_KERNEL_METHODS = ("ft", "lora", "lp-ft", "lp-lora")


def _plan(scope: Scope) -> Plan:
    """Each pair of methods at every choice of rates, scaled heads on one task, and kernels.

    Raises:
        InputError: the scope's methods hold no pair with and without linear probing.
    """
    claimed = _claimed(scope)
    paired = tuple(method for pair in pairs_in(claimed.methods) for method in pair)
    if not paired:
        raise InputError(
            f"the claims compare ft with lp-ft and lora with lp-lora, found "
            f"{', '.join(scope.methods)}: name both of a pair with {named('methods')}"
        )
    most = scope.settings.get("max_train_samples")
    if most is not None:
        # No more rows than those trained on choose the epoch and the temperature: the last tenth
        # of SST-2's training set is 6,735 rows, whose evaluation after every epoch would take
        # several times as long as training on 500.
        settings = {"max_validation_samples": most, **scope.settings}
        claimed = replace(claimed, settings=settings)
    in_pairs = replace(claimed, methods=paired)
    scaled = scaled_scope(claimed)
    of_kernels = tuple(method for method in _KERNEL_METHODS if method in claimed.methods)
    return Plan(
        runs={
            **planned_runs(in_pairs),
            **planned_runs(in_pairs, rates=LP_START),
            **planned_runs(in_pairs, rates=RANDOM_START),
            **head_scale_plan(scaled, SCALES).runs,
        },
        # Without the regression and the parts of F.
        kernels=planned_kernels(
            replace(claimed, methods=of_kernels), {"solver": ("none",), "granularity": ("none",)}
        ),
        searches=planned_searches(in_pairs) if scope.tuned_rates else (),
    )


def _claimed(scope: Scope) -> Scope:
    """Only the methods that the paper's claims are on."""
    return replace(scope, methods=tuple(name for name in scope.methods if name in _CLAIMS.methods))


def _show(runs: ExperimentRuns) -> Results:
    runs = replace(runs, scope=_claimed(runs.scope))
    verdicts = [verdict for claim in CLAIMS for verdict in claim.verdicts(runs)]
    return Results(
        exhibits=tuple(replace(table, folded=True) for table in _tables(runs) if table.rows),
        verdicts=tuple(verdicts),
        findings=(_summary(verdicts), *_feature_change_findings(runs)),
    )


def _feature_change_findings(runs: ExperimentRuns) -> list[str]:
    """How far features move from an LP head and from a random one, and what the rates explain."""
    sentences = []
    for task in runs.scope.tasks:
        for pair in pairs_in(runs.scope.methods):
            matches = [
                Match(pairing, feature_split(pairing.paired_runs))
                for pairing in pairings(runs, task, pair)
                if pairing.seeds and pairing.rates != TUNED
            ]
            own = next((match for match in matches if not match.shared), None)
            shared = tuple(match for match in matches if match.shared)
            if matches:
                comparison = Comparison(pair, own, "", shared)
                sentences.append(f"{task}: {' '.join(summarise_feature_change(comparison))}")
    return sentences


_TABLES: tuple[tuple[str, str, tuple[Measure[RunRow], ...], tuple[int, ...], str], ...] = (
    (
        "feature-change",
        "Feature change of the test samples",
        (FEATURE_CHANGE,),
        (12,),
        "Mean L2 distance of the features from their pre-trained values.",
    ),
    (
        "head-norm",
        "Norm of the head before and after fine-tuning",
        (
            run_measure(
                "at the start of fine-tuning", lambda run, _: run.head_norm("norm_at_start")
            ),
            replace(HEAD_NORM, heading="Norm(C) at the end"),
        ),
        (13,),
        "Frobenius norm of the head's weights.",
    ),
    (
        "calibration",
        "Calibration error without and with temperature",
        (
            error_measure("ECE without T", "ece", calibrated=False),
            error_measure("ECE with T", "ece", calibrated=True),
        ),
        (3,),
        "Per cent, 15 equal-width bins of the top probability; T is fitted on validation.",
    ),
    (
        "scores",
        "Scores in and out of distribution",
        (score_measure("score"),),
        SCORE_TABLES,
        "The task's own metric, per cent.",
    ),
)
"""Name, title, measures and published tables of the numbers behind the verdicts, with a note."""

_NOTE_ON_ROWS = (
    "Published numbers are at the paper's own rates. Mean ± standard deviation over seeds."
)


def _tables(runs: ExperimentRuns) -> Iterator[Table]:
    """A row for each set, method and choice of rates; published numbers in a method's first."""
    for name, title, measures, published, note in _TABLES:
        rows: list[tuple[tuple[str, str, str], RunRow]] = []
        choices: set[str] = set()
        for where in eval_sets(runs, ood=name == "scores"):
            named: set[str] = set()
            for group in methods_at_rates(runs, where.task, runs.scope.methods):
                if group.runs:
                    tables = () if group.method in named else published
                    row = RunRow(group.method, where, (group.runs,), tables)
                    rows.append(((where.label, group.name, _rates_of(group)), row))
                    named.add(group.method)
                    choices |= {group.rates, *group.also_at}
        labels = ("Data", "Method", "Rates")
        if any(group_rates != SHARED for (_, _, group_rates), _ in rows):
            note = f"{note} {note_on_rates(choices)}"
        note = f"{note} {_NOTE_ON_ROWS}"
        yield measured_table(name, title, runs.scope.model, labels, rows, measures, note)
    ratios = [row for row in kernel_rows(runs) if row.kernel == FT and row.ft_ratio is not None]
    ratios.sort(key=lambda row: (runs.scope.tasks.index(row.task), str(row.method)))
    yield measured_table(
        "ft-ratio",
        "FT ratio at the start of each method",
        runs.scope.model,
        ("Task", "Method"),
        [(row.labels[:2], row) for row in ratios],
        (FT_RATIO,),
        "The share of the first step's change of logits that comes through the features, by "
        f"norm, of {runs.scope.kernel_samples} training samples at most (published: 250). "
        "Mean ± standard deviation over seeds.",
    )
    lora = lora_kernel_table(runs)
    if lora is not None:
        yield lora


def _rates_of(group: MethodRuns) -> str:
    """The choices of rates at which a method has these runs."""
    if group.rates == SHARED:
        return SHARED
    return joined([group.rates, *group.also_at])


def _summary(verdicts: Sequence[Verdict]) -> str:
    """Which claims hold: overall, at each choice of rates, and whether that choice matters."""
    by_rates: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.comparison == OVERALL:
            by_rates.setdefault(verdict.rates, []).append(verdict)
    overall = by_rates.pop(WITHOUT_RATES)
    sentences = [f"Of the paper's {len(overall)} claims, overall: {_listed(overall)}."]
    sentences += [f"At {name} rates only, {_listed(at)}." for name, at in by_rates.items()]
    if by_rates:
        judged = [verdict for at in by_rates.values() for verdict in at]
        claims = sorted({verdict.claim for verdict in judged})
        depending = [
            str(claim)
            for claim in claims
            if len({verdict.verdict for verdict in judged if verdict.claim == claim}) > 1
        ]
        sentences.append(
            f"The verdict on {_named(depending)} depends on the choice of rates."
            if depending
            else f"The verdict on {_named(list(map(str, claims)))} is the same at every choice of "
            "rates."
        )
    return " ".join(sentences)


def _named(claims: Sequence[str]) -> str:
    return f"claim {claims[0]}" if len(claims) == 1 else f"claims {joined(claims)}"


def _listed(verdicts: Sequence[Verdict]) -> str:
    """``claims 1 and 2 hold; claim 3 is undecided``, those of one verdict together."""
    words: dict[VerdictName, tuple[str, str]] = {
        "holds": ("claim {} holds", "claims {} hold"),
        "does not hold": ("claim {} does not hold", "claims {} do not hold"),
        "cannot tell": ("claim {} is undecided", "claims {} are undecided"),
    }
    by_verdict: dict[VerdictName, list[str]] = {}
    for verdict in verdicts:
        by_verdict.setdefault(verdict.verdict, []).append(str(verdict.claim))
    return "; ".join(
        words[verdict][len(numbers) > 1].format(joined(numbers))
        for verdict, numbers in by_verdict.items()
    )


def _check_propositions(runs: ExperimentRuns) -> None:
    """On random models, and on the experiment's own."""
    THEORY(runs)
    OWN_MODEL(replace(runs, scope=_claimed(runs.scope)))


RECIPE = Recipe(
    _CLAIMS,
    _plan,
    _show,
    step=_check_propositions,
    limits=(
        f"Claim 3 is tested on the first task only, at {len(SCALES)} of the paper's "
        f"{len(PAPER_SCALES)} scales and each method's own rates; figures 3, 10 and 11 have all "
        "scales.",
        "Claim 4 compares LP-FT with LoRA and LP-LoRA only at each method's own rates, so that it "
        "is unknown how much of these differences comes from the rates.",
    ),
)

RECIPES = {_CLAIMS.name: RECIPE}
