"""A small maker of experiment folders: every kind of exhibit, verdict and gap, over small runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results.run_folders import write_run

from lpft.results.exhibits import (
    OVERALL,
    RECORD,
    Column,
    Estimate,
    ExperimentRecord,
    Figure,
    Panel,
    Series,
    Table,
    Verdict,
)

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
NAMES = {"lp": "LP", "ft": "FT", "lp-ft": "LP-FT", "lora": "LoRA", "lp-lora": "LP-LoRA"}
SEEDS = (0, 1, 2)
TASKS = {"cb": ("contradiction", "entailment", "neutral"), "rte": ("entailment", "not_entailment")}
OURS, THEIRS = "minilm", "roberta-base, published"


def run_name(task: str, method: str, seed: int) -> str:
    return f"runs/{task}/{method}-seed{seed}"


def write_behind(
    folder: Path, tasks: Sequence[str] = ("cb",), methods: Sequence[str] = METHODS
) -> None:
    """The runs that the sample's numbers name: small ones of three seeds."""
    for task in tasks:
        for method in methods:
            for seed in SEEDS:
                write_run(
                    folder / run_name(task, method, seed),
                    method,
                    seed=seed,
                    data_name=task,
                    classes=TASKS[task],
                    splits={"validation": 20, "test": 40},
                    split_protocol="paper",
                )


def write_experiment(folder: Path, record: ExperimentRecord | dict[str, Any]) -> Path:
    """Write ``experiment.json`` into a folder that may hold runs, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = record.as_json() if isinstance(record, ExperimentRecord) else record
    (folder / RECORD).write_text(json.dumps(written), encoding="utf-8")
    return folder


def sample_experiment(**changes: Any) -> ExperimentRecord:
    """An experiment with every kind of exhibit, in which some runs failed."""
    values: dict[str, Any] = {
        "name": "sample",
        "title": "Test scores and feature change, done again",
        "protocol": "paper",
        "model": "minilm",
        "settings": {"tasks": ["cb", "rte"], "seeds": [0, 1, 2], "epochs": 3.0, "data_dir": None},
        "exhibits": (
            scores_table(),
            features_table(),
            contrasts_table(),
            long_table(),
            lines_figure(),
            small_multiples(),
            points_figure(),
            scatter_figure(),
            heat_figure(),
        ),
        "verdicts": sample_verdicts(),
        "findings": (
            "LP-FT is ahead of FT by 2.1 points on CB (95 % interval 0.4 to 3.9); on RTE the "
            "interval includes 0.",
            "Most of the difference in feature change at published rates comes with the rate.",
        ),
        "differences": (
            "minilm in place of roberta-base",
            "3 seeds in place of 5, 3 epochs in place of 10",
            "500 training rows of each task",
        ),
        "failures": (
            (run_name("rte", "lora", 2), "training loss is not finite after step 12"),
            ("t-SNE of rte", "no finished run of lora with seed 2"),
        ),
        "timings": {"runs": 1832.0, "kernels": 61.0, "show": 2.4},
    }
    return ExperimentRecord(**(values | changes))


def scores_table() -> Table:
    """Means of three seeds beside published ones; one of two seeds, one missing."""
    rows = []
    for task, base in (("cb", 78.0), ("rte", 57.0)):
        for position, method in enumerate(METHODS):
            count = 2 if (task, method) == ("rte", "lora") else 3
            runs = tuple(run_name(task, method, seed) for seed in SEEDS[:count])
            mean = base + 1.37 * position
            ours: Estimate | None = Estimate(mean, sd=0.82, count=count, runs=runs)
            if (task, method) == ("rte", "lp-lora"):
                ours = None
            published = Estimate(base + 6.43 - position, sd=1.9, count=5)
            rows.append((task, NAMES[method], ours, published))
    return Table(
        name="sample-scores",
        title="Test scores, accuracy in per cent",
        columns=(
            Column("Data", source="names"),
            Column("Method", source="names"),
            Column(OURS, above="accuracy (%)", digits=2),
            Column(THEIRS, above="accuracy (%)", digits=2, source="published"),
        ),
        rows=tuple(rows),
        note="Accuracy on the official validation set.",
        headers=2,
    )


def features_table() -> Table:
    """Statistics with published values that need a caution: FDR and head norms."""
    measures = (("CS", 3, 0.412), ("Diff", 2, 4.31), ("FDR", None, 81.4e3), ("Norm(C)", 2, 3.25))
    columns = [Column("Data", source="names"), Column("Method", source="names")]
    for name, digits, _ in measures:
        columns.append(Column(OURS, above=name, digits=digits))
        columns.append(Column(THEIRS, above=name, digits=digits, source="published"))
    rows = []
    for method in METHODS[1:]:
        cells: list[Estimate | str | None] = ["cb", NAMES[method]]
        runs = (run_name("cb", method, 0),)
        for place, (_, _, value) in enumerate(measures):
            cells.append(Estimate(value * (1 + 0.1 * place), count=1, runs=runs))
            cells.append(Estimate(value * 1.4))
        rows.append(tuple(cells))
    return Table("features", "Features and head", tuple(columns), tuple(rows), headers=2)


def contrasts_table() -> Table:
    """Differences with intervals, in all that is there, and a reading in words."""
    runs = tuple(run_name("cb", method, seed) for seed in SEEDS for method in ("lp-ft", "ft"))
    return Table(
        name="contrasts",
        title="LP-FT minus FT on the same seeds and samples",
        columns=(
            Column("Data", source="names"),
            Column("Difference", digits=2),
            Column("Detectable", digits=2),
            Column("Reading"),
        ),
        rows=(
            (
                "cb",
                Estimate(2.1, count=3, low=0.4, high=3.9, runs=runs),
                Estimate(1.7),
                "above zero, in all three seeds, beyond what chance over samples would show",
            ),
            ("rte", Estimate(-0.2, low=-1.9, high=1.4), None, "cannot tell"),
        ),
        note="95 % bootstrap intervals over seeds and samples.",
    )


def long_table() -> Table:
    """Many rows and many columns under shared headings."""
    generator = np.random.default_rng(0)
    scales = (0.1, 0.5, 1, 2, 5, 10, 50, 100)
    return Table(
        name="head-scale",
        title="Feature change at every head scale",
        columns=(
            Column("Set", source="names"),
            Column("rank correlation", digits=2),
            *(Column(f"{scale:g}", above="feature change at scale") for scale in scales),
        ),
        rows=tuple(
            (
                f"set {place}",
                Estimate(-0.91),
                *(Estimate(float(value), sd=0.2, count=5) for value in generator.random(8)),
            )
            for place in range(40)
        ),
    )


def lines_figure() -> Figure:
    """Two methods over a logarithmic axis with bands, one of them a second time, dashed."""
    x = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
    series = []
    for place, (method, dashed) in enumerate((("ft", False), ("lp-ft", False), ("ft", True))):
        y = tuple(9.0 - place - 1.7 * float(np.log10(value)) for value in x)
        series.append(
            Series(
                label=NAMES[method] + (" (shared rate)" if dashed else ""),
                x=x,
                y=y if not dashed else (None, *y[1:]),
                method=method,
                low=tuple(value - 0.5 for value in y) if not dashed else None,
                high=tuple(value + 0.5 for value in y) if not dashed else None,
                dashed=dashed,
                runs=tuple(run_name("cb", method, seed) for seed in SEEDS),
            )
        )
    panel = Panel("test", "scale of the head", "feature change (L2)", tuple(series), x_scale="log")
    return Figure(
        name="head-scale-cb",
        title="Feature change against head scale: CB",
        kind="lines",
        panels=(panel,),
        caption="Lines are means over seeds, bands one standard deviation to either side.",
    )


def small_multiples() -> Figure:
    """Six panels of long curves; one has nothing to draw."""
    steps = tuple(float(step) for step in range(400))
    panels = []
    for place, quantity in enumerate(
        ("Training loss", "Validation accuracy", "Head norm", "Bias norm", "Logit norm", "Nothing")
    ):
        there = quantity != "Nothing"
        series = tuple(
            Series(
                label=NAMES[method],
                x=steps,
                y=tuple(
                    float(np.exp(-step / (90 + 40 * order))) + place if there else None
                    for step in steps
                ),
                method=method,
            )
            for order, method in enumerate(METHODS)
        )
        scale = "log" if quantity == "Training loss" else "linear"
        panels.append(Panel(quantity, "step", "", series, y_scale=scale))
    return Figure("training", "Along training", "lines", tuple(panels), "Every 10th step.")


def points_figure() -> Figure:
    """Methods' values with error bars at named positions, some below zero."""
    ticks = ("cb", "rte", "boolq", "wic template 0", "sst2")
    panels = []
    for title, shift in (("In distribution", 0.0), ("Out of distribution", -3.0)):
        series = []
        for place, method in enumerate(METHODS[:3]):
            y = [shift + 2.0 - place + 0.8 * tick for tick in range(5)]
            series.append(
                Series(
                    label=NAMES[method],
                    x=tuple(float(tick) for tick in range(5)),
                    y=(*y[:4], None),
                    method=method,
                    low=tuple(value - 0.9 for value in y),
                    high=tuple(value + 0.9 for value in y),
                )
            )
        panels.append(Panel(title, "", "accuracy minus LP’s (points)", tuple(series), ticks=ticks))
    return Figure(
        "gains", "Gains over LP", "points", tuple(panels), "Lines: 95 % bootstrap intervals."
    )


def scatter_figure() -> Figure:
    """Clouds of three classes with the head's named rows over them."""
    generator = np.random.default_rng(1)
    panels = []
    for title in ("pre-trained", "FT", "LP-FT"):
        centres = generator.normal(scale=9, size=(3, 2))
        series = [
            Series(
                label=name,
                x=tuple(float(v) for v in centre[0] + generator.normal(size=40)),
                y=tuple(float(v) for v in centre[1] + generator.normal(size=40)),
            )
            for name, centre in zip(TASKS["cb"], centres, strict=True)
        ]
        series.append(
            Series(
                label="rows of the head",
                x=tuple(float(v) for v in centres[:, 0] * 0.8),
                y=tuple(float(v) for v in centres[:, 1] * 0.8),
                texts=TASKS["cb"],
            )
        )
        panels.append(Panel(title, "t-SNE 1", "t-SNE 2", tuple(series)))
    return Figure("tsne", "t-SNE of features and head", "scatter", tuple(panels))


def heat_figure() -> Figure:
    """Matrices of samples by class, one of them without classes."""
    generator = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [12, 20, 6])
    panels = []
    for title, bounds in (("P", True), ("FT: F", True), ("LP-FT: F", False)):
        values = generator.random((38, 38)) + 2.0 * (labels[:, None] == labels[None, :])
        panels.append(
            Panel(
                title=title,
                x="sample",
                y="sample",
                matrix=tuple(tuple(float(v) for v in row) for row in values + values.T),
                bounds=tuple(zip(TASKS["cb"], (0, 12, 32), strict=True)) if bounds else (),
            )
        )
    return Figure("maps", "Heat maps of kernels", "heat", tuple(panels), "Trace norms.")


def sample_verdicts() -> tuple[Verdict, ...]:
    """A claim that holds, one that does not, one that cannot be told, each with comparisons."""
    first = "Diff(F) of LP-FT is smaller than of FT, and of LP-LoRA than of LoRA."
    second = "Temperature scaling lowers ECE, most for LP-FT."
    third = "FT ratio: LP-FT near 1, FT near 0.2, LoRA near 0."
    runs = tuple(run_name("cb", method, seed) for seed in SEEDS for method in ("ft", "lp-ft"))

    def effect(value: float, low: float, high: float) -> Estimate:
        return Estimate(value, sd=0.7, count=3, low=low, high=high, runs=runs)

    return (
        Verdict(1, first, OVERALL, "", Estimate(None), "", "holds", "3 of 3 comparisons hold."),
        Verdict(
            *(1, first, "cb: FT minus LP-FT", "published", effect(6.5, 5.9, 7.2)),
            *("feature change (L2)", "holds", "the interval is above 0 in all seeds", 0.9),
        ),
        Verdict(
            *(1, first, "cb: FT minus LP-FT", "shared", effect(0.6, 0.1, 1.2)),
            *("feature change (L2)", "holds", "the interval is above 0", 0.5),
        ),
        Verdict(2, second, OVERALL, "", Estimate(None), "", "does not hold", "1 of 2 does not."),
        Verdict(
            *(2, second, "cb: LP-FT", "published", effect(-1.4, -2.2, -0.5)),
            *("points of ECE", "does not hold", "ECE is higher with temperature", 1.1),
        ),
        Verdict(3, third, OVERALL, "", Estimate(None), "", "cannot tell", "One task, 3 seeds."),
        Verdict(
            *(3, third, "cb: LP-FT minus FT", "", effect(0.1, -0.4, 0.5)),
            *("FT ratio", "cannot tell", "the interval includes 0", None),
        ),
    )


def hostile_experiment(text: str) -> ExperimentRecord:
    """Hostile text in every place that takes text."""
    estimate = Estimate(1.0, sd=0.1, count=2, runs=(text, f"runs/{text}"))
    column = Column(text, above=text)
    table = Table(
        name=text,
        title=text,
        columns=(Column(text, source="names"), column, column),
        rows=((text, estimate, text),),
        note=text,
    )
    series = Series(text, (0.0, 1.0), (1.0, 2.0), texts=(text, text), runs=(text,))
    panel = Panel(text, text, text, (series,))
    figures = tuple(
        Figure(f"{kind} {text}", text, kind, (panel,), text)
        for kind in ("lines", "points", "scatter")
    )
    rows = Panel(text, text, text, (series,), ticks=(text, text))
    matrix = Panel(text, text, text, matrix=((1.0, 2.0), (2.0, 1.0)), bounds=((text, 0),))
    return ExperimentRecord(
        name=text,
        title=text,
        protocol=text,
        model=text,
        settings={text: text, "deep": {text: [text]}},
        exhibits=(
            table,
            *figures,
            Figure("rows", text, "points", (rows,), text),
            Figure("matrix", text, "heat", (matrix,), text),
        ),
        verdicts=(
            Verdict(1, text, OVERALL, text, Estimate(None), text, "holds", text),
            Verdict(1, text, text, text, estimate, text, "cannot tell", text, 0.5),
        ),
        findings=(text,),
        differences=(text,),
        failures=((text, text),),
        timings={text: 1.0},
    )
