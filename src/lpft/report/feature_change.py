"""What runs say of feature change: how much of it is the LP head, how much the learning rate.

A smaller feature change at a method's own (often smaller) learning rate is no merit of its LP
start. What is said here about the start rests on pairs at a shared rate and batch size only.
"""

from collections.abc import Sequence

from lpft.report.text import say
from lpft.results.formats import decimals_for
from lpft.results.groups import Group, method_name
from lpft.results.judging import FEW_SEEDS
from lpft.results.pairing import Comparison, Match
from lpft.settings import with_lp_head

NEGLIGIBLE = 0.1  # a remainder below this part of the difference at own rates "all but vanishes"
MOST = 0.5  # a remainder below this part leaves most of it to the rates


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
    return [*sentences, *_conclusion(comparison)]


def summarise_feature_change(comparison: Comparison) -> list[str]:
    """The same in short: how far the features move relative to each other, and what that means."""
    own = None if comparison.own is None else comparison.own.ratio
    shared = [match for match in comparison.shared if match.ratio is not None]
    lead = []
    if own is not None or shared:
        lead = [say("change_in_short", names=_names(comparison), own_ratio=own, shared=shared)]
    return [*lead, *_conclusion(comparison)]


def read_unpaired(group: Group, comparisons: Sequence[Comparison]) -> list[str]:
    """Say where both methods of a pair are there but differ in more than rate and batch size."""
    methods = {setting.method for setting in group.settings}
    pairs = [(method, with_lp_head(method)) for method in sorted(methods)]
    compared = {comparison.methods for comparison in comparisons}
    return [
        say("unpaired", names=(method_name(method), method_name(partner)))
        for method, partner in pairs
        if partner is not None and partner in methods and (method, partner) not in compared
    ]


def change_digits(values: Sequence[float]) -> int:
    """Decimals for feature changes in a sentence."""
    return min(2, decimals_for(values)) if max(values, default=0) >= 0.1 else 4


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
    """How far the seeds and texts carry what was said at shared rates."""
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
            digits=change_digits([change for pair in match.changes for change in pair]),
        )
        for match in judged
    ]
    return [say("over_seeds", seeds=seeds, few=seeds < FEW_SEEDS, parts=parts)]


def _names(comparison: Comparison) -> tuple[str, str]:
    return method_name(comparison.methods[0]), method_name(comparison.methods[1])


def _mean_digits(match: Match) -> int:
    return 0 if match.change is None else change_digits([spread.mean for spread in match.change])
