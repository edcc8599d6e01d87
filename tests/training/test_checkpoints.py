"""Damaged checkpoints: named in one line, never used, and the training ends the same."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts
from transformers import Trainer

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.files import add_digest
from lpft.model import build_classifier
from lpft.model.inference import extract_features
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import SplitInputs
from lpft.training.checkpoints import (
    EpochWeights,
    kept_checkpoints,
    last_checkpoint,
    read_checkpoint,
)
from lpft.training.finetuning import finetune, finetune_scored
from lpft.training.history import EpochRule

CLASSES = ("bad", "good")
SETTINGS = resolve(
    TrainingSettings(epochs=4, batch_size=8, learning_rate=3e-4, device="cpu", max_length=32)
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A classifier at its start, with its training and validation rows."""
    folder = save_tiny_model("bert", tmp_path_factory.mktemp("model"))
    classifier = build_classifier(str(folder), CLASSES, seed=0, pooling="mean", max_length=32)

    def split(rows, seed):
        texts, labels = toy_texts(rows, seed)
        tokens = tokenize(classifier.tokenizer, texts, 32)
        features = extract_features(classifier.model, tokens, device=torch.device("cpu"))
        return SplitInputs(tokens, np.array([CLASSES.index(k) for k in labels]), features)

    return classifier.model, split(24, 0), split(16, 1)


def trained(prepared, folder, stop_at=None, kept=None):
    """The history and the weights of a training; of one that is stopped nothing.

    The weights of its epochs go to the folder ``kept``.
    """
    model, train, validation = copy.deepcopy(prepared)
    epochs = None if kept is None else EpochWeights(model, kept)
    if epochs is not None:
        epochs.begin(folder, SETTINGS.epochs)
    history, steps, real = [], [], Trainer.training_step

    def step(*arguments, **keywords):
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        steps.append(None)
        return real(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", step)
        try:
            finetune(
                model, train, validation, SETTINGS, folder=folder,
                rule=EpochRule("accuracy", refined=False),  # of equal epochs the earlier
                on_history=lambda rows: history.__setitem__(slice(None), rows),
                epoch_weights=epochs,
            )  # fmt: skip
        except KeyboardInterrupt:
            return None
    return history, model.state_dict(), len(steps)


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def stopped(prepared, tmp_path_factory):
    """Stopped in the third epoch of 3 steps."""
    folder = tmp_path_factory.mktemp("stopped") / "checkpoints"
    assert trained(prepared, folder, stop_at=7) is None
    assert last_checkpoint(folder).name == "checkpoint-6"
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


FILES = (
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("trainer_state.json", "training_args.bin", "config.json", "SHA256SUMS"),
)


def same(result, alone):
    assert result[0] == alone[0]
    return all(torch.equal(value, alone[1][name]) for name, value in result[1].items())


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_the_training_ends_the_same(
    prepared, alone, stopped, tmp_path, caplog, file, damage
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped, folder)
    damage(folder / "checkpoint-6" / file)
    caplog.clear()
    assert same(trained(prepared, folder), alone)
    (line,) = [one.getMessage() for one in caplog.records if "damaged" in one.getMessage()]
    assert f"checkpoint-6/{file}' is damaged: training" in line
    assert line.endswith("to the same result")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
@pytest.mark.parametrize("file", FILES)
def test_whatever_is_damaged_of_a_checkpoint_it_is_not_used(stopped, tmp_path, file, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped, folder)
    damage(folder / "checkpoint-6" / file)
    latest = last_checkpoint(folder)
    assert latest is None or latest.name != "checkpoint-6"
    assert not (folder / "checkpoint-6").exists()


def test_the_checkpoint_before_is_used_where_it_is_the_best(prepared, alone, stopped, tmp_path):
    best = {path.name for path in stopped.glob("checkpoint-*")} - {"checkpoint-6"}
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped, folder)
    flip(folder / "checkpoint-6/optimizer.pt")
    history, weights, steps = trained(prepared, folder)
    assert same((history, weights), alone)
    before = max(int(name.rpartition("-")[2]) for name in best)
    assert steps == alone[2] - before


def test_without_the_best_checkpoint_a_later_one_is_not_used(prepared, alone, stopped, tmp_path):
    (best,) = {path.name for path in stopped.glob("checkpoint-*")} - {"checkpoint-6"}
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped, folder)
    flip(folder / best / "model.safetensors")
    history, weights, steps = trained(prepared, folder)
    assert same((history, weights), alone)
    assert steps == alone[2]


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_damaged_logits_of_a_fold_are_computed_again(prepared, tmp_path, monkeypatch, damage):
    def scored(folder):
        model, train, held_out = copy.deepcopy(prepared)
        torch.manual_seed(0)
        return finetune_scored(model, train, held_out, SETTINGS, folder=folder, name="fold")

    monkeypatch.setattr("lpft.training.checkpoints.MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    rows, logits = scored(tmp_path / "fold")
    damage(tmp_path / "fold/logits/3.npy")
    again = scored(tmp_path / "fold")
    assert again[0] == rows
    np.testing.assert_array_equal(again[1], logits)


@pytest.fixture(scope="module")
def kept(prepared, tmp_path_factory):
    """The run of a training that kept the weights of its epochs, and its result."""
    run = tmp_path_factory.mktemp("run")
    return run, trained(prepared, run / "work", kept=run / "checkpoints")


def test_the_weights_of_every_epoch_are_kept_and_change_no_result(prepared, alone, kept):
    run, result = kept
    assert same(result, alone)
    checkpoints = kept_checkpoints(run)
    assert list(checkpoints) == [0, 1, 2, 3, 4]
    start, model = read_checkpoint(checkpoints[0.0]), prepared[0]
    assert start.keys() == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(start[name], value) for name, value in model.named_parameters())
    scores = [row["validation_accuracy"] for row in result[0] if row["event"] == "evaluation"]
    best = read_checkpoint(checkpoints[float(np.argmax(scores))])
    assert all(torch.equal(result[1][name], value) for name, value in best.items())


@pytest.mark.parametrize("damage", [None, truncate, Path.unlink])
def test_a_stopped_training_goes_on_to_the_same_epochs(
    prepared, alone, kept, tmp_path, caplog, damage
):
    """From its last checkpoint, or from the start where an epoch that it kept is damaged."""
    folder, epochs = tmp_path / "work", tmp_path / "checkpoints"
    assert trained(prepared, folder, stop_at=7, kept=epochs) is None
    if damage is not None:
        damage(epochs / "epoch-1.safetensors")
    history, weights, steps = trained(prepared, folder, kept=epochs)
    assert same((history, weights), alone)
    assert steps == (6 if damage is None else 12)
    assert ("begins anew, to the same result" in caplog.text) == (damage is not None)
    ours, theirs = kept_checkpoints(tmp_path), kept_checkpoints(kept[0])
    assert ours.keys() == theirs.keys()
    for epoch, path in ours.items():
        expected = read_checkpoint(theirs[epoch])
        assert all(torch.equal(expected[n], value) for n, value in read_checkpoint(path).items())


def test_a_start_alone_is_no_training_and_says_what_trains_every_epoch(kept, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    start = shutil.copy(kept_checkpoints(kept[0])[0.0], tmp_path / "checkpoints")
    add_digest(Path(start))
    with pytest.raises(InputError, match=r"has the start alone: validation_file has every"):
        kept_checkpoints(tmp_path)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("file", ["epoch-0.safetensors", "epoch-3.safetensors", "SHA256SUMS"])
def test_damaged_epochs_are_named(kept, tmp_path, file, damage):
    run = shutil.copytree(kept[0], tmp_path / "run")
    damage(run / "checkpoints" / file)
    with pytest.raises(InputError, match=r"damaged|no checkpoints"):
        kept_checkpoints(run)
