"""How an encoder is best passed, found by trials of the ways on two short texts.

The parameters that come out wrong, or have no rule, go to autograd, one text at a time.
"""

import logging
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.capture import NotBatched, RuleFailed, wanted_modules
from lpft.ntk.chain import Chain, find_chain
from lpft.ntk.description import describe
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.structure import Structure
from lpft.ntk.trial import Trial

logger = logging.getLogger(__name__)

_TRIAL_TOKENS = 12
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
    best: Trial | None = None
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
    return describe(best, batches, used_whole)


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

    def tried(self, chain: Chain | None, *, batched: bool) -> Trial | None:
        """A way that was tried, right or wrong; None where it cannot be passed."""
        while not (batched and self.direct):
            trial = Trial(
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

    def succeeded(self, trial: Trial | None) -> Trial:
        """The trial; refuses an encoder that none of the ways passes."""
        if trial is None:
            raise InputError(_cannot_pass(self._failure)) from self._failure
        return trial


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


def _tables(encoder: nn.Module) -> set[str]:
    """The names of all embeddings' weights."""
    return {
        f"{name}.weight"
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding)
    }
