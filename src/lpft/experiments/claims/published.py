"""What the paper's own published means say of a claim: on how many data sets they agree with it.

The direction alone is counted, without any allowance for chance: the paper prints means and
standard deviations, not the seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lpft.paper import published_value
from lpft.report.numbers import counted, joined


@dataclass(frozen=True)
class PublishedCase:
    """One comparison in the paper's means.

    ``question`` says what is compared, the same on every data set; ``agrees`` whether it comes out
    as the claim says.
    """

    question: str
    dataset: str
    agrees: bool


def published_means(
    table: int, dataset: str, methods: Sequence[str], metric: str
) -> tuple[float, ...] | None:
    """The means of several methods on a data set; None where the table lacks one of them."""
    values = [published_value(table, dataset, method, metric) for method in methods]
    known = tuple(value.mean for value in values if value is not None)
    return known if len(known) == len(values) else None


def published_sentence(tables: str, cases: Sequence[PublishedCase], *, every: bool) -> str:
    """Each question with how many sets agree and which are against; empty without any case.

    ``every``: the claim is said of every comparison, so that one set against it is against the
    claim.
    """
    if not cases:
        return ""
    questions = dict.fromkeys(case.question for case in cases)
    told = "; ".join(
        _counted(name, [case for case in cases if case.question == name]) for name in questions
    )
    broken = every and not all(case.agrees for case in cases)
    rule = ". So the paper's own means do not meet the rule of every case" if broken else ""
    return f"Published means ({tables}): {told}{rule}"


def _counted(question: str, cases: Sequence[PublishedCase]) -> str:
    against = [case.dataset for case in cases if not case.agrees]
    told = f"{question} on {len(cases) - len(against)} of {counted(len(cases), 'set')}"
    return f"{told}, against: {joined(against)}" if against else told
