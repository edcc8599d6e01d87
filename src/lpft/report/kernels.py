"""The kernels of one ``kernels.json`` on the page: sentences, tables, how they were made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lpft.paper import kernel_bugs
from lpft.report import figures
from lpft.report.drawing import shortened
from lpft.report.page import (
    Block,
    Chapter,
    Details,
    Facts,
    Folder,
    Note,
    Rows,
    named_sections,
    relative_link,
)
from lpft.report.runs import facts
from lpft.report.table import Columns, from_columns
from lpft.report.text import say
from lpft.results.exhibits import Column, Estimate, Format, Table, Text
from lpft.results.formats import counted, fixed, ratio_text, scientific, seconds, whole
from lpft.results.groups import method_name, model_name
from lpft.results.kernels import (
    FT,
    LOGISTIC,
    NTK,
    PAPER,
    PRETRAIN,
    RULE_NAMES,
    Accuracies,
    Dynamics,
    KernelRecord,
    KernelStatistics,
    MethodRecord,
    PathPoint,
    aligned_name,
    kernel_name,
    solver_name,
)
from lpft.results.schema import Values

VARIES = "varies"
_LONGEST_FACT = 160  # letters: kernels.json has all of them

KernelRow = tuple[tuple[MethodRecord, ...], str, KernelStatistics]
"""A kernel with the methods that have it, its key and its statistics."""


def kernel_chapter(kernels: KernelRecord, slug: str, title: str, page_folder: Path) -> Chapter:
    """What the page shows of one ``kernels.json``; ``title`` tells it from others."""
    summary = (
        ("Kernels", "statistics", read_statistics(kernels)),
        ("Kernel regression", "regression", read_regression(kernels)),
        ("Kernel regime", "path", read_path(kernels)),
        ("Certificate", "made", read_certificate(kernels)),
    )
    rows = (
        (name, f"#{slug}-{anchor}", (" ".join(sentences),))
        for name, anchor, sentences in summary
        if sentences
    )
    return Chapter(
        kind="kernels",
        slug=slug,
        title=title,
        data=kernels.data.name,
        model=model_name(kernels.model),
        summary=(what_was_computed(kernels), Rows(tuple(rows))),
        notes=tuple(Note(problem, warns=True) for problem in kernels.problems),
        sections=named_sections(slug, _sections(kernels, page_folder)),
        bugs=tuple(kernel_bugs([kernels.model])),
    )


def _sections(
    kernels: KernelRecord, page_folder: Path
) -> Iterator[tuple[str, str, tuple[Block | None, ...]]]:
    """Anchor, title and blocks of each section; blocks that the record lacks are left out."""
    yield "statistics", "P, F and the NTK", (statistics(kernels),)
    yield "spectra", "Spectra", (figures.spectra(kernels),)
    yield "heat-maps", "Heat maps", (figures.heat_maps(kernels),)
    predicted = regression(kernels)
    protocols = say("why_protocols_differ", classes=len(kernels.classes)) if predicted else None
    yield "regression", "Kernel regression under both protocols", (protocols, predicted)
    yield "alignment", "Alignment of kernels", (alignment(kernels),)
    yield "parts", "What F is made of", (figures.shares(kernels), shares(kernels))
    dynamics = (figures.dynamics(kernels), first_order(kernels), linearized(kernels))
    yield "dynamics", "Training compared with the kernel's prediction", dynamics
    along = (*read_path(kernels), figures.path(kernels), path(kernels))
    yield "path", "Kernels along training", along
    yield (
        "path-layers",
        "Where the kernel drifts",
        (figures.path_layers(kernels), path_layers(kernels)),
    )
    details = Details("Configuration, plan, environment and timings", tuple(_made(kernels)))
    folder = Folder(relative_link(kernels.folder, page_folder), (KernelRecord.FILE,))
    blocks = (folder, certificate(kernels), details if details.sections else None)
    yield "made", "How the kernels were made, and checked", blocks


def _made(kernels: KernelRecord) -> Iterator[tuple[str, Facts]]:
    """Facts under their headings: configuration, the plan of each pass, environment and time."""
    passes = kernels.plan.get("passes")
    plans = [part for part in passes if isinstance(part, Mapping)] if passes else []
    if not plans:
        plans = [kernels.plan]
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("Configuration", {k: v for k, v in kernels.config.items() if k != "output_dir"}),
        *(
            ("Plan" if len(plans) == 1 else f"Plan of pass {place}", plan)
            for place, plan in enumerate(plans, start=1)
        ),
        ("Environment", kernels.environment),
    ]
    for heading, record in sections:
        if record:
            yield heading, _short(record)
    if kernels.timings:
        yield (
            "Time",
            tuple(
                (name.removesuffix("_seconds").replace("_", " "), seconds(value))
                for name, value in kernels.timings.items()
            ),
        )


def _short(record: Values) -> Facts:
    return tuple((name, shortened(value, _LONGEST_FACT)) for name, value in facts(record))


def what_was_computed(kernels: KernelRecord) -> str:
    """One sentence: model, data, methods, rule, precision."""
    names = {"train": "training", "eval": kernels.data.eval_split or "evaluation"}
    rows = kernels.data.rows
    return say(
        "what_was_computed",
        kernels=kernels,
        rows=[f"{whole(rows[split])} {name}" for split, name in names.items() if split in rows],
        rule=RULE_NAMES.get(kernels.rule, kernels.rule),
        methods=[method.name for method in kernels.methods],
    )


def read_statistics(kernels: KernelRecord) -> list[str]:
    """FT ratios, ranks and norms of F."""
    ratios = [
        f"{ratio_text(method.ft_ratio)} for {method.name}"
        for method in kernels.methods
        if method.ft_ratio is not None
    ]
    of_f = [(m.name, f) for m in kernels.methods if (f := m.kernels.get(FT)) is not None]
    ranks = [f"{whole(f.rank)} for {name}" for name, f in of_f if f.rank is not None]
    heads = [whole(p.rank) for _, p in kernels.pretrain if p.rank is not None]
    norms = _range(((f.frobenius_norm, name) for name, f in of_f), scientific)
    ranked = {"ranks": ranks, "size": kernels.size, "heads": list(dict.fromkeys(heads))}
    return [
        *([say("ft_ratios", ratios=ratios)] if ratios else []),
        *([say("ranks", **ranked)] if ranks else []),
        *([say("frobenius_norms", norms=norms)] if norms else []),
    ]


def read_regression(kernels: KernelRecord) -> list[str]:
    """What P + F predicts under either protocol, beside a constant answer."""
    split, sentences = kernels.data.eval_split, []
    by_solver = {
        solver: [
            (method.name, answers)
            for method in kernels.methods
            if NTK in method.kernels
            and (answers := method.kernels[NTK].regression.get(solver)) is not None
        ]
        for solver in (PAPER, LOGISTIC)
    }
    paper, per_text = (
        _range(((answers.test, name) for name, answers in accuracies), fixed)
        for accuracies in by_solver.values()
    )
    if paper and split is not None:
        constants = [a.constant for _, a in by_solver[PAPER] if a.constant is not None]
        constant = max(constants, default=None)
        sentences.append(say("paper_regression", accuracy=paper, split=split, constant=constant))
    if per_text and split is not None:
        commonest = kernels.commonest_class
        sentences.append(
            say("class_regression", accuracy=per_text, split=split, commonest=commonest)
        )
    return sentences


def read_path(kernels: KernelRecord) -> list[str]:
    """Whether training stayed in the kernel regime, by which rule, and until when."""
    path = kernels.path
    if path is None:
        return []
    drift, error = (path.largest.get(name) for name in ("drift", "linearization_error"))
    return [say("kernel_regime", path=path, drift=drift, error=error)]


def _range(numbers: Iterable[tuple[float | None, str]], written: Callable[[float], str]) -> str:
    """``0.6 (LoRA) to 0.9 (LP-FT)``; empty where no method has the number."""
    known = [(value, name) for value, name in numbers if value is not None]
    if not known:
        return ""
    (low, lowest), (high, highest) = min(known), max(known)
    if len(known) == 1:
        return written(low)
    return f"{written(low)} ({lowest}) to {written(high)} ({highest})"


def read_certificate(kernels: KernelRecord) -> list[str]:
    """How far kernels were checked against plain automatic differentiation."""
    certificates = [method.certificate for method in kernels.methods]
    checked = [(c.get("entries_checked"), c.get("largest_relative_error")) for c in certificates]
    known = [(count, error) for count, error in checked if count is not None and error is not None]
    if not known:
        return []
    entries, error = sum(count for count, _ in known), max(error for _, error in known)
    products_checked = all(certificate.get("products_checked") for certificate in certificates)
    return [say("certificate", error=error, entries=entries, whole=products_checked)]


def statistics(kernels: KernelRecord) -> Table:
    """P once, then F and P + F of every method: rank, norm, kernel regression, FT ratio."""
    rows = [*_pretrain_rows(kernels), *_method_rows(kernels)]
    columns = [
        *_names_of_rows(kernels, rows),
        (Column("Rank", format="count"), [kernel.rank for *_, kernel in rows]),
        (
            Column("FN", format="scientific", full="Frobenius norm"),
            [kernel.frobenius_norm for *_, kernel in rows],
        ),
    ]
    varies = False
    for solver, above in ((PAPER, "Paper: entries"), (LOGISTIC, "Per text: class")):
        for split in ("train", "test") if solver in kernels.solvers else ():
            cells = [_agreed(row, solver, split) for row in rows]
            varies = varies or any(cell.remark for cell in cells)
            full = f"{solver_name(solver).lower()}: {split} accuracy"
            columns.append((Column(split, above, digits=3, full=full), cells))
    ratios = [owners[0].ft_ratio if name == FT else None for owners, name, _ in rows]
    columns.append((Column("FT ratio", format="ratio"), ratios))
    constants = [
        answers.constant
        for method in kernels.methods
        for kernel in method.kernels.values()
        if (answers := kernel.regression.get(PAPER)) is not None and answers.constant is not None
    ]
    note = say(
        "statistics_note",
        size=kernels.size,
        paper=PAPER in kernels.solvers,
        constant=max(constants, default=None),
        per_text=LOGISTIC in kernels.solvers,
        varies=varies,
    )
    title = f"Kernel statistics: {kernels.title}"
    return from_columns("statistics", title, columns, note, headers=2)


def _agreed(row: KernelRow, solver: str, split: str) -> Estimate:
    """An accuracy that all owners of a kernel share, or a word that says that they do not."""
    owners, name, _ = row
    answers = [method.kernels[name].regression.get(solver) for method in owners]
    values = {None if answer is None else getattr(answer, split) for answer in answers}
    return Estimate(values.pop()) if len(values) == 1 else Estimate(None, remark=VARIES)


def regression(kernels: KernelRecord) -> Table | None:
    """Every solver's accuracies on every kernel, with what a constant answer scores."""
    if not kernels.solvers:
        return None
    rows = [row for statistics in _pretrain_rows(kernels) for row in _by_regression(statistics)]
    rows += _method_rows(kernels)
    columns = _names_of_rows(kernels, rows)
    commonest = kernels.commonest_class
    for solver in kernels.solvers:
        answers = [statistics.regression.get(solver) for *_, statistics in rows]
        if solver != PAPER:
            answers = [_beside_commonest(answer, commonest) for answer in answers]
        for name in ("train", "test", "constant"):
            values = [None if answer is None else getattr(answer, name) for answer in answers]
            if name != "constant" or any(value is not None for value in values):
                columns.append((Column(name, solver_name(solver), digits=3), values))
    note = say("regression_note", eval_split=kernels.data.eval_split)
    return from_columns("regression", "Kernel regression", columns, note, headers=2)


def _beside_commonest(answer: Accuracies | None, commonest: float | None) -> Accuracies | None:
    """Accuracies with that of always answering the commonest class, where none is recorded."""
    if answer is None or answer.constant is not None:
        return answer
    return answer._replace(constant=commonest)


def alignment(kernels: KernelRecord) -> Table | None:
    """CKA of every pair of kernels, shaded in the page."""
    record = kernels.alignment
    if record is None:
        return None
    names = [aligned_name(name) for name in record.kernels]
    columns: Columns = [(Column("Kernel"), names)]
    for name, values in zip(names, zip(*record.values, strict=True), strict=True):
        cells = [None if v is None else Estimate(v, shade=min(1.0, max(0.0, v))) for v in values]
        columns.append((Column(name, digits=3), cells))
    return from_columns("alignment", "Alignment of kernels (CKA)", columns, say("alignment_note"))


def shares(kernels: KernelRecord) -> Table | None:
    """The part of F's trace that each kind of parameter and each layer adds, per method."""
    columns, parts = _parts(kernels.methods)
    if not parts:
        return None
    for method in kernels.methods:
        column = Column(method.name, format="percent", digits=1)
        columns.append((column, list(map(figures.trace_shares(method).get, parts))))
    return from_columns("shares", "What F is made of", columns, say("shares_note"), headers=2)


def _parts(
    records: Sequence[MethodRecord | PathPoint],
) -> tuple[Columns, list[tuple[str, str]]]:
    """The parts of F that some of the records have, with the columns that name them."""
    parts = [
        (by, name)
        for by in ("kind", "layer")
        for name in dict.fromkeys(name for each in records for name in getattr(each, f"{by}s"))
    ]
    columns: Columns = [
        (Column("By"), [by for by, _ in parts]),
        (Column("Part"), [name for _, name in parts]),
    ]
    return columns, parts


def certificate(kernels: KernelRecord) -> Table:
    """The head that each method starts from, and how far its kernel was checked."""
    methods, above = kernels.methods, "Certificate"
    head_starts = [
        None if m.head_start is None else Text(method_name(m.head_start), value=m.head_start)
        for m in methods
    ]
    number = Column("number", "Parameters of F", format="count", full="Parameters")
    columns: Columns = [
        (Column("Method"), [m.name for m in methods]),
        (Column("start", "Head"), head_starts),
        (Column("rank", "Head", format="count"), [m.head_rank for m in methods]),
        (Column("norm", "Head"), [m.head_norm for m in methods]),
        (Column("set", "Parameters of F"), [m.parameter_set for m in methods]),
        (number, [m.parameters for m in methods]),
    ]
    for key, name, form in (
        ("asymmetry", "asymmetry", "scientific"),
        ("smallest_eigenvalue", "smallest eigenvalue", "scientific"),
        ("largest_eigenvalue", "largest eigenvalue", "scientific"),
        ("entries_checked", "entries recomputed", "count"),
        ("products_checked", "products recomputed", "count"),
        ("largest_relative_error", "largest relative error", "scientific"),
    ):
        column = Column(name, above, format=cast(Format, form))
        columns.append((column, [m.certificate.get(key) for m in methods]))
    errors = [m.products_error for m in methods]
    fast_products = any(error is not None for error in errors)
    if fast_products:
        columns.append((Column("error of fast products", above, format="scientific"), errors))
    note = say("certificate_note", fast_products=fast_products)
    return from_columns("certificate", "Heads and certificate", columns, note)


def first_order(kernels: KernelRecord) -> Table | None:
    """Relative error of the first-order change of logits and features, by rate."""
    rows = [(name, step) for name, dynamics in _dynamics(kernels) for step in dynamics.first_order]
    if not rows:
        return None
    columns: Columns = [
        (Column("Method"), [name for name, _ in rows]),
        (Column("Rate", digits=1, format="scientific"), [step.rate for _, step in rows]),
    ]
    for name in ("logits", "features"):
        column = Column(name, "Relative error", digits=1, format="scientific")
        columns.append((column, [getattr(step, name) for _, step in rows]))
    trained, evaluated = _texts(kernels, "train"), _texts(kernels, "eval")
    note = say("first_order_note", trained=trained, evaluated=evaluated)
    title = "One step compared with the first order"
    return from_columns("first-order", title, columns, note, headers=2)


def linearized(kernels: KernelRecord) -> Table | None:
    """Error and losses of training in the kernel's linear model, by number of steps."""
    rows = [
        (name, dynamics, place)
        for name, dynamics in _dynamics(kernels)
        for place in range(len(dynamics.steps))
        if dynamics.trajectories
    ]
    if not rows:
        return None
    columns: Columns = [
        (Column("Method"), [name for name, *_ in rows]),
        (Column("Rate", digits=1, format="scientific"), [dynamics.rate for _, dynamics, _ in rows]),
        (Column("Steps", format="count"), [dynamics.steps[place] for _, dynamics, place in rows]),
    ]
    for split, above in (("train", "Training texts"), ("eval", "Evaluated texts")):
        for name, key in (("error", "error"), ("NLL", "real"), ("linear NLL", "linearized")):
            values = [
                None
                if split not in dynamics.trajectories
                else getattr(dynamics.trajectories[split], key)[place]
                for _, dynamics, place in rows
            ]
            columns.append((Column(name, above, digits=None if key == "error" else 3), values))
    note = say("linearized_note", trained=_texts(kernels, "train"))
    title = "Training compared with the linear model"
    return from_columns("linearized", title, columns, note, headers=3)


def path(kernels: KernelRecord) -> Table | None:
    """Drift, alignment, error of the linear model, head and features at every epoch of a run."""
    if kernels.path is None:
        return None
    points = kernels.path.points
    columns: Columns = [(Column("Epoch"), [f"{point.epoch:g}" for point in points])]
    for name in (PRETRAIN, FT, NTK):
        column = Column(kernel_name(name), "Drift", digits=3, full=f"drift of {kernel_name(name)}")
        columns.append((column, [point.drift.get(name) for point in points]))
    norms = [point.frobenius_norm.get(NTK) for point in points]
    columns.append((Column("P + F", "Norm", format="scientific", full="norm of P + F"), norms))
    for key in ("start", "labels"):
        values = [getattr(point, f"alignment_with_{key}").get(NTK) for point in points]
        columns.append((Column(key, "CKA with", digits=3), values))
    for key in ("train", "eval"):
        errors = [point.linearization_error.get(key) for point in points]
        columns.append((Column(key, "Linear model", full=f"linear model: {key} error"), errors))
    changes, norms = [p.feature_difference for p in points], [p.head_norm for p in points]
    columns.append((Column("change", "Feature", full="feature change"), changes))
    columns.append((Column("norm", "Head", full="head norm"), norms))
    note = say("path_note", kept=kernels.path.kept_epoch)
    return from_columns("path", "Kernels along training", columns, note)


def path_layers(kernels: KernelRecord) -> Table | None:
    """Drift of the part of F that each kind of parameter and each layer adds, by epoch."""
    if kernels.path is None:
        return None
    later = kernels.path.points[1:]
    columns, parts = _parts(later)
    if not parts:
        return None
    for point in later:
        drifts = [getattr(point, f"{by}s").get(name) for by, name in parts]
        name = f"{point.epoch:g}"
        full = f"drift at epoch {name}"
        columns.append((Column(name, "Drift at epoch", digits=3, full=full), drifts))
    note = say("path_layers_note")
    return from_columns("path-layers", "Where the kernel drifts", columns, note, headers=2)


def _dynamics(kernels: KernelRecord) -> list[tuple[str, Dynamics]]:
    return [(m.name, m.dynamics) for m in kernels.methods if m.dynamics is not None]


def _texts(kernels: KernelRecord, split: str) -> str:
    """``8 training texts``; of the first method, as all have the same."""
    named = {"train": "training", "eval": kernels.data.eval_split or "evaluated"}
    rows = _dynamics(kernels)[0][1].rows.get(split)
    return counted(0 if rows is None else int(rows), f"{named[split]} text")


def _names_of_rows(kernels: KernelRecord, rows: Sequence[KernelRow]) -> Columns:
    return [
        (Column("Method"), [kernels.owners_name(owners) for owners, *_ in rows]),
        (Column("Kernel"), [kernel_name(name) for _, name, _ in rows]),
    ]


def _pretrain_rows(kernels: KernelRecord) -> list[KernelRow]:
    return [(owners, PRETRAIN, statistics) for owners, statistics in kernels.pretrain]


def _method_rows(kernels: KernelRecord) -> list[KernelRow]:
    """F and P + F of every method, then kernels that the paper does not have."""
    rows: list[KernelRow] = []
    for method in kernels.methods:
        others = [name for name in method.kernels if name not in (PRETRAIN, FT, NTK)]
        names = [name for name in (FT, NTK) if name in method.kernels] + others
        rows += [((method,), name, method.kernels[name]) for name in names]
    return rows


def _by_regression(row: KernelRow) -> list[KernelRow]:
    """The same kernel once for each different regression on it."""
    owners, name, _ = row
    groups: list[tuple[list[MethodRecord], KernelStatistics]] = []
    for method in owners:
        own = method.kernels[name]
        same = next((group for group, s in groups if s.regression == own.regression), None)
        if same is None:
            groups.append(([method], own))
        else:
            same.append(method)
    return [(tuple(group), name, statistics) for group, statistics in groups]
