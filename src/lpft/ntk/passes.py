"""Forward once, then backward position by position: the embeddings, each block, what follows.

Positions of an encoder with a chain of L blocks are 0 (all before the first block), 1 to L (the
blocks) and L + 1 (all after the last, down to the pooled feature); without a chain everything is
position 0. Going down from the last, each is rebuilt alone from its stashed input, its modules'
inputs and gradients are kept, and the gradient at its input is stashed for the next.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.capture import (
    Contribution,
    Recorder,
    call_contributions,
    merge_uses,
    pull_back,
)
from lpft.ntk.chain import Chain, Key, replaced_blocks, watched_blocks
from lpft.ntk.rules import Rule
from lpft.ntk.stash import Stash

Batch = dict[str, Tensor]
Modules = dict[str, tuple[nn.Module, dict[str, Rule]]]


class _FirstBlockReached(Exception):
    """Stops a forward pass at the first block."""

    def __init__(self, hidden: Tensor, extras: list[Tensor]) -> None:
        super().__init__()
        self.hidden = hidden
        self.extras = extras


class Passes:
    """The passes of numbered batches through one encoder for S seeds (S x h).

    ``modules`` are those whose parameters are wanted, ``direct`` the parameters that autograd
    must treat itself, for which every batch holds one sample.
    """

    def __init__(
        self,
        classifier: LinearHeadClassifier,
        chain: Chain | None,
        modules: Modules,
        direct: Mapping[str, Tensor],
        seeds: Tensor,
        stash: Stash,
    ) -> None:
        self._classifier = classifier
        self._chain = chain
        self._modules = modules
        self._direct = dict(direct)
        self._seeds = seeds
        self._stash = stash
        self._arguments: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._extras_from: set[tuple[int, int]] = set()
        self.extras = 0
        """Numbers in the blocks' further arguments that carry gradients, once a block passed."""

    @property
    def positions(self) -> int:
        """How many positions there are."""
        return 1 if self._chain is None else len(self._chain) + 2

    @torch.no_grad()
    def forward(self, number: int, batch: Batch) -> Tensor:
        """The features (n x h) of batch ``number``; stashes what the backward passes need."""
        chain = self._chain
        if chain is None:
            return self._classifier.features(**batch)
        kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def keep(block: int, arguments: Any, keywords: Any) -> None:
            listed, named = list(arguments), dict(keywords)
            holder: Any = listed if isinstance(chain.hidden, int) else named
            self._stash.put(("hidden", block, number), [holder[chain.hidden]])
            holder[chain.hidden] = None
            kept.append((tuple(listed), named))

        last: list[Tensor] = []
        handle = chain.modules[-1].register_forward_hook(
            lambda _module, _arguments, result: last.append(
                result[0] if isinstance(result, tuple) else result
            )
        )
        try:
            with watched_blocks(chain, keep):
                features = self._classifier.features(**batch)
        finally:
            handle.remove()
        self._stash.put(("hidden", len(chain), number), [last[-1]])
        self._arguments[number] = kept
        return features

    def backward(
        self,
        position: int,
        number: int,
        batch: Batch,
        *,
        only: Collection[str] | None = None,
    ) -> dict[str, Contribution]:
        """The share of ``position`` in each wanted parameter, or in those ``only``, for one batch.

        The gradient at the position's input is stashed for ``position - 1``. Positions are asked
        for from the last to the first; the same one may be asked for again.
        """
        samples = batch["input_ids"].shape[0]
        modules, direct = self._modules, self._direct
        if only is not None:
            modules = _owners(modules, only)
            direct = {name: tensor for name, tensor in direct.items() if name in only}
        with torch.enable_grad(), Recorder(modules, samples) as recorder:
            results, seeds, inputs = self._rebuild(position, number, batch, recorder)
            handed_on, at_results, jacobians = pull_back(
                results, seeds, inputs, recorder.calls, direct
            )
            self._hand_on(position, number, handed_on)
            uses: dict[str, list[Contribution]] = {}
            for call, gradients in zip(recorder.calls, at_results, strict=True):
                for name, share in call_contributions(call, gradients, samples).items():
                    uses.setdefault(name, []).append(share)
        return {name: merge_uses(of_name) for name, of_name in uses.items()} | jacobians

    def finish(self, position: int, number: int) -> None:
        """Forget what only ``position`` needed of batch ``number``."""
        self._stash.drop(("gradient", position, number))
        self._stash.drop(("hidden", position - 1, number))
        if position == 0 and self._chain is not None:
            for extra in range(len(self._chain.extras)):
                self._stash.drop(("extra", extra, number))

    def _rebuild(
        self, position: int, number: int, batch: Batch, recorder: Recorder
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        """Run a position forward under autograd: its results, their seeds, and its inputs."""
        chain = self._chain
        if chain is None:
            recorder.enabled = True
            features = self._classifier.features(**batch)
            return [features], self._feature_seeds(features), []
        if position == len(chain) + 1:
            return self._rebuild_end(chain, number, batch, recorder)
        if position == 0:
            return self._rebuild_start(chain, number, batch, recorder)
        arguments, keywords = self._arguments[number][position - 1]
        (hidden,) = self._leaves("hidden", position - 1, number)
        given: dict[Key, Any] = dict(enumerate(arguments))
        given.update(keywords)
        given[chain.hidden] = hidden
        extras = []
        for key in chain.extras:
            given[key] = given[key].detach().requires_grad_()
            extras.append(given[key])
        self.extras = sum(extra.numel() for extra in extras)
        recorder.enabled = True
        result = chain.modules[position - 1](
            *(given[key] for key in range(len(arguments))), **{key: given[key] for key in keywords}
        )
        if isinstance(result, tuple):
            result = result[0]
        gradients = self._stash.get(("gradient", position, number), self._seeds.device)
        return [result], [[_or_zero(g, result)] for g in gradients], [hidden, *extras]

    def _rebuild_end(
        self, chain: Chain, number: int, batch: Batch, recorder: Recorder
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        (hidden,) = self._leaves("hidden", len(chain), number)

        def stand_in(block: int, arguments: Any, keywords: Any) -> Tensor:
            if block + 1 < len(chain):
                return (arguments if isinstance(chain.hidden, int) else keywords)[chain.hidden]
            recorder.enabled = True
            return hidden

        with replaced_blocks(chain, stand_in):
            features = self._classifier.features(**batch)
        return [features], self._feature_seeds(features), [hidden]

    def _rebuild_start(
        self, chain: Chain, number: int, batch: Batch, recorder: Recorder
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        def stop(_block: int, arguments: Any, keywords: Any) -> Tensor:
            given = {**dict(enumerate(arguments)), **keywords}
            raise _FirstBlockReached(given[chain.hidden], [given[key] for key in chain.extras])

        recorder.enabled = True
        try:
            with replaced_blocks(chain, stop):
                self._classifier.features(**batch)
            raise AssertionError("the encoder ran without its first block")
        except _FirstBlockReached as reached:
            results = [reached.hidden, *reached.extras]
        gradients = self._stash.get(("gradient", 0, number), self._seeds.device)
        extras = [self._extra_gradients(extra, number) for extra in range(len(chain.extras))]
        seeds = [
            [_or_zero(gradient, result) for gradient, result in zip(of_seed, results, strict=True)]
            for of_seed in zip(gradients, *extras, strict=True)
        ]
        return results, seeds, []

    def _hand_on(
        self, position: int, number: int, handed_on: Sequence[Sequence[Tensor | None]]
    ) -> None:
        chain = self._chain
        if chain is None or position == 0:
            return
        self._stash.put(
            ("gradient", position - 1, number), [gradients[0] for gradients in handed_on]
        )
        if not chain.extras or position > len(chain) or (position, number) in self._extras_from:
            return
        self._extras_from.add((position, number))
        for extra in range(len(chain.extras)):
            before = self._extra_gradients(extra, number)
            found = [gradients[1 + extra] for gradients in handed_on]
            self._stash.put(
                ("extra", extra, number),
                [_sum(*of_seed) for of_seed in zip(before, found, strict=True)],
            )

    def _extra_gradients(self, extra: int, number: int) -> list[Tensor | None]:
        """Per seed the gradient at a further argument of the blocks that were passed so far."""
        key = ("extra", extra, number)
        if key not in self._stash:
            return [None] * len(self._seeds)
        return self._stash.get(key, self._seeds.device)

    def _leaves(self, what: str, position: int, number: int) -> list[Tensor]:
        kept = self._stash.get((what, position, number), self._seeds.device)
        return [tensor.detach().requires_grad_() for tensor in kept if tensor is not None]

    def _feature_seeds(self, features: Tensor) -> list[list[Tensor]]:
        return [[seed.expand_as(features)] for seed in self._seeds.to(features.dtype)]


def _owners(modules: Modules, names: Collection[str]) -> Modules:
    """The modules of these parameters alone."""
    owners = {
        owner: (module, {name: rule for name, rule in rules.items() if name in names})
        for owner, (module, rules) in modules.items()
    }
    return {owner: (module, rules) for owner, (module, rules) in owners.items() if rules}


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
