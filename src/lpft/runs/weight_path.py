"""The weights between a run's linear probe and its end, and how the classifiers there score."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.special import log_softmax
from torch import Tensor

from lpft.analysis import Abstention, choose_threshold
from lpft.analysis.selection import PointChoice, choose_point
from lpft.data import Examples, TextData
from lpft.data.splits import ValidationKind
from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import encoder_fingerprint
from lpft.results.formats import fixed
from lpft.results.run import LP_HEAD, Predictions
from lpft.results.saved import TorchClassifier, model_at_start
from lpft.results.schema import PointRecord, RunRecord, UnusableRecord
from lpft.runs.evaluate import score_splits
from lpft.settings import TrainingSettings
from lpft.training.cache import cached_logits
from lpft.training.fit import validation_temperature

logger = logging.getLogger(__name__)

_CHOICE_SEED = 0
_AS_RECORDED = 1e-3
"""Largest difference from the run's own logits, as a part of the largest of these or of 1: another
device or number of threads rounds otherwise, other weights give other logits."""


@dataclass(frozen=True)
class ScoredPoint:
    """A point with its logits by split, N x C each, and where it abstains, if anywhere."""

    record: PointRecord
    logits: Mapping[str, NDArray[np.float32]]
    abstention: Abstention | None


class WeightPath:
    """``(1 - alpha) theta_LP + alpha theta_FT``, in the model of the trained run.

    The model is changed in place. theta_FT has adapters merged: with LoRA, W_0 + (alpha_r / r) B A,
    so that a point of the path has that product times alpha. ``encoders`` are the fingerprints of
    both ends.
    """

    def __init__(
        self, run: Path, record: RunRecord, data: TextData, saved: TorchClassifier
    ) -> None:
        """Read both ends of a run.

        Raises:
            InputError: the base model changed or cannot be loaded, the LP head is missing or
                damaged, or the trained model has other parameters.
        """
        settings = TrainingSettings.read_own(record.config)
        self.head_scale = 1.0 if settings.head_scale is None else settings.head_scale
        self.saved = saved
        start, end = model_at_start(run, record, data, settings).model, saved.classifier.model
        self.encoders = {
            "encoder": encoder_fingerprint(start),
            "trained_encoder": encoder_fingerprint(end),
        }
        _install_head(run, start, self.head_scale)
        first, last = start.state_dict(), end.state_dict()
        if {n: t.shape for n, t in first.items()} != {n: t.shape for n, t in last.items()}:
            raise InputError(
                f"the weights in '{run}' are not those of '{settings.model}' after training by "
                f"{settings.method}: there is nothing between the two; train it again"
            )
        # Only what training moved is held twice: with LoRA some projections and the head.
        self._ends: dict[str, tuple[Tensor, Tensor]] = {
            name: (tensor, last[name].clone())
            for name, tensor in first.items()
            if not torch.equal(tensor, last[name])
        }
        digest = sha256(" ".join(self.encoders.values()).encode())
        for name in sorted(name for name in first if name.startswith("head.")):
            for tensor in (first[name], last[name]):
                digest.update(tensor.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def set_weights(self, alpha: float) -> None:
        """Give the model the weights at ``alpha``, which are exact at both ends."""
        weights = self.saved.classifier.model.state_dict()
        with torch.no_grad():
            for name, (start, end) in self._ends.items():
                weights[name].copy_((1 - alpha) * start + alpha * end)

    def go_to(self, point: ScoredPoint) -> None:
        """Make the model the classifier of a point, with its temperature and threshold."""
        self.set_weights(point.record.alpha)
        config, abstention = self.saved.classifier.model.config, point.abstention
        config.temperature = point.record.temperature
        config.abstain_below = None if abstention is None else abstention.abstain_below


def _install_head(run: Path, model: LinearHeadClassifier, scale: float) -> None:
    """Give a model the head that fine-tuning began with: that of linear probing times ``scale``."""
    try:
        tensors = load_file(run / LP_HEAD)
        weight, bias = tensors["weight"], tensors["bias"]
        if weight.shape != model.head.weight.shape or bias.shape != weight.shape[:1]:
            raise ValueError(f"a head of shape {tuple(weight.shape)}")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"'{run / LP_HEAD}' cannot be used ({error}): restore it, or train the run again"
        ) from error
    with torch.no_grad():
        model.head.weight.copy_(weight).mul_(scale)
        if model.head.bias is not None:
            model.head.bias.copy_(bias).mul_(scale)


def score_points(
    path: WeightPath,
    sets: Mapping[str, Examples],
    kind: ValidationKind,
    alphas: Sequence[float],
    threshold: Mapping[str, float],
) -> list[ScoredPoint]:
    """Every point on every set, with the temperature that its own validation logits give.

    ``threshold`` is :attr:`~lpft.settings.OutputSettings.threshold`, which each point meets anew.
    """
    classifier, config = path.saved.classifier, path.saved.classifier.model.config
    tokens = {
        name: tokenize(
            classifier.tokenizer, examples.texts, classifier.max_length, rows=examples.rows
        )
        for name, examples in sets.items()
    }
    labels = sets["validation"].labels
    assert labels is not None, "validation rows have labels"
    scored = []
    for alpha in alphas:
        path.set_weights(alpha)
        weights = f"{path.fingerprint} {alpha!r}"
        logits = {
            name: cached_logits(
                classifier, tokens[name], weights, path.saved.device, f"alpha {alpha:g}, {name}"
            )
            for name in sets
        }
        fit = validation_temperature(logits["validation"], labels, kind)
        abstention = None
        if threshold:
            abstention = choose_threshold(
                logits["validation"], labels, fit.temperature, **threshold
            )
        config.temperature = fit.temperature
        config.abstain_below = None if abstention is None else abstention.abstain_below
        splits = score_splits(sets, logits, config, logits.get("test", logits["validation"]))
        point = PointRecord(
            alpha=alpha, temperature=fit.temperature, reason=fit.reason, splits=splits
        )
        accuracies = (f"{name} {fixed(m['accuracy'])}" for name, m in splits.items())
        logger.info("alpha %g: accuracy on %s", alpha, ", ".join(accuracies))
        scored.append(ScoredPoint(point, logits, abstention))
    return scored


def check_end(run: Path, end: ScoredPoint) -> None:
    """Refuse weights that do not give the logits that the run recorded.

    Raises:
        InputError: they do not, or there are none.
    """
    logits = end.logits["validation"]
    try:
        recorded = Predictions.read(run, "validation", logits.shape[1]).logits
    except UnusableRecord as problem:
        raise InputError(
            f"the run in '{run}' is damaged ({problem}): restore the file, or train it again"
        ) from problem
    allowed = _AS_RECORDED * max(1.0, float(np.abs(recorded).max()))
    if recorded.shape != logits.shape or not np.abs(recorded - logits).max() <= allowed:
        raise InputError(
            f"the weights in '{run}' do not give its own predictions of the validation rows: they "
            "are damaged, or what was trained is not in them; train it again"
        )


def choose(scored: Sequence[ScoredPoint], validation: Examples) -> PointChoice:
    """The choice among the points, by the validation rows alone."""
    labels = validation.labels
    assert labels is not None, "validation rows have labels"
    logits = np.stack([point.logits["validation"].astype(np.float64) for point in scored])
    temperatures = np.array([point.record.temperature for point in scored])
    losses = -log_softmax(logits / temperatures[:, None, None], axis=2)
    return choose_point(
        [f"{point.record.alpha:g}" for point in scored],
        logits.argmax(axis=2) == labels,
        losses[:, np.arange(len(labels)), labels],
        np.random.default_rng(_CHOICE_SEED),
    )
