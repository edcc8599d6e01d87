"""Tables 3, 14 and 15: calibration error with and without temperature scaling."""

from lpft.experiments.recipe import Found, Recipe, Shown
from lpft.experiments.recipes.both_rates import at_both_rates, plan_at_both_rates
from lpft.experiments.recipes.calibration import (
    calibration_differences,
    calibration_measures,
    kept_at_one,
)
from lpft.experiments.recipes.cells import places
from lpft.experiments.recipes.tables_scores import EIGHT_SETS

_NOTE = (
    "Per cent, 15 equal-width bins of the top probability, on the test split. T: one temperature "
    "per run, fitted on validation. Improvement: without minus with T."
)


def _show(found: Found) -> Shown:
    where = places(found, ood=False)
    tables = [
        table
        for metric in ("ece", "mce")
        for table in at_both_rates(
            found,
            where,
            name=f"table3-{metric}",
            title=f"{metric.upper()} with and without temperature",
            methods=found.scope.methods,
            measures=calibration_measures(metric),
            table=3,
            note=_NOTE,
        )
    ]
    differences, read = calibration_differences(found, where, name="table3")
    return Shown((*tables, *differences), findings=(*kept_at_one(found), *read))


RECIPES = (
    Recipe(
        name="table3",
        title="Calibration error with and without temperature scaling",
        source="Tables 3, 14 and 15",
        tasks=EIGHT_SETS,
        methods=("ft", "lp-ft", "lora", "lp-lora"),
        plan=plan_at_both_rates,
        show=_show,
    ),
)
