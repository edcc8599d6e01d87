"""Tables 3, 14 and 15: calibration error with and without temperature scaling."""

from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import PUBLISHED, Found, Plan, Recipe, Shown
from lpft.experiments.recipes.cells import Measure, beside_published, places
from lpft.experiments.recipes.contrasts import contrast_table
from lpft.experiments.recipes.tables_scores import EIGHT_SETS
from lpft.report.collect import RunSummary
from lpft.report.comparisons.quantities import PER_CENT, calibration_error
from lpft.report.numbers import counted
from lpft.report.values import Value, score

_NOTE = (
    "Per cent, 15 equal-width bins of the top probability, on the test split. T: one temperature "
    "per run, fitted on validation. Improvement: without minus with T."
)


def _improvement(split: str, metric: str) -> Value:
    def without_less_with(run: RunSummary) -> float | None:
        before, after = run.score(split, metric), run.score(split, metric, calibrated=True)
        return None if before is None or after is None else before - after

    return without_less_with


def _measures(metric: str) -> tuple[Measure, ...]:
    values = {
        ("without T", metric): lambda split: score(split, metric),
        ("with T", f"calibrated_{metric}"): lambda split: score(split, metric, calibrated=True),
        ("improvement", f"{metric}_improvement"): lambda split: _improvement(split, metric),
    }
    return tuple(
        Measure(name, published, value, factor=PER_CENT, digits=2)
        for (name, published), value in values.items()
    )


def _show(found: Found) -> Shown:
    where = places(found, ood=False)
    tables = [
        beside_published(
            found,
            name=f"table3-{metric}",
            title=f"{metric.upper()} with and without temperature",
            variant=PUBLISHED,
            where=where,
            methods=found.scope.methods,
            measures=_measures(metric),
            table=3,
            note=_NOTE,
        )
        for metric in ("ece", "mce")
    ]
    findings = list(_kept_at_one(found))
    for calibrated, name in ((False, "without"), (True, "with")):
        contrasts, read = contrast_table(
            found,
            calibration_error(calibrated=calibrated),
            name=f"table3-differences-{name}-temperature",
            where=where,
        )
        tables += [] if contrasts is None else [contrasts]
        findings += read
    return Shown(tuple(tables), findings=tuple(findings))


def _kept_at_one(found: Found) -> list[str]:
    """Where no temperature could be fitted, and why."""
    reasons: dict[str, list[str]] = {}
    for run in found.runs.values():
        if run.temperature_reason is not None:
            reasons.setdefault(run.temperature_reason, []).append(run.name)
    return [
        f"The temperature stayed 1 in {counted(len(names), 'run')} ({names[0]}"
        f"{' and others' if len(names) > 1 else ''}): {reason}."
        for reason, names in reasons.items()
    ]


RECIPES = (
    Recipe(
        name="table3",
        title="Calibration error with and without temperature scaling",
        source="Tables 3, 14 and 15",
        tasks=EIGHT_SETS,
        methods=("ft", "lp-ft", "lora", "lp-lora"),
        plan=lambda scope: Plan(runs=planned_runs(scope)),
        show=_show,
    ),
)
