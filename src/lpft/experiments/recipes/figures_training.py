"""Figures 1 and 4: norms of head, bias and logits, loss and accuracy along training and probing."""

from collections.abc import Mapping, Sequence

from lpft.experiments.recipe import Found, Recipe, Shown
from lpft.experiments.recipes.both_rates import (
    NOTE_ON_RATES,
    at_other_rates,
    plan_at_both_rates,
    shared_rates,
)
from lpft.experiments.recipes.probing_paths import (
    ProbedPath,
    keep_probing_paths,
    read_probing_paths,
)
from lpft.experiments.recipes.seed_curves import BANDS, SeedCurve, mean_line
from lpft.report.curves import QUANTITIES, curve
from lpft.report.numbers import Spread, counted, joined, significant
from lpft.results.exhibits import Figure, Panel, Series
from lpft.results.groups import method_name
from lpft.results.pairing import PUBLISHED, SHARED
from lpft.results.run import Run
from lpft.settings import get_method

_SHOWN = {
    "head_norm": "Frobenius norm",
    "bias_norm": "L2 norm",
    "logit_norm": "L2 norm of a text's logits",
    "loss": "cross-entropy (nats)",
    "validation_loss": "cross-entropy (nats)",
    "validation_accuracy": "fraction of texts",
}
"""Each quantity with what stands along its axis."""

_NAMES = {quantity: name for quantity, _, name in QUANTITIES}

Runs = Mapping[str, Sequence[Run]]
"""The finished runs of each method, one for each seed."""


def _show(found: Found) -> Shown:
    paths, others = read_probing_paths(found), at_other_rates(found)
    figures, findings = [], []
    for task in found.scope.tasks:
        runs = _fine_tuned(found, PUBLISHED, task)
        if runs:
            figures.append(
                _training(
                    runs,
                    name=f"fine-tuning-{task}",
                    title=f"Along fine-tuning: {task}",
                    note="Each method at its own learning rate and batch size.",
                )
            )
            findings += _head_norms(task, runs)
        at_shared = _fine_tuned(others, SHARED, task)
        if at_shared:
            figures.append(
                _training(
                    at_shared,
                    name=f"fine-tuning-{task}-shared",
                    title=f"Along fine-tuning, at {shared_rates(at_shared)}: {task}",
                    note=NOTE_ON_RATES,
                )
            )
        if task in paths:
            run, path = paths[task]
            figures.append(_probing(task, run, path))
            findings.append(_norm_on_the_way(task, path))
    return Shown(exhibits=tuple(figures), findings=tuple(findings))


def _fine_tuned(found: Found, variant: str, task: str) -> Runs:
    return {
        method: list(seeds.values())
        for method in found.scope.methods
        if get_method(method).fine_tunes and (seeds := found.seeds(variant, task, method))
    }


def _training(runs: Runs, *, name: str, title: str, note: str) -> Figure:
    panels = [
        Panel(
            title=_NAMES[quantity],
            x="epoch",
            y=axis,
            series=tuple(
                mean_line(
                    method, [SeedCurve(dict(curve(run, quantity)), (run.name,)) for run in seeds]
                )
                for method, seeds in runs.items()
            ),
        )
        for quantity, axis in _SHOWN.items()
    ]
    return Figure(
        name=name,
        title=title,
        kind="lines",
        panels=tuple(panels),
        caption=(
            f"{note} Epoch 0 is the start of fine-tuning: a random head, or the one that linear "
            "probing left. Loss of training is the mean over the batches since the point before; "
            "the rest is of validation after each epoch, the logit norm as the mean over texts. "
            f"Norms have no unit. {BANDS}"
        ),
    )


def _probing(task: str, run: Run, path: ProbedPath) -> Figure:
    iterations = tuple(row["iteration"] for row in path.rows)
    panels = [
        Panel(
            title=_NAMES[quantity],
            x="iteration of lbfgs",
            y=axis,
            series=(
                Series(
                    label=method_name("lp"),
                    method="lp",
                    x=iterations,
                    y=tuple(row[quantity] for row in path.rows),
                    runs=(run.name,),
                ),
            ),
        )
        for quantity, axis in _SHOWN.items()
    ]
    return Figure(
        name=f"probing-{task}",
        title=f"Along linear probing: {task}",
        kind="lines",
        panels=tuple(panels),
        caption=(
            "The head of scikit-learn's logistic regression by lbfgs after k iterations from zero, "
            f"at the inverse strength C = {significant(path.inverse_strength)} that "
            "cross-validation chose; loss is the mean cross-entropy without the penalty, norms "
            "have no unit. The last point meets a tolerance of 1e-8, the paper's 1e-4 is met after "
            f"{counted(path.stop, 'iteration')}. No seed enters."
        ),
    )


def _head_norms(task: str, runs: Runs) -> list[str]:
    told = []
    for method, seeds in runs.items():
        norms = [[value for _, value in curve(run, "head_norm")] for run in seeds]
        starts = Spread.of(values[0] for values in norms if values)
        ends = Spread.of(values[-1] for values in norms if values)
        if starts is not None and ends is not None:
            told.append(
                f"from {significant(starts.mean)} to {significant(ends.mean)} for "
                f"{method_name(method)}"
            )
    return [f"Head norm along fine-tuning on {task}: {joined(told)}."] if told else []


def _norm_on_the_way(task: str, path: ProbedPath) -> str:
    last = path.rows[-1]
    goes = (
        f"Linear probing on {task}: the head's norm goes from 0 to "
        f"{significant(last['head_norm'])} in {counted(int(last['iteration']), 'iteration')} of "
        "lbfgs"
    )
    if path.stop == last["iteration"]:
        return f"{goes}, where the paper's tolerance ends it too."
    stop = next(row for row in path.rows if row["iteration"] == path.stop)
    return (
        f"{goes}; the paper's tolerance ends it after {path.stop}, at "
        f"{significant(stop['head_norm'])}."
    )


def _recipe(name: str, task: str) -> Recipe:
    return Recipe(
        name=name,
        title="Norms, loss and accuracy along training",
        source=name.replace("figure", "Figure "),
        tasks=(task,),
        methods=("lp", "ft", "lp-ft", "lora", "lp-lora"),
        plan=plan_at_both_rates,
        show=_show,
        step=keep_probing_paths,
    )


RECIPES = (_recipe("figure1", "rte"), _recipe("figure4", "cb"))
