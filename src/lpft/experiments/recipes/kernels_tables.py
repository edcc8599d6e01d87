"""Tables 2 and 9: rank, norm, FT ratio and regression of kernels, beside the published ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lpft.experiments.planning import planned_kernels
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.cells import estimate
from lpft.experiments.recipes.fine_tuned import fine_tuned_methods
from lpft.paper import MODEL, KernelNumbers, published_kernels
from lpft.report.numbers import joined, significant
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.groups import method_name, model_name
from lpft.results.kernels import (
    FT,
    LOGISTIC,
    NTK,
    PAPER,
    PAPER_TEXTS,
    PRETRAIN,
    Accuracies,
    KernelRecord,
    KernelStatistics,
    MethodRecord,
    kernel_name,
)
from lpft.results.quantities import PER_CENT

METHODS = ("ft", "lora", "lp-ft", "lp-lora")
_EVERY_METHOD = "all"
_THEIRS = f"{MODEL}, published"
_NAMES = ("Task", "Method", "Kernel")


@dataclass(frozen=True)
class KernelRow:
    """One kernel of a table: P, which no method changes (``method`` None), F or P + F."""

    task: str
    method: str | None
    kernel: str
    found: tuple[tuple[KernelRecord, MethodRecord], ...]

    def estimate(
        self, value: Callable[[MethodRecord], float | None], factor: float = 1.0
    ) -> Estimate | None:
        """Mean and standard deviation over seeds; None where no seed has the number."""
        return estimate({kernels.name: value(method) for kernels, method in self.found}, factor)

    def statistic(self, name: str) -> Estimate | None:
        """A number of the kernel itself."""

        def value(method: MethodRecord) -> float | None:
            statistics = self._statistics(method)
            return None if statistics is None else getattr(statistics, name)

        return self.estimate(value)

    def accuracy(self, solver: str, split: str) -> Estimate | None:
        """Kernel regression by a solver, in per cent."""

        def value(method: MethodRecord) -> float | None:
            statistics = self._statistics(method)
            nothing = Accuracies(None, None, None)
            found = nothing if statistics is None else statistics.regression.get(solver, nothing)
            return getattr(found, split)

        return self.estimate(value, PER_CENT)

    @property
    def published(self) -> KernelNumbers | None:
        return published_kernels(self.task, self.method, self.kernel)

    @property
    def names(self) -> tuple[str, str, str]:
        method = _EVERY_METHOD if self.method is None else method_name(self.method)
        return (self.task, method, kernel_name(self.kernel))

    def _statistics(self, method: MethodRecord) -> KernelStatistics | None:
        return method.kernels.get(self.kernel)


def kernel_plan(scope: Scope) -> Plan:
    """The kernels of the starts of the methods that fine-tune, for each task and seed."""
    return Plan(kernels=planned_kernels(scope, methods=fine_tuned_methods(scope)))


def kernel_rows(found: Found) -> Iterator[KernelRow]:
    """P once for each task, then F and P + F of every method, as the paper lists them."""
    for task in found.scope.tasks:
        summaries = [
            found.kernels[task, seed] for seed in found.scope.seeds if (task, seed) in found.kernels
        ]
        if not summaries:
            continue
        first = tuple((kernels, kernels.methods[0]) for kernels in summaries)
        yield KernelRow(task, None, PRETRAIN, first)
        for name in fine_tuned_methods(found.scope):
            pairs = tuple(
                (kernels, method)
                for kernels in summaries
                for method in kernels.methods
                if method.method == name
            )
            for kernel in (FT, NTK):
                yield KernelRow(task, name, kernel, pairs)


def _show(found: Found) -> Shown:
    rows = list(kernel_rows(found))
    if not rows:
        return Shown()
    ours = model_name(found.scope.model)
    return Shown(
        exhibits=(_statistics_table(rows, ours), _regression_table(rows, ours)),
        findings=_ratios(rows),
    )


def _statistics_table(rows: Sequence[KernelRow], ours: str) -> Table:
    return Table(
        name="kernel-statistics",
        title="Rank, norm and FT ratio of the kernels",
        columns=(
            *_name_columns(),
            Column(ours, above="rank", digits=0),
            Column(_THEIRS, above="rank", digits=0, source="published"),
            Column(ours, above="Frobenius norm"),
            Column(_THEIRS, above="Frobenius norm", source="published"),
            Column(ours, above="FT ratio", digits=4),
            Column(_THEIRS, above="FT ratio", digits=4, source="published"),
        ),
        rows=tuple(
            (
                *row.names,
                row.statistic("rank"),
                _published(row, "rank"),
                row.statistic("frobenius_norm"),
                _published(row, "frobenius_norm"),
                row.estimate(lambda method: method.ft_ratio) if row.kernel == FT else None,
                _published(row, "ft_ratio"),
            )
            for row in rows
        ),
        note=(
            "P is the same for all methods that share a model. Ranks are at the float32 tolerance; "
            "the FT ratio is the share of the first step's change of logits that comes through "
            "the features, by norm."
        ),
        headers=len(_NAMES),
    )


def _regression_table(rows: Sequence[KernelRow], ours: str) -> Table:
    entries = "paper's protocol, per entry: "
    texts = "per text, test"
    return Table(
        name="kernel-regression",
        title="Kernel regression, accuracy in per cent",
        columns=(
            *_name_columns(),
            Column(ours, above=f"{entries}train", digits=2),
            Column(_THEIRS, above=f"{entries}train", digits=2, source="published"),
            Column(ours, above=f"{entries}test", digits=2),
            Column(_THEIRS, above=f"{entries}test", digits=2, source="published"),
            Column("constant answer", above=f"{entries}test", digits=2),
            Column("paper's protocol", above=texts, digits=2),
            Column("kernel logistic regression", above=texts, digits=2),
        ),
        rows=tuple(
            (
                *row.names,
                row.accuracy(PAPER, "train"),
                _published(row, "train_accuracy"),
                row.accuracy(PAPER, "test"),
                _published(row, "test_accuracy"),
                row.accuracy(PAPER, "constant"),
                row.accuracy(PAPER_TEXTS, "test"),
                row.accuracy(LOGISTIC, "test"),
            )
            for row in rows
        ),
        note=(
            "Per entry, each number of the one-hot labels is right or wrong on its own, so that a "
            "constant no is right for all but one of a text's classes; folds split the entries of "
            "a text. Per text, the predicted class is right or wrong once. The two must not be "
            "compared with each other."
        ),
        headers=len(_NAMES),
    )


def _name_columns() -> tuple[Column, ...]:
    return tuple(Column(name, source="names") for name in _NAMES)


def _published(row: KernelRow, name: str) -> Estimate | None:
    numbers = row.published
    value = None if numbers is None else getattr(numbers, name)
    return None if value is None else Estimate(value)


def _ratios(rows: Sequence[KernelRow]) -> tuple[str, ...]:
    """FT ratio by method for each task, beside what the paper found."""
    sentences = []
    for task in dict.fromkeys(row.task for row in rows):
        told = []
        for row in rows:
            ratio = row.estimate(lambda method: method.ft_ratio)
            if (row.task, row.kernel) == (task, FT) and ratio is not None:
                published = _published(row, "ft_ratio")
                beside = "" if published is None else f" (published {significant(published.value)})"
                told.append(f"{significant(ratio.value)}{beside} for {row.names[1]}")
        if told:
            sentences.append(f"FT ratio on {task}: {joined(told)}.")
    return tuple(sentences)


def _recipe(name: str, source: str, tasks: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        title="Kernels of the starts of fine-tuning",
        source=source,
        tasks=tasks,
        methods=METHODS,
        plan=kernel_plan,
        show=_show,
    )


RECIPES = (
    _recipe("table2", "Table 2", ("cb", "rte")),
    _recipe("table9", "Table 9", ("boolq", "wic")),
)
