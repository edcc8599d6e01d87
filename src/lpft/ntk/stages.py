"""A unit's parameters in stages: the shares of one stage are held at once.

Each stage has passes of its own. That repeats passes, where tiles of samples repeat the forming of
whole gradients for every pair of tiles.
"""

from collections.abc import Sequence

from lpft.ntk.structure import Parameter, Structure

Stages = tuple[tuple[Parameter, ...], ...]
_MOST = 8
"""More would pass a block as often as it has weights, for little less memory."""


def most_stages(structure: Structure) -> int:
    """How many stages are worth a try.

    Without a chain a pass is one of the whole encoder; parameters that have not been reached yet
    are looked for in every pass.
    """
    if structure.chain is None or structure.unreached:
        return 1
    units = [structure.of_unit(unit) for unit in range(len(structure.units))]
    return min(_MOST, max(sum(_width([p], seeds=1) > 0 for p in unit) for unit in units) or 1)


def stages_of_units(structure: Structure, count: int, seeds: int) -> tuple[Stages, ...]:
    """Per unit the stages of its parameters: ``count`` of the widest, of others as few as do."""
    units = [structure.of_unit(unit) for unit in range(len(structure.units))]
    most = max(widest(_stages(unit, count, seeds), seeds) for unit in units)
    return tuple(_fewest(unit, count, seeds, most) for unit in units)


def widest(stages: Stages, seeds: int) -> int:
    """The numbers that one token leaves in the widest stage."""
    return max((_width(stage, seeds) for stage in stages), default=0)


def _fewest(unit: Sequence[Parameter], count: int, seeds: int, most: int) -> Stages:
    candidates = (_stages(unit, fewer, seeds) for fewer in range(1, count + 1))
    return next(stages for stages in candidates if widest(stages, seeds) <= most)


def _stages(unit: Sequence[Parameter], count: int, seeds: int) -> Stages:
    """At most ``count`` stages: from the widest on, each parameter to the narrowest so far."""
    widths = [0] * count
    stage_of: dict[str, int] = {}
    for parameter in sorted(unit, key=lambda p: -p.numbers_per_token(seeds)):
        narrowest = widths.index(min(widths))
        stage_of[parameter.name] = narrowest
        widths[narrowest] += parameter.numbers_per_token(seeds)
    stages = (tuple(p for p in unit if stage_of[p.name] == stage) for stage in range(count))
    return tuple(stage for stage in stages if stage)


def _width(stage: Sequence[Parameter], seeds: int) -> int:
    return sum(parameter.numbers_per_token(seeds) for parameter in stage)
