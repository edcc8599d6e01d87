"""Tiny trained classifiers to export, what they must answer, and programs that have no lpft."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_classifiers import random_classifier
from tiny_models import DECODERS, tiny_config, tiny_tokenizer
from transformers import Qwen2Tokenizer

from lpft.data import Text
from lpft.model import Classifier, save_classifier
from lpft.settings import Pooling

TEMPERATURE = 1.7
CLASSES = ("bad", "so & so", "good")
MAX_LENGTH = 24
TEXTS = ["good", "a bad lamp", "the film was never very good and then we slowly ate", "good " * 40]

_DECODERS = (*DECODERS, "mistral", "qwen2", "qwen3", "gpt_neox")

_BLOCKED = """
import importlib.abc, sys
class NoLpft(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "lpft":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoLpft())
"""


def classifier_of(
    family: str,
    pooling: Pooling,
    *,
    head_bias: bool = True,
    classes: tuple[str, ...] | tuple[int, ...] = CLASSES,
    paired: bool = False,
) -> Classifier:
    """A calibrated classifier in which every parameter is random and no norm is trivial."""
    tokenizer = tiny_tokenizer("gpt2" if family in _DECODERS else family)
    if family == "qwen2":  # its tokenizer's class is always its own: one token per letter
        letters = ("<end>", *"abcdefghijklmnopqrstuvwxyzĠ&")
        vocabulary = {letter: index for index, letter in enumerate(letters)}
        tokenizer = Qwen2Tokenizer(
            vocab=vocabulary, merges=[], unk_token="<end>", eos_token="<end>", pad_token="<end>"
        )
    tokenizer.model_max_length = MAX_LENGTH
    classifier = random_classifier(
        tiny_config(family), tokenizer, classes, pooling=pooling, head_bias=head_bias, paired=paired
    )
    classifier.model.config.temperature = TEMPERATURE
    return classifier


def saved(classifier: Classifier, folder: Path) -> Path:
    """A folder as ``TextClassifier.save`` writes it."""
    folder.mkdir(parents=True)
    save_classifier(classifier, folder)
    return folder


@torch.no_grad()
def expected_logits(classifier: Classifier, texts: list[Text]) -> np.ndarray:
    """(V phi(x) + b) / T, text by text without padding, pooled and multiplied by hand."""
    model = classifier.model
    rows = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        tokens = classifier.tokenizer(
            *parts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        states = model.encoder(**tokens).last_hidden_state[0].double().numpy()
        pooled = {"first": states[0], "last": states[-1], "mean": sum(states) / len(states)}
        phi = pooled[model.config.pooling]
        logits = model.head.weight.double().numpy() @ phi
        if model.head.bias is not None:
            logits = logits + model.head.bias.double().numpy()
        rows.append(logits / model.config.temperature)
    return np.stack(rows)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def without_lpft(program: str, given: Any) -> Any:
    """What a program prints as JSON in a process that cannot import lpft; it finds ``given``."""
    code = f"{_BLOCKED}\nimport json\ngiven = json.loads(sys.stdin.read())\n{program}\n"
    code += "assert not [name for name in sys.modules if name.partition('.')[0] == 'lpft']\n"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
