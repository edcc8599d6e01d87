"""How an encoder is best passed, tried on two short texts.

Nothing here trusts a module's type: the share of every wanted parameter is compared with plain
autograd. What differs, or has no rule, goes to autograd per sample.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import feature_size
from lpft.ntk.capture import Contribution, NotBatched, Outer, Rows, active_tokens, wanted_modules
from lpft.ntk.chain import Chain, find_chain
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.passes import Modules, Passes
from lpft.ntk.rules import Rule
from lpft.ntk.stash import Stash
from lpft.ntk.structure import Form, Parameter, Structure, kind_of, layer_of, units_of

logger = logging.getLogger(__name__)

_TRIAL_TOKENS = 12
_TRIAL_SEED = 20_240_516


def examine(classifier: LinearHeadClassifier, tokens: Tokens, wanted: Sequence[str]) -> Structure:
    """Find the cheapest way to pass ``classifier``'s encoder that gives autograd's gradients.

    Blocks one by one come before everything at once, batches of several texts before single ones.

    Args:
        wanted: names of parameters of the encoder.

    Raises:
        InputError: no way does, because gradients are not finite or differ from call to call.
    """
    encoder = classifier.encoder
    by_name = dict(encoder.named_parameters())
    parameters = {name: by_name[name] for name in wanted}
    modules, unruled = wanted_modules(encoder, wanted)
    device = next(encoder.parameters()).device
    batches = [
        {name: ids.to(device) for name, ids in batch.items()} for batch in _trial_batches(tokens)
    ]
    with only_these_require_gradients(encoder, list(encoder.parameters())):
        chain = find_chain(encoder, lambda: classifier.features(**batches[0]))
    chains = [chain, None] if chain is not None else [None]
    best: _Trial | None = None
    for candidate in chains:
        for batched in (True, False) if not unruled else (False,):
            trial = _Trial(classifier, candidate, batched, modules, tuple(unruled), parameters)
            try:
                trial.compare(batches)
            except NotBatched:
                continue
            except (RuntimeError, TypeError, ValueError, KeyError, StopIteration) as error:
                logger.debug("passing %s failed: %s", candidate, error)
                continue
            if best is None or len(trial.wrong) < len(best.wrong):
                best = trial
        if best is not None and not best.wrong:
            break
    if best is None or (best.batched and best.wrong):
        best = _Trial(classifier, None, False, modules, tuple(unruled), parameters)
        best.compare(batches)
    if best.wrong:
        direct = (*unruled, *best.wrong)
        for candidate in dict.fromkeys((best.chain, None)):
            best = _Trial(classifier, candidate, False, modules, direct, parameters)
            best.compare(batches)
            if not best.wrong:
                break
    if best.wrong:
        raise InputError(
            f"the gradient of {best.wrong[0]} is not finite, or differs from one pass to the next: "
            "expected a model whose features follow from the text alone once it evaluates"
        )
    return best.structure(batches)


class _Trial:
    """One way to pass the encoder, tried on short texts."""

    def __init__(
        self,
        classifier: LinearHeadClassifier,
        chain: Chain | None,
        batched: bool,
        modules: Modules,
        direct: tuple[str, ...],
        parameters: dict[str, nn.Parameter],
    ) -> None:
        self.classifier = classifier
        self.chain = chain
        self.batched = batched
        self.direct = direct
        self.parameters = parameters
        self.modules = {
            name: (module, {p: rule for p, rule in rules.items() if p not in direct})
            for name, (module, rules) in modules.items()
            if set(rules) - set(direct)
        }
        self.transposed = {
            name
            for module, rules in self.modules.values()
            for name in rules
            if isinstance(module, Conv1D)
        }
        self.wrong: tuple[str, ...] = ()
        self.shares: list[list[dict[str, Contribution]]] = []
        self.extras = 0

    def compare(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Pass the texts, together or one by one, and note the parameters that come out wrong."""
        together = {
            name: torch.cat([_pad(batch[name], batches) for batch in batches])
            for name in batches[0]
        }
        groups = [together] if self.batched else batches
        self.shares = [self._pass(group) for group in groups]
        wrong = set()
        for sample, batch in enumerate(batches):
            group, place = (0, sample) if self.batched else (sample, 0)
            gradients = _autograd_gradients(self.classifier, batch, self.parameters)
            norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
            least = 1e-3 * max(norms.values(), default=0.0)
            for name, difference in gradients.items():
                for shares in self.shares[group]:
                    if name in shares:
                        transposed = name in self.transposed
                        _subtract(difference, shares[name], place, transposed=transposed)
                allowed = _tolerance(difference.dtype) * max(norms[name], least)
                if not float(difference.norm()) <= allowed:
                    wrong.add(name)
        self.wrong = tuple(name for name in self.parameters if name in wrong)

    def structure(self, batches: Sequence[dict[str, Tensor]]) -> Structure:
        """What the planner must know of this way."""
        length = max(batch["input_ids"].shape[1] for batch in batches)
        shares = self.shares[0] if self.batched else max(self.shares, key=_tokens_held)
        positions = len(shares)
        found: dict[str, list[int]] = {}
        for position, at_position in enumerate(shares):
            for name in at_position:
                found.setdefault(name, []).append(position)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.classifier.features(**batches[0])
        return Structure(
            chain=self.chain,
            batched=self.batched,
            modules=self.modules,
            direct=self.direct,
            parameters=tuple(
                self._describe(name, places, positions, shares[places[0]][name], length)
                for name, places in found.items()
            ),
            unreached=tuple(name for name in self.parameters if name not in found),
            units=units_of(positions, found.values()),
            widths=tuple(_widths(at_position) for at_position in shares),
            extras=self.extras,
            forward_flops=counter.get_total_flops() / batches[0]["input_ids"].numel(),
        )

    def _pass(self, batch: dict[str, Tensor]) -> list[dict[str, Contribution]]:
        """The shares of every position, from the first to the last."""
        direct = {name: self.parameters[name] for name in self.direct}
        with only_these_require_gradients(self.classifier.encoder, list(direct.values())):
            passes = Passes(
                self.classifier,
                self.chain,
                self.modules,
                direct,
                _trial_seed(self.classifier),
                Stash("memory"),
            )
            passes.forward(0, batch)
            shares = [passes.backward(p, 0, batch) for p in reversed(range(passes.positions))]
        self.extras = passes.extras
        return shares[::-1]

    def _describe(
        self, name: str, places: list[int], positions: int, share: Contribution, length: int
    ) -> Parameter:
        form: Form = "vector"
        sizes, ratio, pooled = (0, self.parameters[name].numel()), 1.0, False
        if isinstance(share, Outer):
            form = "outer"
            sizes = (share.inputs.shape[-1], share.gradients[0].shape[-1])
            active = active_tokens(share)
            reached = 0 if active is None else active.inputs.shape[1]
            pooled = reached == 1 < length
            ratio = len(places) * reached / length
        elif isinstance(share, Rows):
            form, sizes = "rows", (0, share.vectors.shape[-1])
        layer = "encoder" if self.chain is None else layer_of(places, positions)
        return Parameter(
            name=name,
            positions=tuple(places),
            layer=layer,
            kind=kind_of(name, form, self._rule(name), before_blocks=layer == "embeddings"),
            form=form,
            sizes=sizes,
            tokens_per_token=ratio,
            pooled=pooled,
            fallback=name in self.direct and name not in _tables(self.classifier.encoder),
        )

    def _rule(self, name: str) -> Rule | None:
        return next((rules[name] for _, rules in self.modules.values() if name in rules), None)


def _trial_batches(tokens: Tokens) -> list[dict[str, Tensor]]:
    """Two short batches of one text: of different lengths where there are such."""
    order = np.argsort(tokens.lengths, kind="stable")
    batches = []
    for row, limit in ((order[0], _TRIAL_TOKENS - 3), (order[-1], _TRIAL_TOKENS)):
        batch = tokens.batch([int(row)])
        batches.append({name: ids[:, :limit] for name, ids in batch.items()})
    return batches


def _pad(ids: Tensor, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Zeros to the right up to the longest batch; zero in the mask means padding."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    return torch.nn.functional.pad(ids, (0, longest - ids.shape[1]))


def _trial_seed(classifier: LinearHeadClassifier) -> Tensor:
    weight = classifier.encoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(_TRIAL_SEED)
    with torch.no_grad():
        size = feature_size(classifier.config.encoder_config)
        return torch.randn(1, size, generator=generator).to(weight)


def _autograd_gradients(
    classifier: LinearHeadClassifier, batch: dict[str, Tensor], parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The gradient of ``seed . phi`` of one text, by plain autograd."""
    with (
        only_these_require_gradients(classifier.encoder, list(parameters.values())),
        torch.enable_grad(),
    ):
        output = (classifier.features(**batch) @ _trial_seed(classifier)[0]).sum()
        if not output.requires_grad:
            return {name: torch.zeros_like(p) for name, p in parameters.items()}
        gradients = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _subtract(difference: Tensor, share: Contribution, sample: int, *, transposed: bool) -> None:
    """Take one sample's share (of the first seed) from ``difference``, in place."""
    if isinstance(share, Outer):
        product = share.gradients[0][sample].T @ share.inputs[sample]
        difference -= product.T if transposed else product
    elif isinstance(share, Rows):
        own = share.samples == sample
        difference.index_add_(0, share.ids[own], share.vectors[0, own], alpha=-1)
    else:
        difference -= share[0, sample].reshape(difference.shape)


def _tolerance(dtype: torch.dtype) -> float:
    return 1e4 * torch.finfo(dtype).eps


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


def _tables(encoder: nn.Module) -> set[str]:
    """The names of all embeddings' weights."""
    return {
        f"{name}.weight"
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding)
    }
