"""``--precision auto``: units that are there, agreement with float32, and one choice for a run."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts
from torch.nn.functional import cross_entropy
from toy_files import toy_data, toy_settings
from transformers import TrainerCallback

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.inference import extract_features, head_logits
from lpft.runs.train import train_run
from lpft.settings import TrainingSettings, resolve
from lpft.settings.configs import make_config
from lpft.training import finetuning, precision
from lpft.training.cache import SplitInputs
from lpft.training.finetuning import finetune
from lpft.training.history import EpochRule
from lpft.training.precision import bfloat16_units, choose_precision

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")
UNITS = "units of a test"
SETTINGS = resolve(TrainingSettings(device="cpu", batch_size=8, epochs=1, learning_rate=1e-3))


@pytest.fixture
def with_units(monkeypatch):
    """A machine with units for bfloat16, on which the smallest model gains by them."""
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: UNITS)
    monkeypatch.setattr(precision, "LEAST_WIDTH", 1)
    monkeypatch.setattr(precision, "LEAST_TOKENS", 1)


@pytest.fixture
def model(tmp_path):
    return classifier(tmp_path).model


@pytest.fixture
def train(tmp_path):
    return split_of(classifier(tmp_path), 24)


def classifier(folder):
    save_tiny_model("bert", folder / "model")
    return build_classifier(str(folder / "model"), ("bad", "good"), seed=0, pooling="mean")


def split_of(classifier, rows, seed=0):
    texts, labels = toy_texts(rows, seed)
    tokens = tokenize(classifier.tokenizer, texts, 32)
    indices = np.array([("bad", "good").index(label) for label in labels])
    return SplitInputs(tokens, indices, extract_features(classifier.model, tokens, device=CPU))


@pytest.mark.skipif(not CPUINFO.is_file(), reason="/proc/cpuinfo says what the CPU has")
def test_the_units_of_a_cpu_are_those_that_the_system_names():
    flags = CPUINFO.read_text().partition("flags")[2].partition("\n")[0].split()
    names = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16"}
    expected = next((name for flag, name in names.items() if flag in flags), None)
    assert bfloat16_units(CPU) == expected


@pytest.mark.usefixtures("with_units")
def test_agreement_is_that_of_two_plain_backward_passes(model, train):
    def plain(half):
        copied = copy.deepcopy(model).eval()
        rows = [int(row) for row in np.linspace(0, 23, 8)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = copied(**train.tokens.batch(rows)).logits
        cross_entropy(logits, torch.tensor(train.labels[rows])).backward()
        gradient = [p.grad.flatten() for p in copied.parameters() if p.grad is not None]
        return (logits[:, 0] - logits[:, 1]).detach(), torch.cat(gradient)

    (logits, gradient), (rounded, other) = plain(False), plain(True)
    model.train()
    choice = choose_precision(model, train, SETTINGS)
    assert choice.used == "bfloat16"
    assert choice.units == UNITS
    assert choice.logit_difference == pytest.approx(
        float((rounded - logits).norm() / logits.norm()), rel=1e-3
    )
    assert choice.gradient_difference == pytest.approx(
        float((other - gradient).norm() / gradient.norm()), rel=1e-3
    )
    assert 1e-4 < choice.gradient_difference < 0.03
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("with_units")
def test_logits_that_cancel_are_left_to_float32(model, train):
    # LayerNorm's features sum to zero, which is all that this head looks at.
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 32))
    choice = choose_precision(model, train, SETTINGS)
    assert choice.used == "float32"
    assert choice.logit_difference > 0.05


def test_without_units_or_below_the_sizes_that_gain_it_is_float32(model, train, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: None)
    assert choose_precision(model, train, SETTINGS).used == "float32"
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: UNITS)
    small = choose_precision(model, train, SETTINGS)
    assert (small.used, small.logit_difference) == ("float32", None)
    assert "and 32" in small.reason


@pytest.mark.parametrize(
    ("error", "used", "words"),
    [
        (RuntimeError("expected scalar type Float but found BFloat16"), "float32", "fails in bf"),
        (torch.OutOfMemoryError("CUDA out of memory."), "bfloat16", "a batch of 2"),
    ],
)
@pytest.mark.usefixtures("with_units")
def test_a_model_that_fails_in_bfloat16_or_lacks_memory(
    model, train, monkeypatch, error, used, words
):
    real = model.forward

    def forward(**inputs):
        if torch.is_autocast_enabled("cpu") and len(inputs["input_ids"]) > 2:
            raise error
        return real(**inputs)

    monkeypatch.setattr(model, "forward", forward)
    choice = choose_precision(model, train, SETTINGS)
    assert choice.used == used
    assert words in choice.reason


def test_steps_are_in_bfloat16_and_evaluation_is_in_float32(tmp_path):
    of_precision = {}
    for name in ("float32", "bfloat16"):
        fresh = classifier(tmp_path)
        model, train, validation = fresh.model, split_of(fresh, 24), split_of(fresh, 16, seed=1)
        rows = []
        finetune(
            model,
            train,
            validation,
            SETTINGS.model_copy(update={"precision": name}),
            rule=EpochRule("accuracy", start_counts=False),
            folder=tmp_path / name,
            on_history=lambda every, rows=rows: rows.__setitem__(slice(None), every),
        )
        of_precision[name] = [row for row in rows if row["event"] == "evaluation"]
        # The trained model is float32's, and what was evaluated is what it says.
        logits = model.eval()(**validation.tokens.batch(range(16))).logits
        features = extract_features(model, validation.tokens, device=CPU)
        torch.testing.assert_close(logits.detach(), torch.tensor(head_logits(model, features)))
        loss = cross_entropy(logits, torch.tensor(validation.labels)).item()
        assert rows[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)
    start, end = zip(*of_precision.values(), strict=True)
    assert start[0] == start[1]
    assert end[0]["validation_loss"] != end[1]["validation_loss"]
    assert end[0]["validation_loss"] == pytest.approx(end[1]["validation_loss"], rel=0.01)


def test_the_papers_protocol_keeps_float32_and_a_method_without_steps_has_no_precision(tmp_path):
    data = toy_data(tmp_path / "data")
    ordinary, paper = (
        make_config(data | {"split_protocol": protocol}).training.precision
        for protocol in ("stratified", "paper")
    )
    assert (ordinary, paper) == ("auto", "float32")
    assert make_config(data | {"method": "lp", "split_protocol": "paper"}).training.method == "lp"
    explicit = make_config(data | {"split_protocol": "paper", "precision": "bfloat16"})
    assert explicit.training.precision == "bfloat16"


class _Interrupt(TrainerCallback):
    def on_epoch_begin(self, _args, state, _control, **_):
        if state.epoch >= 1:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("with_units")
def test_a_run_has_one_choice_which_its_record_has_and_resuming_repeats(
    tmp_path, monkeypatch, caplog
):
    save_tiny_model("bert", tmp_path / "model")
    settings = toy_data(tmp_path / "data") | toy_settings(tmp_path / "model", "ft") | {"epochs": 2}
    settings |= {"patience": 9}
    auto = make_config(settings, tmp_path / "auto")
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "Patience", lambda *_: _Interrupt())
        with pytest.raises(KeyboardInterrupt):
            train_run(auto)
    # on a machine without such units
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: None)
    result = train_run(auto, resume=True)
    assert any("no units" in message for message in caplog.messages)
    record = json.loads((tmp_path / "auto/run.json").read_text())
    assert record["config"]["precision"] == record["precision"]["used"] == "bfloat16"
    assert record["precision"]["units"] == UNITS
    assert f"bfloat16 by {UNITS}" in (tmp_path / "auto/README.md").read_text()

    asked = make_config(settings | {"precision": "bfloat16"}, tmp_path / "asked")
    same = train_run(asked)
    assert same.metrics == result.metrics
    other = json.loads((tmp_path / "asked/run.json").read_text())
    assert other["config_hash"] == record["config_hash"]
    assert "precision" not in other
    for again in (auto, replace(asked, output_dir=tmp_path / "auto")):
        assert train_run(again, resume=True).metrics == result.metrics
    full = make_config(settings | {"precision": "float32"}, tmp_path / "auto")
    with pytest.raises(InputError, match="cannot be resumed"):
        train_run(full, resume=True)
