"""Sentences: the templates beside the page, filled with numbers, and when each one is used.

Python only picks the sentences that apply; their words are in ``templates/sentences.txt.j2``.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lpft.analysis.metrics import metric_name
from lpft.results import formats
from lpft.results.differences import Comparison, Match
from lpft.results.exhibits import VerdictName
from lpft.results.groups import Group, method_name, model_name
from lpft.results.judging import FEW_SEEDS
from lpft.settings.methods import METHODS, with_lp_head

NEGLIGIBLE = 0.1  # a remainder below this part of the difference at own rates "all but vanishes"
MOST = 0.5  # a remainder below this part leaves most of it to the rates
MARKS: Mapping[VerdictName, str] = {"holds": "✓", "does not hold": "✗", "cannot tell": "?"}
"""A mark beside each verdict's words; both say it without colour."""
_BLANKS = re.compile(r"[ \n]+")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*[a-z])")


def say(name: str, /, **values: Any) -> str:
    """The sentence ``name`` of ``sentences.txt.j2`` with these values."""
    filled = getattr(_sentences(), name)(**values)
    return _BLANKS.sub(" ", str(filled)).strip()


@cache
def _sentences() -> Any:
    return environment(is_page=False).get_template("sentences.txt.j2").module


def environment(*, is_page: bool) -> Environment:
    """Jinja with the templates of reports, and filters that write numbers.

    A page escapes what comes from data, and has no blanks where only blocks are.
    """
    jinja = Environment(
        loader=PackageLoader("lpft.report"),
        autoescape=is_page,
        undefined=StrictUndefined,
        trim_blocks=is_page,
        lstrip_blocks=is_page,
    )
    jinja.filters["mark"] = MARKS.__getitem__
    jinja.filters |= {
        function.__name__: function
        for function in (
            *(
                formats.counted,
                formats.fixed,
                formats.joined,
                formats.of_100,
                formats.percent,
                formats.points,
                formats.rate,
                formats.scientific,
                formats.seconds,
                formats.signed,
                formats.significant,
                formats.whole,
                formats.with_sd,
            ),
            *(method_name, metric_name, model_name, unbroken_options),
        )
    }
    return jinja


def unbroken_options(sentence: str) -> Markup:
    """A sentence for a page, whose command line options do not break across lines."""
    return Markup(_OPTION.sub(r'<span class="option">\1</span>', str(escape(sentence))))


def what_was_run(group: Group) -> str:
    """One sentence: methods, model, data with its rows, seeds."""
    first = group.runs[0]
    names = (("train", "training"), ("validation", "validation"), ("test", "test"))
    return say(
        "what_was_run",
        group=group,
        methods=list(dict.fromkeys(method_name(setting.method) for setting in group.settings)),
        rows=[
            f"{formats.whole(first.data.rows[split])} {name}"
            for split, name in names
            if split in first.data.rows
        ],
        seeds=[str(seed) for seed in sorted({run.seed for run in group.runs})],
    )


def read_head(group: Group) -> str:
    """Head norms at the start and the end of fine-tuning, random heads beside LP heads."""
    fine_tuned = [run for run in group.runs if run.method != "lp"]
    probed = [name for name, method in METHODS.items() if method.head_start == "lp"]
    parts = []
    for from_lp, name in ((False, "random heads"), (True, "heads from linear probing")):
        runs = [run for run in fine_tuned if (run.method in probed) == from_lp]
        at_start, at_end = (
            [run.head_norm(norm) for run in runs] for norm in ("norm_at_start", "norm")
        )
        if runs and None not in at_start and None not in at_end:
            ranges = (say("number_range", values=values) for values in (at_start, at_end))
            parts.append((name, *ranges))
    return say("head_norms", parts=parts) if parts else ""


# Feature change: how much of it is the LP head, how much the learning rate. A smaller feature
# change at a method's own (often smaller) learning rate is no merit of its LP start. What is said
# here about the start rests on pairs at a shared rate and batch size only.


def read_feature_change(comparison: Comparison) -> list[str]:
    """What own and shared rates say together about one method with and without the LP start."""
    names, sentences = _names(comparison), []
    if comparison.own is not None:
        own = comparison.own
        because, digits = comparison.own_because, _mean_digits(own)
        sentences.append(
            say("at_own_rates", names=names, match=own, because=because, digits=digits)
        )
    sentences += [
        say(
            "at_shared_rate",
            names=names,
            match=match,
            remaining=comparison.remaining(match),
            negligible=NEGLIGIBLE,
            digits=_mean_digits(match),
        )
        for match in comparison.shared
    ]
    scale = comparison.head_scale
    if scale != 1:
        sentences.append(say("head_scale", names=names, scale=scale))
    return [*sentences, *_conclusion(comparison)]


def summarise_feature_change(comparison: Comparison) -> list[str]:
    """In short: how far the features move relative to each other, and what that means."""
    own = None if comparison.own is None else comparison.own.ratio
    shared = [match for match in comparison.shared if match.ratio is not None]
    lead = []
    if own is not None or shared:
        lead = [say("change_in_short", names=_names(comparison), own_ratio=own, shared=shared)]
    return [*lead, *_conclusion(comparison)]


def read_unpaired(group: Group, comparisons: Sequence[Comparison]) -> list[str]:
    """Name pairs whose runs differ in more than rate and batch size."""
    methods = {setting.method for setting in group.settings}
    pairs = [(method, with_lp_head(method)) for method in sorted(methods)]
    compared = {comparison.methods for comparison in comparisons}
    return [
        say("unpaired", names=(method_name(method), method_name(partner)))
        for method, partner in pairs
        if partner is not None and partner in methods and (method, partner) not in compared
    ]


def _conclusion(comparison: Comparison) -> list[str]:
    names = _names(comparison)
    if not comparison.shared:
        return [say("no_shared_rate", names=names)]
    remains = [comparison.remaining(match) for match in comparison.shared]
    known = [value for value in remains if value is not None]
    sentences = []
    if comparison.own is None:
        sentences.append(say("shared_rates_only", names=names))
    elif known and max(known) < MOST:
        sentences.append(say("mostly_the_rates", names=names))
    elif known and min(known) >= MOST:
        sentences.append(say("mostly_the_head"))
    elif known:
        sentences.append(say("depends_on_the_rate", low=min(known), high=max(known)))
    return [*sentences, *_over_seeds(comparison)]


def _over_seeds(comparison: Comparison) -> list[str]:
    """How certain the statement at shared rates is, over seeds and texts."""
    judged = [
        match
        for match in comparison.shared
        if match.judgement is not None and match.judgement.effect.value is not None
    ]
    if not judged:
        return []
    seeds = max(len(match.changes) for match in judged)
    if seeds == 1:
        return [say("one_seed")]
    parts = [
        say(
            "over_seeds_at",
            names=_names(comparison),
            match=match,
            digits=formats.change_digits([change for pair in match.changes for change in pair]),
        )
        for match in judged
    ]
    return [say("over_seeds", seeds=seeds, few=seeds < FEW_SEEDS, parts=parts)]


def _names(comparison: Comparison) -> tuple[str, str]:
    return method_name(comparison.methods[0]), method_name(comparison.methods[1])


def _mean_digits(match: Match) -> int:
    return (
        0
        if match.change is None
        else formats.change_digits([spread.mean for spread in match.change])
    )
