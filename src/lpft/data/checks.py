"""Problems in data that are worth knowing before training on it."""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpft.data.duplicates import SKETCH, find_repetitions
from lpft.data.examples import Examples, Label, Text, TextData
from lpft.data.labels import show
from lpft.data.splits import FEW_ROWS, labelled_rows, scored_by_folds, validation_kind
from lpft.errors import InputError

logger = logging.getLogger(__name__)

SMALL_CLASS = 10
"""A class with fewer training rows than this is reported."""

SMALL_SPLIT = 50
"""A validation or test set with fewer rows than this is reported."""

IMBALANCE = 10
"""Imbalance is reported from this ratio of the largest to the smallest class on."""

MOST_ROWS = 1000
"""Rows of a split that a finding's record names."""

Rows = Mapping[str, Sequence[int]]
"""Row numbers by split, as the user's file counts them, from 1."""

Level = Literal["error", "warning", "note"]
_ORDER: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One observation: an ``error`` makes results meaningless, a ``warning`` limits them.

    A ``note`` is worth a look, and found in good data too.

    Attributes:
        kind: ``missing-class``, ``small-class``, ``imbalance``, ``similar-classes``,
            ``small-validation``, ``small-test``, ``duplicates``, ``near-duplicates``,
            ``conflicting-labels``, ``near-conflicts``, ``leakage``, ``near-leakage``, ``empty``,
            ``markup``, ``encoding``, ``truncation`` or ``label-errors``.
        message: without texts of the data, so that it may be written anywhere.
        rows: the rows that it is about, in the order in which to look at them.
        examples: a few of them in words, with their texts: for a terminal only.
        suggested: the class that fits each of the rows better, of ``label-errors``.
    """

    level: Level
    kind: str
    message: str
    rows: Rows = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    suggested: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def line(self) -> str:
        """The message with the numbers of the first rows."""
        numbers = row_numbers(self.rows, {split: len(rows) for split, rows in self.rows.items()})
        return f"{self.message} ({numbers})" if numbers else self.message

    def as_json(self) -> dict[str, Any]:
        """The finding for a file: without texts, and with at most 1,000 row numbers per split."""
        rows_by_split = {
            split: [int(row) for row in rows[:MOST_ROWS]] for split, rows in self.rows.items()
        }
        suggested = {split: list(names[:MOST_ROWS]) for split, names in self.suggested.items()}
        return {
            "level": self.level,
            "kind": self.kind,
            "message": self.message,
            "rows": rows_by_split,
            "total": {split: len(rows) for split, rows in self.rows.items()},
            **({"suggested": suggested} if suggested else {}),
        }


def row_numbers(rows: Rows, total: Mapping[str, int], most: int = 10) -> str:
    """The first row numbers of each split in words; ``total`` says how many there are."""
    parts = []
    for split, numbers in rows.items():
        more = total[split] - min(most, len(numbers))
        noun = "row" if total[split] == 1 else "rows"
        first = ", ".join(map(str, numbers[:most]))
        parts.append(f"{noun} {first}{f' and {more} more' if more else ''} of {split}")
    return "; ".join(parts)


def as_parameters(message: str) -> str:
    """A message with its options, such as ``--max-length``, as Python parameters."""
    return re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), message)


def log_findings(findings: Iterable[Finding], name: str | None = None) -> None:
    """A line for each finding, with the name of the data where there are several."""
    for finding in findings:
        log = logger.info if finding.level == "note" else logger.warning
        log("%s%s", "" if name is None else f"{name}: ", finding.line())
        if finding.suggested:
            log("labels that fit better: %s", "; ".join(_suggestions(finding)))


def _suggestions(finding: Finding, most: int = 10) -> list[str]:
    """``rows 7 good, 9 bad of train``: the first rows of each split with the better label."""
    return [
        ", ".join(
            f"{row} {label}"
            for row, label in zip(rows[:most], finding.suggested[split], strict=False)
        )
        + f" of {split}"
        for split, rows in finding.rows.items()
    ]


def check_data(data: TextData, *, fine_tunes: bool = True) -> list[Finding]:
    """Findings about classes, sizes, repeated texts and the contents of texts, errors first.

    :mod:`lpft.data.duplicates` says which texts repeat others. Linear probing, which does not
    fine-tune, may be scored on other rows than fine-tuning (:func:`validation_kind`).
    """
    sizes = _sizes(data, fine_tunes)
    findings = [*_classes(data), *sizes, *_repetitions(data), *_contents(data)]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.level))


def checked_splits(data: TextData) -> dict[str, Examples]:
    """The splits as the user knows them: rows held out of the training file are still train."""
    splits = data.splits()
    if data.held_out:
        splits["train"] = labelled_rows(data)
        del splits["validation"]
    return splits


def _classes(data: TextData) -> Iterator[Finding]:
    splits = checked_splits(data)
    for split, examples in splits.items():
        missing = [name for name, count in _class_counts(data, examples).items() if count == 0]
        if missing and split == "train":
            message = f"train has no rows of {show(missing)}: they can never be predicted"
            yield Finding("error", "missing-class", message)
        elif missing:
            message = f"{split} has no rows of {show(missing)}: its metrics say nothing about them"
            yield Finding("warning", "missing-class", message)
    counts = _class_counts(data, splits["train"])
    counts = {name: count for name, count in counts.items() if count > 0}
    small = [name for name, count in counts.items() if count < SMALL_CLASS]
    if small:
        message = (
            f"fewer than {SMALL_CLASS} training rows of {show(small)}: expect unreliable "
            "predictions for them"
        )
        yield Finding("warning", "small-class", message, _rows_of_classes(data, small, "train"))
    if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
        largest, total = max(counts, key=lambda name: counts[name]), sum(counts.values())
        message = (
            f"the largest class, {show([largest])}, has {counts[largest]} training rows "
            f"({counts[largest] / total:.0%}), the smallest {min(counts.values())}: look at macro "
            "F1 beside accuracy, consider --class-weight"
        )
        yield Finding("warning", "imbalance", message)
    yield from _similar_classes(data)


def _similar_classes(data: TextData) -> Iterator[Finding]:
    """Class names that are the same but for case, spacing, punctuation and Unicode form."""
    alike = defaultdict(list)
    for name in data.classes:
        alike[_class_key(name)].append(name)
    splits = checked_splits(data)
    counts = _class_counts(data, splits["train"])
    for names in alike.values():
        if len(names) > 1:
            names.sort(key=lambda name: -counts.get(name, 0))
            message = (
                f"the classes {show(names)} look like one class written in {len(names)} ways: "
                "write its name in one way, or give the classes names that differ by more"
            )
            rows = _rows_of_classes(data, names[1:], *splits)
            yield Finding("warning", "similar-classes", message, rows)


def _class_key(name: Label) -> str:
    text = unicodedata.normalize("NFKC", str(name)).casefold().strip()
    number = re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text)
    if number is not None:
        return str(Decimal(text).normalize())  # 1, 1.0 and 01
    # keep the marks by which C, C++ and C# differ, or + and -
    bare = re.sub(r"[\s_\-\u2010-\u2015./,;:'\"`\u2018-\u201f()\[\]!?]", "", text)
    return bare if bare else text


def _class_counts(data: TextData, examples: Examples) -> dict[Label, int]:
    """Rows of each class; empty where the rows have no labels."""
    if examples.labels is None:
        return {}
    labels = examples.labels[examples.labels >= 0]
    counts = np.bincount(labels, minlength=len(data.classes)).tolist()
    return dict(zip(data.classes, counts, strict=True))


def _rows_of_classes(data: TextData, names: Sequence[Label], *splits: str) -> Rows:
    indices = [data.classes.index(name) for name in names]
    examples = checked_splits(data)
    rows = {}
    for split in splits:
        labels = examples[split].labels
        if labels is not None:
            rows[split] = examples[split].rows[np.isin(labels, indices)].tolist()
    return _without_empty(rows)


def _without_empty(rows: Rows) -> Rows:
    return {split: numbers for split, numbers in rows.items() if len(numbers) > 0}


def count_scoring_rows(data: TextData, *, fine_tunes: bool) -> int:
    """How many rows score a training: validation rows, or the labelled rows that folds can score.

    Of :data:`~lpft.data.splits.FEW_ROWS` labelled rows or more all are counted.

    Raises:
        InputError: folds cannot score any.
    """
    if validation_kind(data, fine_tunes=fine_tunes) != "folds":
        return len(data.validation)
    rows = len(labelled_rows(data))
    return rows if rows >= FEW_ROWS else len(scored_by_folds(data))


def _sizes(data: TextData, fine_tunes: bool) -> Iterator[Finding]:
    try:
        rows = count_scoring_rows(data, fine_tunes=fine_tunes)
    except InputError as error:
        yield Finding("error", "small-validation", str(error))
    else:
        if rows < SMALL_SPLIT:
            folds = validation_kind(data, fine_tunes=fine_tunes) == "folds"
            what = f"{rows} {'row' if rows == 1 else 'rows'}{', by folds over all rows' * folds}"
            rests = (
                "the best epoch and the temperature rest" if fine_tunes else "the temperature rests"
            )
            message = f"validation has {what}: {rests} on {'it' if rows == 1 else 'them'} alone"
            yield Finding("warning", "small-validation", message)
    if data.test is not None and len(data.test) < SMALL_SPLIT:
        # half the width of the widest 95 % interval, at an accuracy of a half
        points = 100 * 1.96 * 0.5 / np.sqrt(len(data.test))
        message = (
            f"test has {len(data.test)} rows: its accuracy may be off by {points:.0f} points "
            "by chance"
        )
        yield Finding("warning", "small-test", message)


@dataclass(frozen=True)
class _AllRows:
    """The rows of all splits in one list.

    ``split`` is the index of each row's split in ``names``, ``label`` its class index, -1 where it
    has none; ``exact`` and ``near`` are those of :class:`~lpft.data.duplicates.Repetitions`.
    """

    names: tuple[str, ...]
    texts: list[Text]
    split: NDArray[np.int64]
    number: NDArray[np.int64]
    label: NDArray[np.int64]
    exact: NDArray[np.int64]
    near: NDArray[np.int64]
    sketched: bool

    @classmethod
    def of(cls, data: TextData) -> "_AllRows":
        splits = checked_splits(data)
        texts = [text for examples in splits.values() for text in examples.texts]
        repetitions = find_repetitions(texts)
        return cls(
            names=tuple(splits),
            texts=texts,
            split=np.repeat(np.arange(len(splits)), [len(e) for e in splits.values()]),
            number=np.concatenate([e.rows for e in splits.values()]),
            label=np.concatenate(
                [np.full(len(e), -1) if e.labels is None else e.labels for e in splits.values()]
            ),
            exact=repetitions.exact,
            near=repetitions.near,
            sketched=repetitions.sketched,
        )

    def rows(self, mask: NDArray[np.bool_]) -> Rows:
        """The numbers of the chosen rows by split."""
        return _without_empty(
            {
                name: self.number[mask & (self.split == index)].tolist()
                for index, name in enumerate(self.names)
            }
        )

    def within(
        self, mask: NDArray[np.bool_], groups: NDArray[np.int64], values: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """The chosen rows of groups whose chosen rows differ in ``values`` (a mask over all N)."""
        if not mask.any():
            return mask
        # One number for each pair: NumPy sorts these many times faster than columns.
        lowest, span = values[mask].min(), np.ptp(values[mask]) + 1
        pairs = np.unique(groups[mask] * span + values[mask] - lowest) // span
        mixed = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
        return mask & np.isin(groups, mixed)

    def first_of(self, mask: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of the chosen rows the first of each group, by row number, as a mask over all N rows."""
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        first = np.zeros(len(mask), dtype=bool)
        first[rows[np.unique(groups[rows], return_index=True)[1]]] = True
        return first

    def examples(
        self, mask: NDArray[np.bool_], groups: NDArray[np.int64], classes: Sequence[Label] = ()
    ) -> tuple[str, ...]:
        """A line for each of the first groups: its rows, and their texts where they differ."""
        lines = []
        for group in np.unique(groups[mask])[:3]:
            parts: list[str] = []
            earlier = ""
            for row in np.flatnonzero(mask & (groups == group))[:4]:
                text = show([self.texts[row]])
                label = f" {show([classes[self.label[row]]])}" if classes else ""
                same = "" if text == earlier else f": {text}"
                parts.append(f"{self.names[self.split[row]]} {self.number[row]}{label}{same}")
                earlier = text
            lines.append(" | ".join(parts))
        return tuple(lines)


def _repetitions(data: TextData) -> Iterator[Finding]:
    rows = _AllRows.of(data)
    for index, split in enumerate(rows.names):
        in_split = rows.split == index
        noun = "training rows" if split == "train" else f"rows of {split}"
        exact = rows.within(in_split, rows.exact, np.arange(len(rows.texts)))
        if exact.any():
            repeated = int(exact.sum()) - len(np.unique(rows.exact[exact]))
            verb = "repeats" if repeated == 1 else "repeat"
            message = f"{repeated} of {in_split.sum()} {noun} {verb} the text of an earlier one"
            examples = rows.examples(exact, rows.exact)
            later = exact & ~rows.first_of(exact, rows.exact)
            yield Finding("warning", "duplicates", message, rows.rows(later), examples)
        near = rows.within(in_split, rows.near, rows.exact)
        if near.any():
            message = (
                f"{near.sum()} of {in_split.sum()} {noun} nearly repeat one another (the same "
                "words, or at most one in ten differs)"
            )
            if rows.sketched:
                message += (
                    f"; with this many texts only {SKETCH} 5-grams of words of each were compared, "
                    "so a few near-duplicates may be missing here"
                )
            examples = rows.examples(near, rows.near)
            yield Finding("warning", "near-duplicates", message, rows.rows(near), examples)
    labelled = rows.label >= 0
    exact = rows.within(labelled, rows.exact, rows.label)
    if exact.any():
        texts = len(np.unique(rows.exact[exact]))
        noun = "text occurs" if texts == 1 else "texts occur"
        message = f"{texts} {noun} with different labels"
        examples = rows.examples(exact, rows.exact, data.classes)
        yield Finding("warning", "conflicting-labels", message, rows.rows(exact), examples)
    near = rows.within(labelled & ~exact, rows.near, rows.label)
    if near.any():
        groups = len(np.unique(rows.near[near]))
        message = (
            f"{groups} {'group' if groups == 1 else 'groups'} of texts that nearly repeat one "
            "another have different labels: labelling errors, or a word that decides"
        )
        examples = rows.examples(near, rows.near, data.classes)
        yield Finding("warning", "near-conflicts", message, rows.rows(near), examples)
    yield from _leaks(rows)


def _leaks(rows: _AllRows) -> Iterator[Finding]:
    """Texts of one split in another that must not share any with it."""
    pairs = [("train", split) for split in rows.names if split != "train"]
    if "validation" in rows.names:
        later_splits = [split for split in rows.names if split not in ("train", "validation")]
        pairs += [("validation", split) for split in later_splits]
    for source, split in pairs:
        in_source, in_split = (rows.split == rows.names.index(name) for name in (source, split))
        exact = in_split & np.isin(rows.exact, rows.exact[in_source])
        near = in_split & ~exact & np.isin(rows.near, rows.near[in_source])
        for leaked, groups, kind in (
            (exact, rows.exact, "leakage"),
            (near, rows.near, "near-leakage"),
        ):
            if not leaked.any():
                continue
            place = "training" if source == "train" else source
            one = leaked.sum() == 1
            verb = "nearly repeats a text of" if one else "nearly repeat a text of"
            if kind == "leakage":
                verb = f"{'has' if one else 'have'} a text that is also in"
            message = (
                f"{leaked.sum()} of {in_split.sum()} rows of {split} "
                f"({leaked.sum() / in_split.sum():.1%}) {verb} {place}: scores on them "
                "reward memorisation"
            )
            all_rows = leaked.sum() == in_split.sum() and source == "train"
            repeated = leaked | (in_source & np.isin(groups, groups[leaked]))
            examples = rows.examples(repeated, groups)
            yield Finding(
                "error" if all_rows else "warning", kind, message, rows.rows(repeated), examples
            )


# What spreadsheets, databases and programs write for a missing value, in any case.
_PLACEHOLDERS = frozenset(
    [
        *("n/a", "na", "n.a", "nan", "nat", "null", "none", "nil", "undefined", "tbd"),
        *("#n/a", "#ref", "#value", "#name", "#div/0", "#null", "#num", "#error", "#spill"),
        *(
            f"{left}{word}{right}"
            for left, right in ("<>", "()", "[]")
            for word in (
                "na",
                "n/a",
                "null",
                "none",
                "empty",
                "blank",
                "missing",
                "deleted",
                "removed",
            )
        ),
        *("not available", "not applicable", "no text", "no data"),
    ]
)
_NOTHING = re.compile(r"[\s\-\u2010-\u2015\u2026_.,;!?/\\|*#~'\"\u00b7\u2022\u200b\ufeff]*")

_TAGS = (
    "a abbr article b blockquote body br center cite code dd del div dl dt em font footer form h1 "
    "h2 h3 h4 h5 h6 head header hr html i iframe img input ins li link mark meta nav ol p pre q "
    "s script section small span strike strong style sub sup svg table tbody td tfoot th thead "
    "title tr tt u ul video xml"
).replace(" ", "|")
_MARKUP = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!--|<!doctype|<\?xml"  # HTML
    r"|&(?:[a-z]{2,8}|\#[0-9]{2,6}|\#x[0-9a-f]{2,6});"  # its entities
    r"|!\[[^\[\]\n]*\]\([^()\s]+\)"  # images of Markdown
    r"|\[[^\[\]\n]+\]\((?:https?://|www\.|/|mailto:)[^()\s]+\)"  # its links
    r"|\[/(?:b|i|u|url|img|quote|code)\]",  # BBCode
    re.IGNORECASE,
)

# UTF-8 that was read as Windows-1252 or Latin-1. A character of two to four bytes then shows as
# that many: first one of \u00c2 to \u00f0, then bytes from 0x80 to 0xbf, which show as these:
_LATER = (
    "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
)
# Where writers set such characters side by side (\u00e9, a hard space and \u00bb end a quotation in
# French), the bytes must be of a script's usual range, or there must be two characters in a row.
_DAMAGE = re.compile(
    "\ufffd"  # what could not be decoded at all
    "|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]"  # control characters
    f"|\u00c2[{_LATER}]"
    "|\u00c3[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2122\u0161\u203a\u0153\u017e\u0178\u02dc\u2014]"
    f"|\u00e2[\u20ac\u201a\u201e\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u201c\u0153][{_LATER}]"
    f"|\u00e3[\u201a\u0192][{_LATER}]"
    f"|(?:[\u00e4-\u00ed][{_LATER}]{{2}}){{2}}"
    f"|\u00ef(?:\u00bf\u00bd|\u00bb\u00bf|\u00bc[{_LATER}])"
    f"|\u00f0[{_LATER}]{{3}}"
    f"|(?:[\u00c4\u00c5\u00ce-\u00d1\u00d7-\u00d9][{_LATER}]){{2}}"
)


def is_empty_like(text: Text) -> bool:
    """Whether a text marks a missing one: ``N/A``, ``#REF!``, ``null``, or punctuation alone."""
    return _either(_stands_for_nothing, text)


def _stands_for_nothing(part: str) -> bool:
    bare = " ".join(part.split()).casefold().strip(".!?'\"")
    return bare in _PLACEHOLDERS or _NOTHING.fullmatch(part) is not None


def has_markup(text: Text) -> bool:
    """Whether a text has HTML tags or entities, Markdown links, or BBCode."""
    return _either(lambda part: _MARKUP.search(part) is not None, text)


def is_damaged(text: Text) -> bool:
    """Whether a text has replacement or control characters, or UTF-8 read as Windows-1252."""
    return _either(lambda part: _DAMAGE.search(part) is not None, text)


def _either(holds: Callable[[str], bool], text: Text) -> bool:
    """Whether it holds for a text, or for either part of a pair."""
    return holds(text) if isinstance(text, str) else any(holds(part) for part in text)


_CONTENTS = (
    ("empty", is_empty_like, "no text (N/A, #REF!, null, a dash)", "leave it out"),
    ("markup", has_markup, "markup (tags or entities of HTML, Markdown)", "take it out"),
    (
        "encoding",
        is_damaged,
        "wrongly decoded or control characters",
        "read the source in its own encoding",
    ),
)


def _contents(data: TextData) -> Iterator[Finding]:
    splits = checked_splits(data)
    for kind, holds, problem, advice in _CONTENTS:
        rows: dict[str, list[int]] = {}
        examples: list[str] = []
        for split, split_examples in splits.items():
            indices = [index for index, text in enumerate(split_examples.texts) if holds(text)]
            if indices:
                rows[split] = split_examples.rows[indices].tolist()
                examples += [
                    f"{split} {split_examples.rows[index]}: {show([split_examples.texts[index]])}"
                    for index in indices[:3]
                ]
        if rows:
            counted = " and ".join(
                f"{len(rows[split])} of {len(splits[split])} rows of {split}" for split in rows
            )
            message = f"{problem} in {counted}: {advice}"
            yield Finding("warning", kind, message, rows, tuple(examples[:3]))
