"""Sentences on feature change: how much of it is the LP head, how much the learning rate.

A smaller feature change at a method's own (often smaller) learning rate is no merit of its LP
start. What is said here about the start rests on pairs at a shared rate and batch size only.
"""

from collections.abc import Sequence

from lpft.report.numbers import MINUS, Spread, counted, fixed, joined, rate, whole, with_sd
from lpft.report.reading import change_digits
from lpft.results.groups import Group, method_name
from lpft.results.judging import FEW_SEEDS, Judgement
from lpft.results.pairing import Comparison, Match, Rates
from lpft.settings import with_lp_head

NEGLIGIBLE = 0.1  # a remainder below this part of the difference at own rates "all but vanishes"
MOST = 0.5  # a remainder below this part leaves most of it to the rates


def read_feature_change(comparison: Comparison) -> list[str]:
    """What own and shared rates say together about one method with and without the LP start."""
    sentences = [] if comparison.own is None else [_at_own_rates(comparison.own, comparison)]
    sentences += [_at_shared_rate(match, comparison) for match in comparison.shared]
    return [*sentences, *_conclusion(comparison)]


def summarise_feature_change(comparison: Comparison) -> list[str]:
    """The same in short: how far the features move relative to each other, and what that means."""
    first, second = _names(comparison)
    ratios = []
    if comparison.own is not None and comparison.own.ratio is not None:
        ratios.append(f"{comparison.own.ratio:.2f} times as far as {first} at their own rates")
    for match in comparison.shared:
        if match.ratio is not None:
            far = "" if ratios else f" as far as {first}"
            ratios.append(f"{match.ratio:.2f} times{far} at a shared {_rates(match.rates[0])}")
    lead = [f"{second} moves features {joined(ratios)}."] if ratios else []
    return [*lead, *_conclusion(comparison)]


def read_unpaired(group: Group, comparisons: Sequence[Comparison]) -> list[str]:
    """Say where both methods of a pair are there but differ in more than rate and batch size."""
    methods = {setting.method for setting in group.settings}
    pairs = [(method, with_lp_head(method)) for method in sorted(methods)]
    compared = {comparison.methods for comparison in comparisons}
    return [
        f"{method_name(method)} and {method_name(partner)} are both here, but no two of "
        "their runs agree in seed and in every option other than learning rate and batch size, so "
        "they are not compared."
        for method, partner in pairs
        if partner is not None and partner in methods and (method, partner) not in compared
    ]


def _at_own_rates(match: Match, comparison: Comparison) -> str:
    first, second = _names(comparison)
    because = f", {comparison.own_because}" if comparison.own_because else ""
    rates = f"{first} {_rates(match.rates[0])}; {second} {_rates(match.rates[1])}{because}"
    change = match.change
    if change is None:
        return f"At their own rates ({rates}) feature change was not recorded."
    less = "" if match.smaller else f" {second} does not move them less, or by under 1 %."
    return (
        f"At their own rates ({rates}) features of {match.split} texts moved by "
        f"{_two(comparison, match, change)}.{less}"
    )


def _at_shared_rate(match: Match, comparison: Comparison) -> str:
    if match.change is None:
        return f"At a shared {_rates(match.rates[0])} feature change was not recorded."
    start = f"At a shared {_rates(match.rates[0])}: {_two(comparison, match, match.change)}."
    remaining = comparison.remaining(match)
    if remaining is None:
        return start
    if remaining < 0:
        return f"{start} None of the difference at own rates remains: the order is reversed."
    if remaining < NEGLIGIBLE:
        return (
            f"{start} The difference at own rates all but vanishes: {_percent(remaining)} remains."
        )
    if remaining > 1:
        return f"{start} The difference is larger than at own rates: {_percent(remaining)} of it."
    return f"{start} Of the difference at own rates {_percent(remaining)} remains."


def _conclusion(comparison: Comparison) -> list[str]:
    first, second = _names(comparison)
    if not comparison.shared:
        return [
            f"No {first} and {second} pair here shares a learning rate and batch size, so nothing "
            "can be said about how much of this difference comes from the LP head: the rates alone "
            "may explain it."
        ]
    sentences = []
    remains = [comparison.remaining(match) for match in comparison.shared]
    known = [value for value in remains if value is not None]
    if comparison.own is None:
        sentences.append(
            f"{first} and {second} ran at shared rates only, so these differences are not made by "
            "learning rate or batch size."
        )
    elif known and max(known) < MOST:
        sentences.append(
            "So most of the difference at own rates comes, in these runs, with the learning rate "
            f"and batch size, and {second} gets no credit for that part."
        )
    elif known and min(known) >= MOST:
        sentences.append(
            "So half or more of the difference at own rates is there at a shared rate and batch "
            "size too."
        )
    elif known:
        sentences.append(
            f"So what remains depends on the rate that is shared: from {_percent(min(known))} to "
            f"{_percent(max(known))}."
        )
    return [*sentences, *_over_seeds(comparison)]


def _over_seeds(comparison: Comparison) -> list[str]:
    """How far the seeds and texts carry what was said at shared rates."""
    judged = [
        (match, match.judgement)
        for match in comparison.shared
        if match.judgement is not None and match.judgement.effect.value is not None
    ]
    if not judged:
        return []
    most = max(len(match.changes) for match, _ in judged)
    if most == 1:
        return ["One seed: cannot tell whether another would show the same."]
    told = [_over_seeds_at(match, judgement, comparison) for match, judgement in judged]
    few = "only " if most < FEW_SEEDS else ""
    return [f"Over {few}{counted(most, 'seed')}: {joined(told)}."]


def _over_seeds_at(match: Match, judgement: Judgement, comparison: Comparison) -> str:
    first, second = _names(comparison)
    said = {
        "holds": f"{second} is smaller",
        "does not hold": f"{second} is larger",
        "cannot tell": f"{second} cannot be told from {first}",
    }
    effect = judgement.effect
    digits = change_digits([change for pair in match.changes for change in pair])
    ends = " to ".join(fixed(end, digits) for end in (effect.low, effect.high))
    return (
        f"at {_rates(match.rates[0])} {said[judgement.verdict]} ({first} less {second}: "
        f"{fixed(effect.value, digits)}, 95 % interval {ends})"
    )


def _names(comparison: Comparison) -> tuple[str, str]:
    return method_name(comparison.methods[0]), method_name(comparison.methods[1])


def _rates(rates: Rates) -> str:
    return f"rate {rate(rates.learning_rate)}, batch {whole(rates.batch_size)}"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %".replace("-", MINUS)


def _two(comparison: Comparison, match: Match, change: tuple[Spread, Spread]) -> str:
    first, second = _names(comparison)
    digits = change_digits([change[0].mean, change[1].mean])
    ratio = "" if match.ratio is None else f" (ratio {match.ratio:.2f})"
    return (
        f"{with_sd(change[0], digits)} under {first} and {with_sd(change[1], digits)} under "
        f"{second}{ratio}"
    )
