"""One way to pass an encoder, tried on short texts and compared with autograd.

Nothing here trusts a module's type: the share of every wanted parameter is compared with plain
autograd's gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import feature_size
from lpft.ntk.capture import Contribution, Outer, Rows
from lpft.ntk.certificate import parameter_chunks
from lpft.ntk.chain import Chain
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.passes import Modules, Passes
from lpft.ntk.stash import Stash

_GENERATOR_SEED = 20_240_516
_TOLERANCE = 1e4
"""Of a gradient's relative error, in the dtype's own."""
_CHECKED_AT_ONCE = 1 << 24
"""Numbers of the gradients that are compared at once, where no single parameter has more."""


class Trial:
    """One way to pass the encoder, tried on short texts.

    The blocks of ``chain`` one by one, or everything at once; several texts together where
    ``batched``; shares of ``parameters`` by the rules of ``modules``, but from autograd for those
    in ``direct``, which are taken out of ``modules``.

    :meth:`compare` sets ``wrong``, the parameters that do not come out as autograd's; ``shares``,
    by group of texts that passed together, position and name; and ``extras``, as in
    :class:`~lpft.ntk.passes.Passes`.
    """

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
        self._transposed = {
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
                transposed = name in self._transposed
                fits = [
                    _subtract(difference, share, place, transposed=transposed)
                    for share in shares.get(name, ())
                ]
                errors[name] = float(difference.norm()) if all(fits) else math.inf
        return norms, errors

    def _pass(self, batch: dict[str, Tensor]) -> list[dict[str, Contribution]]:
        """The shares of every position, from the first to the last."""
        direct = {name: self.parameters[name] for name in self.direct}
        with only_these_require_gradients(self.classifier.encoder, list(direct.values())):
            passes = Passes(
                self.classifier,
                self.chain,
                self.modules,
                direct,
                _seed(self.classifier),
                Stash("memory"),
            )
            passes.forward(0, batch)
            shares = [passes.backward(p, 0, batch) for p in reversed(range(passes.positions))]
        self.extras = passes.extras
        return shares[::-1]


def _pad(ids: Tensor, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Zeros to the right up to the longest batch; zero in the mask means padding."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    return torch.nn.functional.pad(ids, (0, longest - ids.shape[1]))


def _seed(classifier: LinearHeadClassifier) -> Tensor:
    """A random gradient at the features, 1 x h: the same at every call."""
    weight = classifier.encoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(_GENERATOR_SEED)
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
        output = (classifier.features(**batch) @ _seed(classifier)[0]).sum()
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
