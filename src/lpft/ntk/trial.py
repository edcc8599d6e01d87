"""How an encoder is best passed, tried on two short texts.

Nothing here trusts a module's type: the share of every wanted parameter is compared with plain
autograd. What differs, or has no rule, goes to autograd per sample.
"""

import logging
import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import feature_size
from lpft.ntk.capture import (
    Contribution,
    NotBatched,
    Outer,
    Rows,
    RuleFailed,
    active_tokens,
    wanted_modules,
)
from lpft.ntk.certificate import parameter_chunks
from lpft.ntk.chain import Chain, find_chain
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.passes import Modules, Passes
from lpft.ntk.rules import Rule
from lpft.ntk.stash import Stash
from lpft.ntk.structure import Form, Parameter, Structure, kind_of, layer_of, units_of

logger = logging.getLogger(__name__)

_TRIAL_TOKENS = 12
_TRIAL_SEED = 20_240_516
_TOLERANCE = 1e4
"""Of a gradient's relative error, in the dtype's own."""
_CHECKED_AT_ONCE = 1 << 24
"""Numbers of the gradients that are compared at once, where no single parameter has more."""
_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    StopIteration,
)
"""What encoders raise that cannot be passed in some way."""


def examine(classifier: LinearHeadClassifier, tokens: Tokens, wanted: Sequence[str]) -> Structure:
    """Find the cheapest way to pass ``classifier``'s encoder that gives autograd's gradients.

    Blocks one by one come before everything at once, batches of several texts before single ones.

    Args:
        wanted: names of parameters of the encoder.

    Raises:
        InputError: no way does, because the encoder fails, or gradients are not finite or differ
            from call to call.
    """
    encoder = classifier.encoder
    by_name = dict(encoder.named_parameters())
    parameters = {name: by_name[name] for name in wanted}
    device = next(encoder.parameters()).device
    batches = [
        {name: ids.to(device) for name, ids in batch.items()} for batch in _trial_batches(tokens)
    ]
    try:
        with only_these_require_gradients(encoder, list(encoder.parameters())):
            chain = find_chain(encoder, lambda: classifier.features(**batches[0]))
    except _FAILURES as error:
        raise InputError(_cannot_pass(error)) from error
    attempts = _Attempts(classifier, parameters, batches)
    best: _Trial | None = None
    for candidate in dict.fromkeys((chain, None)):
        for batched in (True, False):
            trial = attempts.tried(candidate, batched=batched)
            if trial is not None and (best is None or len(trial.wrong) < len(best.wrong)):
                best = trial
        if best is not None and not best.wrong:
            break
    if best is None or (best.batched and best.wrong):
        best = attempts.succeeded(attempts.tried(None, batched=False))
    looked_up = best.reached()
    used_whole = {name for name in best.wrong if name in _tables(encoder) and name not in looked_up}
    if best.wrong:
        attempts.direct.update(dict.fromkeys(best.wrong))
        for candidate in dict.fromkeys((best.chain, None)):
            best = attempts.tried(candidate, batched=False)
            if best is not None and not best.wrong:
                break
        best = attempts.succeeded(best)
    if best.wrong:
        raise InputError(
            f"the gradient of {best.wrong[0]} is not finite, or differs from one pass to the next: "
            "expected a model whose features follow from the text alone once it evaluates"
        )
    return best.structure(batches, used_whole)


class _Attempts:
    """Trials of one encoder, one after the other.

    ``direct`` are the parameters that autograd must treat: those without a rule, and those whose
    rule could not be applied to a call.
    """

    def __init__(
        self,
        classifier: LinearHeadClassifier,
        parameters: dict[str, nn.Parameter],
        batches: Sequence[dict[str, Tensor]],
    ) -> None:
        self._classifier = classifier
        self._parameters = parameters
        self._batches = batches
        self._modules, unruled = wanted_modules(classifier.encoder, list(parameters))
        self._failure: Exception | None = None
        self.direct: dict[str, None] = dict.fromkeys(unruled)

    def tried(self, chain: Chain | None, *, batched: bool) -> "_Trial | None":
        """A way that was tried, right or wrong; None where it cannot be passed."""
        while not (batched and self.direct):
            trial = _Trial(
                self._classifier,
                chain,
                batched,
                self._modules,
                tuple(self.direct),
                self._parameters,
            )
            try:
                trial.compare(self._batches)
            except RuleFailed as failed:
                self.direct.update(dict.fromkeys(failed.parameters))
            except NotBatched:
                return None
            except _FAILURES as error:
                logger.debug("passing %s failed: %s", chain, error)
                self._failure = error
                return None
            else:
                return trial
        return None

    def succeeded(self, trial: "_Trial | None") -> "_Trial":
        """The trial; refuses an encoder that none of the ways passes."""
        if trial is None:
            raise InputError(_cannot_pass(self._failure)) from self._failure
        return trial


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
        dtype = next(classifier.encoder.parameters()).dtype
        self._tolerance = _TOLERANCE * torch.finfo(dtype).eps
        self.wrong: tuple[str, ...] = ()
        self.shares: list[list[dict[str, Contribution]]] = []
        self.extras = 0

    def compare(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Pass the texts, together or one by one, and note the parameters that come out wrong."""
        wrong: set[str] = set()
        if self.batched:
            # As many tokens as texts: nothing may take the one axis for the other.
            square = [
                {name: ids[:, : len(batches)] for name, ids in batch.items()} for batch in batches
            ]
            wrong |= self._compared(square)[1]
        self.shares, found = self._compared(batches)
        wrong |= found
        self.wrong = tuple(name for name in self.parameters if name in wrong)

    def reached(self) -> set[str]:
        """The parameters that have a share."""
        return {
            name for of_group in self.shares for at_position in of_group for name in at_position
        }

    def _compared(
        self, batches: Sequence[dict[str, Tensor]]
    ) -> tuple[list[list[dict[str, Contribution]]], set[str]]:
        """The shares by group of texts and position, and the parameters that come out wrong."""
        together = {
            name: torch.cat([_pad(batch[name], batches) for batch in batches])
            for name in batches[0]
        }
        groups = [together] if self.batched else batches
        shares = [self._pass(group) for group in groups]
        wrong: set[str] = set()
        for sample, batch in enumerate(batches):
            group, place = (0, sample) if self.batched else (sample, 0)
            of_all: dict[str, list[Contribution]] = {}
            for at_position in shares[group]:
                for name, share in at_position.items():
                    of_all.setdefault(name, []).append(share)
            norms, errors = self._errors(batch, of_all, place)
            least = 1e-3 * max(norms.values(), default=0.0)
            allowed = {name: self._tolerance * max(norm, least) for name, norm in norms.items()}
            wrong |= {name for name, error in errors.items() if not error <= allowed[name]}
        return shares, wrong

    def _errors(
        self, batch: dict[str, Tensor], shares: dict[str, list[Contribution]], place: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Per parameter the norm of autograd's gradient of one text, and of what differs from it.

        The gradients are formed some at a time: room that they took once is seldom given back.
        """
        norms, errors = {}, {}
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        for chunk in parameter_chunks(list(self.parameters.values()), most=_CHECKED_AT_ONCE):
            found = {names[id(parameter)]: parameter for parameter in chunk}
            for name, difference in _autograd_gradients(self.classifier, batch, found).items():
                norms[name] = float(difference.norm())
                transposed = name in self.transposed
                fits = [
                    _subtract(difference, share, place, transposed=transposed)
                    for share in shares.get(name, ())
                ]
                errors[name] = float(difference.norm()) if all(fits) else math.inf
        return norms, errors

    def structure(
        self, batches: Sequence[dict[str, Tensor]], used_whole: Collection[str]
    ) -> Structure:
        """What the planner must know of this way; ``used_whole`` are tables that none looks up."""
        length = max(batch["input_ids"].shape[1] for batch in batches)
        shares = self.shares[0] if self.batched else max(self.shares, key=_tokens_held)
        positions = len(shares)
        found: dict[str, list[int]] = {}
        for position, at_position in enumerate(shares):
            for name in at_position:
                found.setdefault(name, []).append(position)
        with (
            only_these_require_gradients(self.classifier.encoder, []),
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
        ):
            self.classifier.features(**batches[0])
        return Structure(
            chain=self.chain,
            batched=self.batched,
            modules=self.modules,
            direct=self.direct,
            parameters=tuple(
                self._describe(
                    name,
                    places,
                    positions,
                    shares[places[0]][name],
                    length,
                    fallback=name in self.direct and name not in used_whole,
                )
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
        self,
        name: str,
        places: list[int],
        positions: int,
        share: Contribution,
        length: int,
        *,
        fallback: bool,
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
            fallback=fallback,
        )

    def _rule(self, name: str) -> Rule | None:
        return next((rules[name] for _, rules in self.modules.values() if name in rules), None)


def _cannot_pass(error: Exception | None) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return (
        f"the encoder cannot be differentiated ({lines[0]}): expected one that plain autograd "
        "passes in evaluation mode and in this dtype; name another model, or another dtype"
    )


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


def _subtract(difference: Tensor, share: Contribution, sample: int, *, transposed: bool) -> bool:
    """Take one sample's share (of the first seed) from ``difference``; whether its shape fits."""
    if isinstance(share, Rows):
        own = share.samples == sample
        difference.index_add_(0, share.ids[own], share.vectors[0, own], alpha=-1)
        return True
    if isinstance(share, Outer):
        product = share.gradients[0][sample].T @ share.inputs[sample]
        product = product.T if transposed else product
    else:
        product = share[0, sample]
    if product.numel() != difference.numel():
        return False
    difference -= product.reshape(difference.shape)
    return True


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
