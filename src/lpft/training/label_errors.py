"""Labels that are probably wrong: confident learning on linear probes that did not see the rows.

Source: Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research, 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from lpft.analysis.calibration import fit_temperature
from lpft.data.checks import Finding
from lpft.data.duplicates import find_repetitions
from lpft.data.examples import TextData
from lpft.data.labels import show
from lpft.data.splits import labelled_rows
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.settings import TrainingSettings
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
    prepare_splits,
)

FEWEST_ROWS = 50
"""With fewer rows nothing is said."""

LEAST_AGREEMENT = 0.6
"""Below this kappa the predictions say too little about labels: with pairs of sentences at 0.5, one
in five of the first rows named was wrong."""


def label_error_finding(
    data: TextData, inputs: Mapping[str, SplitInputs], settings: TrainingSettings
) -> list[Finding]:
    """The finding about labels of training, validation and test that are probably wrong.

    Training rows are predicted out of fold, the others by the probe of all training rows. Rows out
    of distribution are left out: there the probe is wrong more often than the labels. ``inputs``
    are those of :func:`~lpft.training.cache.prepare_splits`.
    """
    splits = data.splits()
    train = inputs["train"]
    if "validation" not in inputs:
        splits["train"] = labelled_rows(data)
    elif train.repeats is None and train.groups is None:
        train = replace(train, repeats=find_repetitions(data.train.texts).near)
    names = [name for name in ("train", "validation", "test") if name in inputs]
    probing = settings.model_copy(update={"probe_scoring": "log-loss"})
    probe = cached_probe(train, probing, data.classes)
    logits = [cached_out_of_fold_logits(train, probing, probe, data.classes)]
    logits += [probe.logits(inputs[name].pretrained) for name in names[1:]]
    labels = np.concatenate([inputs[name].labels for name in names])
    numbers = np.concatenate([splits[name].rows for name in names])
    texts = [text for name in names for text in splits[name].texts]
    split_of_row = [name for name in names for _ in splits[name].texts]
    if data.held_out:  # these rows are of the training file
        split_of_row = ["train" if name == "validation" else name for name in split_of_row]
    errors = find_label_errors(np.concatenate(logits), labels)
    if len(errors.rows) == 0:
        return []
    rows: dict[str, list[int]] = {}
    suggested: dict[str, list[str]] = {}
    examples = []
    for row, suggested_label in zip(errors.rows.tolist(), errors.suggested.tolist(), strict=True):
        rows.setdefault(split_of_row[row], []).append(int(numbers[row]))
        suggested.setdefault(split_of_row[row], []).append(str(data.classes[suggested_label]))
        label, better = data.classes[labels[row]], data.classes[suggested_label]
        examples.append(
            f"{split_of_row[row]} {numbers[row]}: {show([label])}, rather {show([better])}: "
            f"{show([texts[row]])}"
        )
    message = (
        f"{len(errors.rows)} of {len(labels)} labels may be wrong, the most doubtful first: linear "
        "probes that did not see these rows are confident of another label. Many are simply hard "
        "texts, so look at the first few and stop where they are right"
    )
    return [
        Finding("note", "label-errors", message, rows, tuple(examples[:10]), suggested=suggested)
    ]


def check_labels(data: TextData, settings: TrainingSettings) -> list[Finding]:
    """The finding about labels that are probably wrong, without a training.

    Raises:
        InputError: the model cannot be loaded, or its features are not finite.
    """
    probing = settings.model_copy(update={"method": "lp"})
    classifier = fresh_classifier(data, probing)
    encoder = encoder_fingerprint(classifier.model)
    _, inputs = prepare_splits(classifier, data, probing, encoder=encoder)
    return label_error_finding(data, inputs, probing)


@dataclass(frozen=True)
class LabelErrors:
    """Rows whose label is probably wrong, the most probable first, and the labels that fit better.

    ``rows`` are K indices, ``suggested`` K class indices; ``agreement`` is Cohen's kappa of labels
    and predictions, which says how far the predictions can be trusted.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    agreement: float


def find_label_errors(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelErrors:
    """The labels that models which did not see them are confident to be others.

    A label is suspect where the probability of another class is above the mean probability of that
    class over its own rows (cleanlab's ``confident_learning``); suspects are ranked by the
    probability of the given label. Probabilities are ``softmax(logits / T)`` with the temperature
    fitted to the labels. Classes without rows are left out.

    Args:
        logits: N x C, each row by a model that was not trained on it.
        labels: N class indices.
    """
    from cleanlab.filter import find_label_issues

    present, class_of_row = np.unique(labels, return_inverse=True)
    present_logits = np.asarray(logits, dtype=np.float64)[:, present]
    empty = np.zeros(0, dtype=np.int64)
    agreement = (
        float(cohen_kappa_score(class_of_row, present_logits.argmax(axis=1)))
        if len(present) > 1
        else 0.0
    )
    if len(class_of_row) < FEWEST_ROWS or not agreement >= LEAST_AGREEMENT:
        return LabelErrors(empty, empty, agreement)
    probabilities = softmax(
        present_logits / fit_temperature(present_logits, class_of_row).temperature, axis=1
    )
    rows = find_label_issues(
        class_of_row,
        probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return LabelErrors(rows, present[probabilities[rows].argmax(axis=1)], agreement)
