"""A hash of what a run trains and is tested on, by which changed data is noticed."""

import hashlib
import json

from lpft.data.examples import TextData


def fingerprint(data: TextData) -> dict[str, str]:
    """SHA-256 (hex) of every split by its name: class names, then texts and labels in order.

    Groups count where rows have them, since their metrics choose the best epoch. Ids, sources and
    notes do not count: they change nothing that is computed.
    """
    return {name: _digest(data, name) for name in data.splits()}


def _digest(data: TextData, split: str) -> str:
    examples = data.splits()[split]
    labels = [None] * len(examples) if examples.labels is None else examples.labels.tolist()
    digest = hashlib.sha256(json.dumps(data.classes).encode())
    for text, label in zip(examples.texts, labels, strict=True):
        # JSON keeps apart what plain joining would not: "ab" and the pair ("a", "b"), 1 and "1"
        digest.update(json.dumps([text, label]).encode() + b"\n")
    if examples.groups is not None:
        groups = examples.groups
        credits = {name: credit.tolist() for name, credit in groups.credits.items()}
        digest.update(json.dumps([groups.index.tolist(), credits, groups.positive]).encode())
    return digest.hexdigest()
