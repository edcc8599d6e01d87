"""The labelled rows to look at first, by linear probes that were fitted without them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lpft.analysis.label_errors import find_label_errors
from lpft.data.checks import Finding
from lpft.data.duplicates import find_repetitions
from lpft.data.examples import TextData
from lpft.data.labels import show
from lpft.data.splits import labelled_rows
from lpft.settings import TrainingSettings
from lpft.training.cache import SplitInputs, cached_out_of_fold_logits, cached_probe


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
    known = [name for name in ("train", "validation", "test") if name in inputs]
    probing = settings.model_copy(update={"probe_scoring": "log-loss"})
    probe = cached_probe(train, probing, len(data.classes))
    logits = [cached_out_of_fold_logits(train, probing, probe, len(data.classes))]
    logits += [inputs[name].pretrained @ probe.weight.T + probe.bias for name in known[1:]]
    labels = np.concatenate([inputs[name].labels for name in known])
    numbers = np.concatenate([splits[name].rows for name in known])
    texts = [text for name in known for text in splits[name].texts]
    names = [name for name in known for _ in splits[name].texts]
    if data.held_out:  # these rows are of the training file
        names = ["train" if name == "validation" else name for name in names]
    found = find_label_errors(np.concatenate(logits), labels)
    if len(found.rows) == 0:
        return []
    rows: dict[str, list[int]] = {}
    suggested: dict[str, list[str]] = {}
    examples = []
    for row, label in zip(found.rows.tolist(), found.suggested.tolist(), strict=True):
        rows.setdefault(names[row], []).append(int(numbers[row]))
        suggested.setdefault(names[row], []).append(str(data.classes[label]))
        given, better = show([data.classes[labels[row]]]), show([data.classes[label]])
        examples.append(
            f"{names[row]} {numbers[row]}: {given}, rather {better}: {show([texts[row]])}"
        )
    message = (
        f"look at the labels of these {len(found.rows)} of {len(labels)} rows first, in this "
        "order: linear probes that did not see them are confident of another label. Where 5% of "
        "all labels are wrong, most of the first ones are; the others are hard texts"
    )
    return [
        Finding("note", "label-errors", message, rows, tuple(examples[:10]), suggested=suggested)
    ]
