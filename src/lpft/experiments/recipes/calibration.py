"""Calibration error with and without the run's temperature: measures and differences."""

from collections.abc import Sequence

from lpft.experiments.recipe import Found
from lpft.experiments.recipes.cells import Measure, Place
from lpft.experiments.recipes.contrasts import contrast_table
from lpft.report.numbers import counted
from lpft.results.exhibits import Table
from lpft.results.groups import Selector, score
from lpft.results.quantities import PER_CENT, calibration_error
from lpft.results.run import Run


def calibration_measures(metric: str) -> tuple[Measure, ...]:
    """``ece`` or ``mce`` in per cent without T and with T, and the first minus the second."""
    values = {
        ("without T", metric): lambda split: score(split, metric),
        ("with T", f"calibrated_{metric}"): lambda split: score(split, metric, calibrated=True),
        ("improvement", f"{metric}_improvement"): lambda split: _improvement(split, metric),
    }
    return tuple(
        Measure(name, published, value, factor=PER_CENT, digits=2)
        for (name, published), value in values.items()
    )


def calibration_differences(
    found: Found, where: Sequence[Place], *, name: str
) -> tuple[list[Table], list[str]]:
    """ECE with and without the LP start, without T and with T; and what can be said of them."""
    tables: list[Table] = []
    findings: list[str] = []
    for calibrated, how in ((False, "without"), (True, "with")):
        table, read = contrast_table(
            found,
            calibration_error(calibrated=calibrated),
            name=f"{name}-differences-{how}-temperature",
            where=where,
        )
        tables += [] if table is None else [table]
        findings += read
    return tables, findings


def kept_at_one(found: Found) -> list[str]:
    """Where no temperature could be fitted, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for run in found.runs.values():
        if run.record.calibration.reason is not None:
            reasons.setdefault(run.record.calibration.reason, {}).setdefault(run.name)
    return [
        f"The temperature stayed 1 in {counted(len(names), 'run')} ({next(iter(names))}"
        f"{' and others' if len(names) > 1 else ''}): {reason}."
        for reason, names in reasons.items()
    ]


def _improvement(split: str, metric: str) -> Selector:
    def without_less_with(run: Run) -> float | None:
        before, after = run.score(split, metric), run.score(split, metric, calibrated=True)
        return None if before is None or after is None else before - after

    return without_less_with
