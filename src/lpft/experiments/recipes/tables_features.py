"""Tables 1, 11, 12 and 13: what training does to the features and to the head's norm."""

from functools import partial

from lpft.experiments.comparisons.sides import pairs_in
from lpft.experiments.planning import planned_runs
from lpft.experiments.random_heads import random_head_norm
from lpft.experiments.recipe import PUBLISHED, SHARED, Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.cells import PRETRAINED, Measure, Place, beside_published, places
from lpft.experiments.recipes.contrasts import NOTE_ON_RATES, contrast_table
from lpft.experiments.recipes.tables_scores import EIGHT_SETS, METHODS
from lpft.paper import published_size, published_value
from lpft.report.comparisons.quantities import feature_change
from lpft.report.exhibits.record import TableExhibit
from lpft.report.numbers import joined
from lpft.report.values import feature, head

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


def _plan(scope: Scope) -> Plan:
    """Every method at its own rates; those with a random head also at their LP start's."""
    paired = {method for pair in pairs_in(scope.methods) for method in pair}
    both = [method for method in scope.methods if method in paired]
    return Plan(runs=(*planned_runs(scope), *planned_runs(scope, rates=SHARED, methods=both)))


def _show_features(found: Found, *, table: int, ood: bool) -> Shown:
    """CS, Diff, FDR and Norm of each method, with the pre-trained model before any."""
    where = places(found, ood=ood)
    return _with_shared(
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


def _show_change(found: Found) -> Shown:
    """Diff(F) of every method that fine-tunes, on test splits and OOD sets."""
    return _with_shared(
        found,
        places(found, ood=True),
        name="table12",
        title="Feature change",
        methods=found.scope.methods,
        measures=(_CHANGE,),
        table=12,
        note="Diff(F): mean L2 distance of the features of the test split's and OOD sets' texts "
        "from the pre-trained ones.",
    )


def _with_shared(
    found: Found,
    where: tuple[Place, ...],
    *,
    name: str,
    title: str,
    methods: tuple[str, ...],
    measures: tuple[Measure, ...],
    table: int,
    note: str,
) -> Shown:
    """The paper's table, the same at shared rates where these are others, and the differences."""
    own = beside_published(
        found,
        name=name,
        title=f"{title}, each method at its own rates",
        variant=PUBLISHED,
        where=where,
        methods=methods,
        measures=measures,
        table=table,
        note=note,
    )
    exhibits = [own]
    if _has_other_rates(found):
        shared = beside_published(
            found,
            name=f"{name}-shared",
            title=f"{title}, at shared rates",
            variant=SHARED,
            where=where,
            methods=[method for method in methods if method != PRETRAINED],
            measures=measures,
            table=None,
            note=f"{NOTE_ON_RATES} {note}",
        )
        exhibits.append(shared)
    contrasts, findings = contrast_table(
        found,
        feature_change(),
        name=f"{name}-differences",
        where=where,
    )
    exhibits += [] if contrasts is None else [contrasts]
    return Shown(tuple(exhibits), findings=findings)


def _has_other_rates(found: Found) -> bool:
    """Whether some run at shared rates is not its method's usual one."""
    own = {key[1:]: run.folder for key, run in found.runs.items() if key[0] == PUBLISHED}
    return any(
        run.folder != own.get(key[1:]) for key, run in found.runs.items() if key[0] == SHARED
    )


def _show_norms(found: Found) -> Shown:
    """The head's norm before training, after LP and after fine-tuning."""
    where = places(found, ood=False)
    note = "Frobenius norm of the head's weights; pre-trained: its random start."
    halved = _halved(where)
    if halved:
        note += f" Of two classes, so that published norms after LP are halved: {joined(halved)}."
    exhibit: TableExhibit = beside_published(
        found,
        name="table13",
        title="Norm of the head",
        variant=PUBLISHED,
        where=where,
        methods=(PRETRAINED, *found.scope.methods),
        measures=(_NORM,),
        table=13,
        note=note,
    )
    return Shown((exhibit,))


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
        plan=_plan,
        show=partial(_show_features, table=1, ood=False),
    ),
    Recipe(
        name="table11",
        title="Features and head norm of each method, in and out of distribution",
        source="Table 11",
        tasks=(_BOSS,),
        methods=METHODS,
        plan=_plan,
        show=partial(_show_features, table=11, ood=True),
    ),
    Recipe(
        name="table12",
        title="How far features move",
        source="Table 12",
        tasks=(*EIGHT_SETS, _BOSS),
        methods=_FINE_TUNED,
        plan=_plan,
        show=_show_change,
    ),
    Recipe(
        name="table13",
        title="Norm of the head before and after training",
        source="Table 13",
        tasks=(*EIGHT_SETS, _BOSS),
        methods=("ft", "lora", "lp", "lp-ft", "lp-lora"),
        plan=lambda scope: Plan(runs=planned_runs(scope)),
        show=_show_norms,
    ),
)
