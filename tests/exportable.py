"""Tiny trained classifiers to export, what they must answer, and programs that have no lpft."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_classifiers import scatter
from tiny_models import DECODERS, FAMILIES, tiny_config, tiny_tokenizer
from transformers import (
    CamembertConfig,
    ElectraConfig,
    GPTNeoXConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    XLMRobertaConfig,
)

from lpft.data import Text
from lpft.model import Classifier, save_classifier
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.settings import Pooling

TEMPERATURE = 1.7
CLASSES = ("bad", "so & so", "good")
MAX_LENGTH = 24
TEXTS = ["good", "a bad lamp", "the film was never very good and then we slowly ate", "good " * 40]

_COUSINS = {
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
    "electra": ElectraConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gpt_neox": GPTNeoXConfig,
}
_DECODERS = (*DECODERS, "mistral", "qwen2", "qwen3", "gpt_neox")

_BLOCKED = """
import importlib.abc, sys
class NoLpft(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "lpft":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoLpft())
"""


def config_of(family: str) -> PreTrainedConfig:
    """Two layers, 32 wide, 64 positions."""
    if family in FAMILIES:
        return tiny_config(family)
    if family == "t5":
        return T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    sizes: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": None if family in _DECODERS else 0,
    }
    if family == "electra":
        sizes["embedding_size"] = 16
    if family in ("mistral", "qwen2", "qwen3"):
        sizes["num_key_value_heads"] = 2
    return _COUSINS[family](**sizes)


def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    """One token per word; one per letter for Qwen 2, whose tokenizer's class is always its own."""
    if family != "qwen2":
        return tiny_tokenizer("gpt2" if family in _DECODERS else family)
    letters = {
        letter: index for index, letter in enumerate(("<end>", *"abcdefghijklmnopqrstuvwxyzĠ&"))
    }
    return Qwen2Tokenizer(vocab=letters, merges=[], unk_token="<end>", eos_token="<end>")


def classifier_of(
    family: str,
    pooling: Pooling,
    *,
    head_bias: bool = True,
    classes: tuple[str, ...] | tuple[int, ...] = CLASSES,
    paired: bool = False,
) -> Classifier:
    """A calibrated classifier in which every parameter is random and no norm is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(config_of(family))
    model = attach_head(
        encoder,
        classes,
        pooling=pooling,
        head_bias=head_bias,
        generator=torch.Generator().manual_seed(4),
        paired=paired,
    )
    scatter(model)
    model.config.temperature = TEMPERATURE
    tokenizer = tokenizer_of(family)
    if family in _DECODERS:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = MAX_LENGTH
    return Classifier(model, tokenizer)


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
