"""Sentences on an experiment: how its protocol works, and how many verdicts went which way."""

from collections import Counter
from collections.abc import Mapping, Sequence

from lpft.paper import MODEL
from lpft.report.numbers import counted, joined, seconds
from lpft.results.exhibits import (
    ExperimentRecord,
    Table,
    Verdict,
    VerdictName,
)
from lpft.results.groups import model_name

MARKS: Mapping[VerdictName, str] = {"holds": "✓", "does not hold": "✗", "cannot tell": "?"}
"""A mark beside each verdict's words; both say it without colour."""

_PROTOCOLS = {
    "paper": (
        "The paper’s splits, inputs, hyperparameters and metrics are repeated where it has them: "
        "the last tenth of the official training rows, unshuffled, are validation, and the "
        "official validation set is the test set. Known faults of its code are not repeated."
    ),
    "stratified": (
        "A tenth of the training rows of every class, drawn with a fixed seed, is validation. The "
        "paper takes the last tenth unshuffled instead, so its numbers are of other rows."
    ),
}


def read_protocol(record: ExperimentRecord) -> str:
    """What the experiment's split protocol means."""
    name = f"“{record.protocol}”"
    meaning = _PROTOCOLS.get(record.protocol)
    return f"{name}. {meaning}" if meaning is not None else name


def read_source(record: ExperimentRecord) -> str:
    """Whose numbers are ours, and whose are the paper’s; empty where none are published."""
    tables = [exhibit for exhibit in record.exhibits if isinstance(exhibit, Table)]
    if not any(column.source == "published" for table in tables for column in table.columns):
        return ""
    return (
        f"Numbers of this experiment are of {model_name(record.model)}; published ones, set apart "
        f"by their tint and heading, are of {MODEL} in the paper."
    )


def read_tally(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts went which way: those on claims as a whole, where there are such."""
    whole = [verdict for verdict in verdicts if verdict.is_whole]
    judged = whole if whole else verdicts
    counts = Counter(verdict.verdict for verdict in judged)
    told: Mapping[VerdictName, str] = {
        "holds": "holds" if counts["holds"] == 1 else "hold",
        "does not hold": "does not hold" if counts["does not hold"] == 1 else "do not hold",
        "cannot tell": "cannot be told with this many seeds",
    }
    parts = [f"{counts[name]} {words}" for name, words in told.items() if counts[name]]
    return f"Of {counted(len(judged), 'claim' if whole else 'comparison')} {joined(parts)}."


def read_time(record: ExperimentRecord) -> str:
    """How long the steps took, the longest first; empty where nothing was recorded."""
    longest = sorted(record.timings.items(), key=lambda item: -item[1])
    return joined([f"{name.replace('_', ' ')} {seconds(value)}" for name, value in longest])
