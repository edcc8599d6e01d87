"""One training from a fresh classifier to a calibrated one: probe, scale, fine-tune, calibrate."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from lpft.analysis import TemperatureFit, fit_temperature
from lpft.model import LinearHeadClassifier
from lpft.model.adapters import add_adapter, merge_adapter, save_adapter
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.model.loading import Classifier
from lpft.settings import TrainingSettings, get_method
from lpft.training.finetuning import finetune
from lpft.training.history import TrainingDiverged, evaluation_values, head_norms
from lpft.training.inputs import SplitInputs
from lpft.training.probe_cache import cached_probe
from lpft.training.probing import LinearProbe, install_probe
from lpft.training.randomness import seeded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What a training leaves behind beside the classifier that it changed in place.

    ``head_norm_at_start`` is ``||V||_F`` when fine-tuning began (after probing and scaling; for
    linear probing that of its random start); ``adapter`` the folder of the unmerged adapter.
    """

    classifier: Classifier
    probe: LinearProbe | None
    head_norm_at_start: float
    temperature: TemperatureFit
    validation_features: NDArray[np.float32]
    history: list[dict[str, Any]]
    adapter: Path | None
    timings: dict[str, float]


def fit_classifier(
    classifier: Classifier,
    train: SplitInputs,
    validation: SplitInputs,
    settings: TrainingSettings,
    *,
    metric: str,
    folder: Path,
    cache_dir: Path | None = None,
    on_history: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Fit:
    """Train ``classifier`` by ``settings.method`` and fit its temperature on validation.

    ``settings`` must be resolved. Checkpoints are kept below ``folder / "checkpoints"`` and
    resumed from where they are found; the adapter of a PEFT method goes to ``folder / "adapter"``.
    The linear probe is looked for and kept in ``cache_dir``, unless that is None.

    Raises:
        InputError: the data or the model cannot be trained on, or training diverges.
    """
    method = get_method(settings.method)
    device = resolve_device(settings.device)
    model = classifier.model
    history: list[dict[str, Any]] = []
    timings = {}

    def keep_history(rows: list[dict[str, Any]]) -> None:
        history[:] = rows
        if on_history is not None:
            on_history(rows)

    started = perf_counter()
    norm_at_start = head_norms(model.head)[0]
    probe = _probe(model, train, settings, cache_dir) if method.head_start == "lp" else None
    timings["probing"] = perf_counter() - started

    adapter = None
    started = perf_counter()
    if method.fine_tunes:
        assert settings.head_scale is not None, "settings must be resolved"
        assert settings.epochs is not None
        assert settings.batch_size is not None
        assert settings.learning_rate is not None
        assert settings.weight_decay is not None
        with torch.no_grad():
            model.head.weight.mul_(settings.head_scale)
        norm_at_start = head_norms(model.head)[0]
        with seeded(settings.seed):
            trained: nn.Module = model
            if method.adapter is not None:
                assert settings.lora_rank is not None
                assert settings.lora_alpha is not None
                trained = add_adapter(
                    model, method.adapter, rank=settings.lora_rank, alpha=settings.lora_alpha
                )
            finetune(
                trained,
                train,
                validation,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                class_weights=_class_weights(
                    settings.class_weight, train.labels, model.config.num_labels
                ),
                metric=metric,
                seed=settings.seed,
                device=device,
                precision=settings.precision,
                report_to=settings.report_to,
                folder=folder / "checkpoints",
                on_history=keep_history,
            )
        if method.adapter is not None:
            adapter = folder / "adapter"
            shutil.rmtree(adapter, ignore_errors=True)
            save_adapter(trained, adapter)
            model = merge_adapter(trained)
    timings["finetuning"] = perf_counter() - started

    model.eval()
    features = validation.pretrained
    if method.fine_tunes:
        features = extract_features(model, validation.tokens, device=device)
    logits = head_logits(model, features)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("the trained model's logits are not finite: lower --learning-rate")
    temperature = fit_temperature(logits, validation.labels)
    model.config.temperature = temperature.temperature
    if not method.fine_tunes:
        values = evaluation_values(model.head, logits, features, validation)
        keep_history([{"event": "evaluation", "epoch": 0.0, "step": 0, **values}])
    return Fit(
        classifier=Classifier(model, classifier.tokenizer),
        probe=probe,
        head_norm_at_start=norm_at_start,
        temperature=temperature,
        validation_features=features,
        history=history,
        adapter=adapter,
        timings=timings,
    )


def _probe(
    model: LinearHeadClassifier,
    train: SplitInputs,
    settings: TrainingSettings,
    cache_dir: Path | None,
) -> LinearProbe:
    """Fit the probe on phi_0 of the training rows and install it as the head."""
    probe = cached_probe(
        train.pretrained,
        train.labels,
        model.config.num_labels,
        fit_bias=settings.head_bias,
        class_weight=settings.class_weight,
        cache_dir=cache_dir,
    )
    install_probe(model, probe)
    logger.info(
        "linear probe: inverse strength %.3g by %d folds, head norm %.3g",
        probe.inverse_strength,
        probe.folds,
        head_norms(model.head)[0],
    )
    if not probe.converged:
        logger.warning("the linear probe did not converge within its iterations")
    return probe


def _class_weights(
    class_weight: str | None, labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64] | None:
    """Weights per class (C) as scikit-learn balances them; classes without rows weigh 1."""
    if class_weight is None:
        return None
    present = np.unique(labels)
    weights = np.ones(classes)
    weights[present] = compute_class_weight(class_weight, classes=present, y=labels)
    return weights
