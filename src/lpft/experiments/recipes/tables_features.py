"""Tables 1, 11, 12 and 13: what training does to the features and to the head's norm."""

from functools import partial

from lpft.experiments.random_heads import random_head_norm
from lpft.experiments.recipe import Found, Recipe, Shown
from lpft.experiments.recipes.both_rates import at_both_rates, plan_at_both_rates
from lpft.experiments.recipes.cells import PRETRAINED, Measure, Place, places
from lpft.experiments.recipes.contrasts import contrast_table
from lpft.experiments.recipes.tables_scores import EIGHT_SETS, METHODS
from lpft.paper import published_size, published_value
from lpft.report.numbers import joined
from lpft.results.exhibits import Table
from lpft.results.groups import feature, head
from lpft.results.quantities import feature_change

_BOSS = "amazon"
_FINE_TUNED = ("ft", "lora", "lp-ft", "lp-lora")


_CHANGE = Measure(
    "Diff(F)", "feature_difference", lambda split: feature(split, "feature_difference")
)
_NORM = Measure("Norm(C)", "head_norm", lambda _: head("norm"), before=lambda _: random_head_norm)
_FEATURES = (
    Measure(
        "CS(F)",
        "cosine_similarity",
        lambda split: feature(split, "cosine_similarity"),
        before=lambda split: feature(split, "cosine_similarity", pretrained=True),
        digits=3,
    ),
    _CHANGE,
    Measure(
        "FDR(F)",
        "fisher_ratio",
        lambda split: feature(split, "fisher_ratio"),
        before=lambda split: feature(split, "fisher_ratio", pretrained=True),
    ),
    _NORM,
)


def _show_features(found: Found, *, table: int, ood: bool) -> Shown:
    """CS, Diff, FDR and Norm of each method, with the pre-trained model before any."""
    where = places(found, ood=ood)
    tables = at_both_rates(
        found,
        where,
        name=f"table{table}",
        title="Features and head norm",
        methods=(PRETRAINED, *found.scope.methods),
        measures=_FEATURES,
        table=table,
        note="Of the test split's and OOD sets' texts. CS: mean cosine similarity of pairs of "
        "texts. Diff: mean L2 distance from the pre-trained features. FDR: Fisher's discriminant "
        "ratio. Norm: Frobenius norm of the head.",
    )
    return _with_differences(found, where, tables)


def _show_change(found: Found) -> Shown:
    """Diff(F) of every method that fine-tunes, on test splits and OOD sets."""
    where = places(found, ood=True)
    tables = at_both_rates(
        found,
        where,
        name="table12",
        title="Feature change",
        methods=found.scope.methods,
        measures=(_CHANGE,),
        table=12,
        note="Diff(F): mean L2 distance of the features of the test split's and OOD sets' texts "
        "from the pre-trained ones.",
    )
    return _with_differences(found, where, tables)


def _with_differences(found: Found, where: tuple[Place, ...], tables: list[Table]) -> Shown:
    """Tables of a recipe, and the differences of its pairs in feature change."""
    contrasts, findings = contrast_table(
        found, feature_change(), name=f"{tables[0].name}-differences", where=where
    )
    return Shown((*tables, *([] if contrasts is None else [contrasts])), findings=findings)


def _show_norms(found: Found) -> Shown:
    """The head's norm before training, after LP and after fine-tuning."""
    where = places(found, ood=False)
    halved = _halved(where)
    tables = at_both_rates(
        found,
        where,
        name="table13",
        title="Norm of the head",
        methods=(PRETRAINED, *found.scope.methods),
        measures=(_NORM,),
        table=13,
        note="Frobenius norm of the head's weights; pre-trained: its random start.",
        of_published=(
            f"Of two classes, so that published norms after LP are halved: {joined(halved)}."
            if halved
            else ""
        ),
    )
    return Shown(tuple(tables))


def _halved(where: tuple[Place, ...]) -> list[str]:
    """Data sets of two classes of which the paper published the norm of an LP head."""
    found = []
    for place in where:
        size = published_size(place.dataset)
        probed = published_value(13, place.dataset, "lp", "head_norm")
        if probed is not None and size is not None and size.classes == 2:
            found.append(place.dataset)
    return found


RECIPES = (
    Recipe(
        name="table1",
        title="Features and head norm of each method",
        source="Table 1",
        tasks=("cb", "rte"),
        methods=METHODS,
        plan=plan_at_both_rates,
        show=partial(_show_features, table=1, ood=False),
    ),
    Recipe(
        name="table11",
        title="Features and head norm of each method, in and out of distribution",
        source="Table 11",
        tasks=(_BOSS,),
        methods=METHODS,
        plan=plan_at_both_rates,
        show=partial(_show_features, table=11, ood=True),
    ),
    Recipe(
        name="table12",
        title="How far features move",
        source="Table 12",
        tasks=(*EIGHT_SETS, _BOSS),
        methods=_FINE_TUNED,
        plan=plan_at_both_rates,
        show=_show_change,
    ),
    Recipe(
        name="table13",
        title="Norm of the head before and after training",
        source="Table 13",
        tasks=(*EIGHT_SETS, _BOSS),
        methods=("ft", "lora", "lp", "lp-ft", "lp-lora"),
        plan=plan_at_both_rates,
        show=_show_norms,
    ),
)
