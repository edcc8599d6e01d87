"""Tables of kernels: the layout of the paper's tables 2 and 9, regression, alignment, shares."""

from collections.abc import Mapping, Sequence

from lpft.report.grid import Cell, Column, Table, from_columns, text_cells
from lpft.report.numbers import ABSENT, fixed, ratio_text, scientific, significant, whole
from lpft.results.groups import method_name
from lpft.results.kernels import (
    FT,
    LOGISTIC,
    NTK,
    PAPER,
    PRETRAIN,
    KernelRecord,
    KernelStatistics,
    MethodRecord,
    Share,
    aligned_name,
    kernel_name,
    solver_name,
)

VARIES = "varies"

Row = tuple[tuple[MethodRecord, ...], str, KernelStatistics]
Columns = list[tuple[Column, Sequence[Cell]]]


def statistics(kernels: KernelRecord) -> Table:
    """P once, then F and P + F of every method: rank, norm, kernel regression, FT ratio."""
    rows = [*_pretrain_rows(kernels), *_method_rows(kernels)]
    columns: Columns = [
        (Column("Method", numeric=False), _method_cells(kernels, rows)),
        (Column("Kernel", numeric=False), text_cells([kernel_name(name) for _, name, _ in rows])),
        (Column("Rank"), [_whole(s.rank) for _, _, s in rows]),
        (Column("FN", full="Frobenius norm"), [_scientific(s.frobenius_norm) for _, _, s in rows]),
    ]
    for solver, above in ((PAPER, "Paper: entries"), (LOGISTIC, "Per text: class")):
        if solver in kernels.solvers:
            named = solver_name(solver).lower()
            for split in ("train", "test"):
                cells = [_agreed(row, solver, split) for row in rows]
                columns.append((Column(split, above, full=f"{named}: {split} accuracy"), cells))
    ratios = [owners[0].ft_ratio if name == FT else None for owners, name, _ in rows]
    columns.append((Column("FT ratio"), [Cell(ratio_text(value), value) for value in ratios]))
    return from_columns(
        "statistics",
        f"Kernel statistics: {kernels.title}",
        columns,
        note=_statistics_note(kernels, columns),
        headers=2,
        spanning=True,
    )


def _statistics_note(kernels: KernelRecord, columns: Columns) -> str:
    size = f" ({whole(kernels.size)} x {whole(kernels.size)})" if kernels.size is not None else ""
    parts = [
        f"Kernels of the training texts{size}. P stands for that matrix times the identity of the "
        "classes. Rank: singular values above the float32 tolerance; FN: Frobenius norm."
    ]
    if PAPER in kernels.solvers:
        constants = {
            found.constant
            for method in kernels.methods
            for s in method.kernels.values()
            if (found := s.regression.get(PAPER)) is not None and found.constant is not None
        }
        scores = f": a constant answer scores {fixed(max(constants))}" if constants else ""
        parts.append(
            "Paper: accuracy over every entry of the one-hot labels, by the paper's protocol"
            f"{scores}."
        )
    if LOGISTIC in kernels.solvers:
        parts.append("Per text: share of texts whose class kernel logistic regression predicts.")
    if any(cell.text == VARIES for _, cells in columns for cell in cells):
        parts.append(
            "Varies: regression on P starts from each method's own logits; the table of kernel "
            "regression has them all."
        )
    return " ".join(parts)


def regression(kernels: KernelRecord) -> Table | None:
    """Every solver's accuracies on every kernel, with what a constant answer scores."""
    if not kernels.solvers:
        return None
    rows = [row for found in _pretrain_rows(kernels) for row in _by_regression(found)]
    rows += _method_rows(kernels)
    columns: Columns = [
        (Column("Method", numeric=False), _method_cells(kernels, rows)),
        (Column("Kernel", numeric=False), text_cells([kernel_name(name) for _, name, _ in rows])),
    ]
    commonest = kernels.commonest_class("eval")
    for solver in kernels.solvers:
        answers = [s.regression.get(solver) for _, _, s in rows]
        train = [None if found is None else found.train for found in answers]
        test = [None if found is None else found.test for found in answers]
        constant = [
            found.constant if found.constant is not None or solver == PAPER else commonest
            for found in answers
            if found is not None
        ]
        above = solver_name(solver)
        columns += [(Column("train", above), [_accuracy(value) for value in train])]
        columns += [(Column("test", above), [_accuracy(value) for value in test])]
        if any(value is not None for value in constant):
            known = iter(constant)
            cells = [_accuracy(None if found is None else next(known)) for found in answers]
            columns.append((Column("constant", above), cells))
    note = (
        "Accuracies as fractions. Paper's protocol: a binary logistic regression guesses every "
        "entry of the one-hot labels, and every entry counts; a constant answer is right for all "
        "entries but one of each text. Per text, and other solvers: the predicted class counts, "
        "once for each text; the constant answer is the commonest class of training, on the test "
        "split"
    )
    tested = (
        "There is no evaluation split, so there is no test accuracy"
        if kernels.eval_split is None
        else f"Test accuracies are those of the {kernels.eval_split} split"
    )
    return from_columns(
        "regression",
        "Kernel regression",
        columns,
        note=f"{note}. {tested}.",
        headers=2,
        spanning=True,
    )


def alignment(kernels: KernelRecord) -> Table | None:
    """CKA of every pair of kernels, shaded in the page."""
    found = kernels.alignment
    if found is None:
        return None
    names = [aligned_name(name) for name in found.kernels]
    columns: Columns = [(Column("Kernel", numeric=False), text_cells(names))]
    for position, name in enumerate(names):
        values = [row[position] for row in found.values]
        cells = [
            Cell(fixed(value), value, shade=None if value is None else min(1.0, max(0.0, value)))
            for value in values
        ]
        columns.append((Column(name), cells))
    note = (
        "Centred kernel alignment on the training texts, centred over texts for each class: 1 "
        "where one kernel is a multiple of the other, 0 where they have nothing in common."
    )
    return from_columns("alignment", "Alignment of kernels (CKA)", columns, note=note)


def shares(kernels: KernelRecord) -> Table | None:
    """The part of F's trace that each kind of parameter and each layer adds, per method."""
    rows = [
        (above, name)
        for above, parts in (("kind", _all_kinds(kernels)), ("layer", _all_layers(kernels)))
        for name in parts
    ]
    if not rows:
        return None
    columns: Columns = [
        (Column("By", numeric=False), text_cells([above for above, _ in rows])),
        (Column("Part", numeric=False), text_cells([name for _, name in rows])),
    ]
    for method in kernels.methods:
        found = {"kind": trace_shares(method, "kind"), "layer": trace_shares(method, "layer")}
        values = [found[above].get(name) for above, name in rows]
        columns.append((Column(method.name), [_percent(value) for value in values]))
    note = (
        "Shares of the trace of F, which is a sum over parameters. A part that a method does not "
        "train has none."
    )
    return from_columns(
        "shares",
        "What F is made of",
        columns,
        note=note,
        headers=2,
        spanning=True,
    )


def trace_shares(method: MethodRecord, by: str) -> dict[str, float]:
    """``trace of the part / trace of F`` for each layer, or each kind of parameter."""
    parts: Mapping[str, Share] = method.kinds if by == "kind" else method.layers
    kernel = method.kernels.get(FT)
    if kernel is None or kernel.trace is None or kernel.trace <= 0:
        return {}
    known = {name: part.trace for name, part in parts.items() if part.trace is not None}
    return {name: trace / kernel.trace for name, trace in known.items()}


def certificate(kernels: KernelRecord) -> Table:
    """The head that each method starts from, and how far its kernel was checked."""
    methods = kernels.methods

    def checked(key: str) -> list[Cell]:
        values = [method.certificate.get(key) for method in methods]
        whole_number = key == "entries_checked"
        return [_whole(value) if whole_number else _scientific(value) for value in values]

    columns: Columns = [
        (Column("Method", numeric=False), text_cells([method.name for method in methods])),
        (Column("start", "Head", numeric=False), [_start(m.head_start) for m in methods]),
        (Column("rank", "Head"), [_whole(m.head_rank) for m in methods]),
        (Column("norm", "Head"), [Cell(significant(m.head_norm), m.head_norm) for m in methods]),
        (
            Column("set", "Parameters of F", numeric=False),
            [
                Cell(ABSENT if m.parameter_set is None else m.parameter_set, m.parameter_set)
                for m in methods
            ],
        ),
        (
            Column("number", "Parameters of F", full="Parameters"),
            [_whole(m.parameters) for m in methods],
        ),
        (Column("asymmetry", "Certificate"), checked("asymmetry")),
        (Column("smallest eigenvalue", "Certificate"), checked("smallest_eigenvalue")),
        (Column("largest eigenvalue", "Certificate"), checked("largest_eigenvalue")),
        (Column("entries recomputed", "Certificate"), checked("entries_checked")),
        (Column("largest relative error", "Certificate"), checked("largest_relative_error")),
    ]
    note = (
        "Of F. Entries recomputed: random entries, computed again by plain automatic "
        "differentiation, with the largest relative error among them. Asymmetry: norm of the "
        "difference from the transpose over the norm. A kernel that is not symmetric has no "
        "eigenvalues here."
    )
    errors = [method.products_error for method in methods]
    if any(error is not None for error in errors):
        column = Column("error of fast products", "Certificate")
        columns.append((column, [_scientific(error) for error in errors]))
        note += " Error of fast products: relative difference from exact products on a few texts."
    return from_columns("certificate", "Heads and certificate", columns, note=note)


def _all_kinds(kernels: KernelRecord) -> list[str]:
    return list(dict.fromkeys(name for method in kernels.methods for name in method.kinds))


def _all_layers(kernels: KernelRecord) -> list[str]:
    return list(dict.fromkeys(name for method in kernels.methods for name in method.layers))


def _pretrain_rows(kernels: KernelRecord) -> list[Row]:
    return [(owners, PRETRAIN, found) for owners, found in kernels.pretrain]


def _method_rows(kernels: KernelRecord) -> list[Row]:
    """F and P + F of every method, then kernels that the paper does not have."""
    rows: list[Row] = []
    for method in kernels.methods:
        others = [name for name in method.kernels if name not in (PRETRAIN, FT, NTK)]
        names = [name for name in (FT, NTK) if name in method.kernels] + others
        rows += [((method,), name, method.kernels[name]) for name in names]
    return rows


def _by_regression(row: Row) -> list[Row]:
    """The same kernel once for each different regression on it."""
    owners, name, _ = row
    found: list[tuple[list[MethodRecord], KernelStatistics]] = []
    for method in owners:
        own = method.kernels[name]
        same = next((group for group, s in found if s.regression == own.regression), None)
        if same is None:
            found.append(([method], own))
        else:
            same.append(method)
    return [(tuple(group), name, statistics) for group, statistics in found]


def _method_cells(kernels: KernelRecord, rows: Sequence[Row]) -> list[Cell]:
    return text_cells([kernels.owners_name(owners) for owners, _, _ in rows])


def _agreed(row: Row, solver: str, split: str) -> Cell:
    """An accuracy that all owners of a kernel share, or a word that says that they do not."""
    owners, name, _ = row
    answers = [method.kernels[name].regression.get(solver) for method in owners]
    values = {None if found is None else getattr(found, split) for found in answers}
    return _accuracy(values.pop()) if len(values) == 1 else Cell(VARIES, None)


def _accuracy(value: float | None) -> Cell:
    return Cell(fixed(value), value)


def _percent(value: float | None) -> Cell:
    return Cell(ABSENT if value is None else f"{fixed(100 * value, 1)} %", value)


def _scientific(value: float | None) -> Cell:
    return Cell(scientific(value), value)


def _whole(value: float | None) -> Cell:
    return Cell(whole(value), None if value is None else int(value))


def _start(value: str | None) -> Cell:
    return Cell(ABSENT if value is None else method_name(value), value)
