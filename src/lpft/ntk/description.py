"""What the planner must know of an encoder, from the shares that a trial left."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lpft.ntk.capture import Contribution, Outer, Rows, active_tokens
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.rules import Rule
from lpft.ntk.structure import Form, Parameter, Structure, kind_of, layer_of, units_of
from lpft.ntk.trial import Trial


def describe(
    trial: Trial, batches: Sequence[dict[str, Tensor]], used_whole: Collection[str]
) -> Structure:
    """The structure of the encoder that ``trial`` passed.

    Args:
        batches: the texts of the trial, one each.
        used_whole: names of embeddings' weights in which no id is looked up.
    """
    length = max(batch["input_ids"].shape[1] for batch in batches)
    shares = trial.shares[0] if trial.batched else max(trial.shares, key=_tokens_held)
    found: dict[str, list[int]] = {}
    for position, at_position in enumerate(shares):
        for name in at_position:
            found.setdefault(name, []).append(position)
    return Structure(
        chain=trial.chain,
        batched=trial.batched,
        modules=trial.modules,
        direct=trial.direct,
        parameters=tuple(
            _parameter(
                trial,
                name,
                places,
                shares,
                length,
                fallback=name in trial.direct and name not in used_whole,
            )
            for name, places in found.items()
        ),
        unreached=tuple(name for name in trial.parameters if name not in found),
        units=units_of(len(shares), found.values()),
        widths=tuple(_widths(at_position) for at_position in shares),
        extras=trial.extras,
        forward_flops=_forward_flops(trial, batches[0]),
    )


def _parameter(
    trial: Trial,
    name: str,
    places: Sequence[int],
    shares: Sequence[dict[str, Contribution]],
    length: int,
    *,
    fallback: bool,
) -> Parameter:
    """A parameter that has shares at ``places``; ``length`` is that of the longest text."""
    form: Form = "vector"
    sizes, ratio, pooled = (0, trial.parameters[name].numel()), 1.0, False
    share = shares[places[0]][name]
    if isinstance(share, Outer):
        form = "outer"
        sizes = (share.inputs.shape[-1], share.gradients[0].shape[-1])
        active = active_tokens(share)
        reached = 0 if active is None else active.inputs.shape[1]
        pooled = reached == 1 < length
        ratio = len(places) * reached / length
    elif isinstance(share, Rows):
        form, sizes = "rows", (0, share.vectors.shape[-1])
    layer = "encoder" if trial.chain is None else layer_of(places, len(shares))
    return Parameter(
        name=name,
        positions=tuple(places),
        layer=layer,
        kind=kind_of(name, form, _rule(trial, name), before_blocks=layer == "embeddings"),
        form=form,
        sizes=sizes,
        tokens_per_token=ratio,
        pooled=pooled,
        fallback=fallback,
    )


def _rule(trial: Trial, name: str) -> Rule | None:
    return next((rules[name] for _, rules in trial.modules.values() if name in rules), None)


def _forward_flops(trial: Trial, batch: dict[str, Tensor]) -> float:
    """Flops of a forward pass, per token."""
    with (
        only_these_require_gradients(trial.classifier.encoder, []),
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        trial.classifier.features(**batch)
    return counter.get_total_flops() / batch["input_ids"].numel()


def _tokens_held(shares: Sequence[dict[str, Contribution]]) -> int:
    return sum(
        share.inputs.shape[1]
        for at_position in shares
        for share in at_position.values()
        if isinstance(share, Outer)
    )


def _widths(shares: dict[str, Contribution]) -> tuple[int, int]:
    """Numbers per token in the distinct inputs, and in the gradients of one seed."""
    outers = [share for share in shares.values() if isinstance(share, Outer)]
    inputs = {outer.inputs.data_ptr(): outer.inputs.shape[-1] for outer in outers}
    rows = [share.vectors.shape[-1] for share in shares.values() if isinstance(share, Rows)]
    return sum(inputs.values()), sum(o.gradients[0].shape[-1] for o in outers) + sum(rows)
