"""Sentences on kernels, each computed from the numbers of one ``kernels.json``."""

from collections.abc import Callable, Sequence

from lpft.report.numbers import fixed, joined, ratio_text, scientific, whole
from lpft.results.groups import model_name
from lpft.results.kernels import (
    FT,
    LOGISTIC,
    NTK,
    PAPER,
    RULE_NAMES,
    Accuracies,
    KernelRecord,
    MethodRecord,
)

Value = Callable[[MethodRecord], float | None]


def what_was_computed(kernels: KernelRecord) -> str:
    """One sentence: model, data, methods, rule, precision."""
    names = {"train": "training", "eval": kernels.eval_split or "evaluation"}
    rows = [
        f"{whole(kernels.rows[split])} {name}"
        for split, name in names.items()
        if split in kernels.rows
    ]
    sizes = [f"{joined(rows)} texts"] if rows else []
    sizes.append(f"{len(kernels.classes)} classes")
    how = [f"{RULE_NAMES.get(kernels.rule, kernels.rule)} kernel"]
    if kernels.dtype is not None:
        how[0] += f" in {kernels.dtype}"
    if kernels.max_length is not None:
        how.append(f"texts of at most {whole(kernels.max_length)} tokens")
    if kernels.seed is not None:
        how.append(f"seed {whole(kernels.seed)}")
    methods = joined([method.name for method in kernels.methods])
    return (
        f"Empirical NTK of {model_name(kernels.model)} on {kernels.data_name} "
        f"({', '.join(sizes)}) for {methods}: {', '.join(how)}."
    )


def read_statistics(kernels: KernelRecord) -> list[str]:
    """FT ratios, ranks and norms of F."""
    sentences = []
    ratios = _told(kernels, lambda method: method.ft_ratio, ratio_text)
    if ratios:
        sentences.append(
            f"FT ratio: {joined(ratios)}. It is the share of the first step's change of logits "
            "that comes through the features, by norm."
        )
    ranks = _told(kernels, _of_ft("rank"), whole)
    if ranks:
        of = "" if kernels.size is None else f" of {whole(kernels.size)}"
        heads = [whole(s.rank) for _, s in kernels.pretrain if s.rank is not None]
        beside = f"; P has {joined(list(dict.fromkeys(heads)))}" if heads else ""
        sentences.append(f"Rank of F{of}: {joined(ranks)}{beside}.")
    norms = _range(kernels, _of_ft("frobenius_norm"), scientific)
    if norms:
        sentences.append(f"Frobenius norm of F: {norms}.")
    return sentences


def read_regression(kernels: KernelRecord) -> list[str]:
    """What P + F predicts under either protocol, beside a constant answer."""
    split = kernels.eval_split
    if split is None:
        return []
    sentences = []
    paper = _range(kernels, _test(PAPER), fixed)
    if paper:
        constants = [_answers(method, PAPER).constant for method in kernels.methods]
        known = [value for value in constants if value is not None]
        beside = f", where a constant answer scores {fixed(max(known))}" if known else ""
        sentences.append(
            f"Kernel regression on P + F by the paper's protocol is right for {paper} of the "
            f"{split} entries{beside}."
        )
    honest = _range(kernels, _test(LOGISTIC), fixed)
    if honest:
        commonest = kernels.commonest_class("eval")
        beside = (
            ""
            if commonest is None
            else f", where training's commonest class scores {fixed(commonest)}"
        )
        sentences.append(
            f"Kernel logistic regression on it predicts the class of {honest} of the {split} "
            f"texts{beside}."
        )
    return sentences


def why_protocols_differ(kernels: KernelRecord) -> str:
    """Why the two accuracies of kernel regression must not be compared, in plain words."""
    classes = len(kernels.classes)
    return (
        "The two protocols answer different questions. In the paper's, every entry of the one-hot "
        "labels is a row of its own: is this text of this class, yes or no? One that always says "
        f"no is right for {classes - 1} entries of {classes}, that is "
        f"{fixed((classes - 1) / classes)}, without having learnt anything, and entries of one "
        "text can lie on both sides of a cross-validation fold. In the other, the class that the "
        "kernel predicts is right or wrong once for each text, and folds keep a text whole. The "
        "two must not be compared with each other, and of the paper's number only its lead over "
        "the constant answer says something."
    )


def read_certificate(kernels: KernelRecord) -> list[str]:
    """How far entries were checked against plain automatic differentiation."""
    checked = [
        (count, error)
        for method in kernels.methods
        if (count := method.certificate.get("entries_checked")) is not None
        and (error := method.certificate.get("largest_relative_error")) is not None
    ]
    if not checked:
        return []
    entries = whole(sum(count for count, _ in checked))
    largest = scientific(max(error for _, error in checked), 1)
    return [
        f"Largest relative error {largest} among {entries} random entries that plain "
        "automatic differentiation computed again."
    ]


def _of_ft(name: str) -> Value:
    def value(method: MethodRecord) -> float | None:
        found: float | None = getattr(method.kernels.get(FT), name, None)
        return found

    return value


def _test(solver: str) -> Value:
    return lambda method: _answers(method, solver).test


def _answers(method: MethodRecord, solver: str) -> Accuracies:
    kernel = method.kernels.get(NTK)
    nothing = Accuracies(None, None, None)
    return nothing if kernel is None else kernel.regression.get(solver, nothing)


def _told(kernels: KernelRecord, value: Value, written: Callable[[float], str]) -> list[str]:
    """``0.1987 for FT`` of every method that has the number."""
    found = [(method.name, value(method)) for method in kernels.methods]
    return [f"{written(number)} for {name}" for name, number in found if number is not None]


def _range(kernels: KernelRecord, value: Value, written: Callable[[float], str]) -> str:
    """``0.6 (LoRA) to 0.9 (LP-FT)``; empty where no method has the number."""
    known: Sequence[tuple[float, str]] = [
        (number, method.name) for method in kernels.methods if (number := value(method)) is not None
    ]
    if not known:
        return ""
    (low, lowest), (high, highest) = min(known), max(known)
    if len(known) == 1:
        return written(low)
    return f"{written(low)} ({lowest}) to {written(high)} ({highest})"
