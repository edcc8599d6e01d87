"""The numbers of a history, from a head whose norms and logits are computed by hand."""

import numpy as np
import pytest

from lpft.training.history import (
    EpochRule,
    best_epoch,
    evaluations,
    path_rows,
    pooled_evaluation,
    signs_of_undertraining,
)
from lpft.training.probing import probing_path


def test_rows_of_a_probing_path_are_those_of_a_history():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(90, 4)).astype(np.float32)
    labels = (features[:, :3] + generator.normal(size=(90, 3))).argmax(1)
    train, validation = (features[:60], labels[:60]), (features[60:], labels[60:])
    path = probing_path(*train, 3, inverse_strength=1.0)
    rows = path_rows(path, train, validation)
    assert [row["iteration"] for row in rows] == [point.iteration for point in path.points]
    start, end, last = rows[0], rows[-1], path.points[-1]
    assert start["loss"] == pytest.approx(np.log(3))
    assert start["validation_loss"] == pytest.approx(np.log(3))
    assert (start["head_norm"], start["bias_norm"], start["logit_norm"]) == (0, 0, 0)
    logits = validation[0] @ last.weight.T + last.bias
    assert end["head_norm"] == pytest.approx(np.sqrt((last.weight**2).sum()))
    assert end["bias_norm"] == pytest.approx(np.sqrt((last.bias**2).sum()))
    assert end["logit_norm"] == pytest.approx(np.mean([np.sqrt((row**2).sum()) for row in logits]))
    assert end["validation_accuracy"] == pytest.approx((logits.argmax(1) == validation[1]).mean())
    assert end["loss"] < start["loss"]


def scored(*accuracies, losses=(), calibrated_nll=None):
    """A history of an evaluation per epoch, and a training loss per epoch from the first on."""
    rows = [
        {"event": "evaluation", "epoch": float(epoch), "step": epoch, "validation_accuracy": value}
        for epoch, value in enumerate(accuracies)
    ]
    for row, nll in zip(rows, calibrated_nll or [0.5] * len(rows), strict=True):
        row["validation_calibrated_nll"] = nll
    rows += [
        {"event": "training", "epoch": float(epoch), "step": epoch, "loss": loss}
        for epoch, loss in enumerate(losses, start=1)
    ]
    return rows


@pytest.mark.parametrize(
    ("accuracies", "start_counts", "epoch"),
    [
        ((0.5, 0.7, 0.8, 0.8), True, 2),
        ((0.8, 0.7, 0.8, 0.6), True, 0),
        ((0.9, 0.7, 0.8, 0.8), False, 2),
    ],
)
def test_of_equal_epochs_the_earlier_is_the_best(accuracies, start_counts, epoch):
    rule = EpochRule("accuracy", start_counts=start_counts)
    best = best_epoch(scored(*accuracies), rule, epochs=3.0, from_probe=True)
    assert (best.epoch, best.score) == (epoch, accuracies[epoch])
    assert best.probe_won == (epoch == 0)
    # a word where the probe won, or would have if the rule allowed it
    assert (best.note is None) == (accuracies[0] < best.score)


@pytest.mark.parametrize(
    ("calibrated_nll", "refined", "epoch"),
    [
        ((0.1, 0.6, 0.5, 0.4), True, 3),  # of the two with the best accuracy the one that separates
        ((0.1, 0.4, 0.3, 0.6), True, 2),
        ((0.1, 0.6, 0.5, 0.4), False, 2),  # as the paper
    ],
)
def test_epochs_of_equal_accuracy_are_told_apart_by_their_calibrated_nll(
    calibrated_nll, refined, epoch
):
    rows = scored(0.5, 0.7, 0.8, 0.8, calibrated_nll=calibrated_nll)
    best = best_epoch(rows, EpochRule("accuracy", refined=refined), epochs=3.0, from_probe=True)
    assert (best.epoch, best.score) == (epoch, 0.8)


def signs(accuracies, labels, *, losses=(), classes=2):
    history = scored(*accuracies, losses=losses)
    rule = EpochRule("accuracy", start_counts=False)
    best = best_epoch(evaluations(history), rule, epochs=3.0, from_probe=False)
    return signs_of_undertraining(history, best, np.array(labels), classes)


BALANCED = [0, 1] * 50


def test_a_training_that_went_far_enough_shows_no_sign():
    assert signs((0.5, 0.8, 0.9, 0.9), BALANCED, losses=(0.6, 0.3, 0.1)) == ()


def test_a_loss_near_that_of_guessing_is_a_sign():
    # 0.8 ln 2 = 0.555; the loss of the epoch kept (2) counts, not that of the others
    assert signs((0.5, 0.8, 0.9, 0.9), BALANCED, losses=(0.6, 0.54, 0.7)) == ()
    (sign,) = signs((0.5, 0.8, 0.9, 0.9), BALANCED, losses=(0.3, 0.56, 0.3))
    assert "0.56" in sign
    assert "ln 2 = 0.69" in sign


def test_a_last_epoch_that_is_the_best_by_more_than_a_hundredth_is_a_sign():
    assert signs((0.5, 0.8, 0.9, 0.905), BALANCED) == ()
    (sign,) = signs((0.5, 0.8, 0.9, 0.92), BALANCED)
    assert "0.920 after at most 0.900" in sign


def test_accuracy_near_the_largest_class_is_a_sign():
    # of 100 rows in halves the standard error is 0.05
    (sign,) = signs((0.5, 0.55, 0.5, 0.5), BALANCED)
    assert "0.550" in sign
    assert signs((0.5, 0.56, 0.5, 0.5), BALANCED) == ()
    assert signs((0.9, 0.95, 0.9, 0.9), [0] * 90 + [1] * 10) == ()  # 0.9 + 0.03
    assert len(signs((0.9, 0.92, 0.9, 0.9), [0] * 90 + [1] * 10)) == 1


def test_an_epoch_of_folds_has_the_metrics_of_all_rows_and_the_means_of_the_models():
    class Rows:
        labels = np.array([0, 1, 1])
        groups = None

    parts = [
        {"epoch": 2.0, "step": 4, "head_norm": 1.0, "bias_norm": 0.0, "feature_difference": 3.0},
        {"epoch": 2.0, "step": 6, "head_norm": 2.0, "bias_norm": 0.5, "feature_difference": 5.0},
    ]
    row = pooled_evaluation(parts, np.array([[1.0, 0], [1, 0], [0, 1]]), Rows, steps=5)
    assert (row["epoch"], row["step"]) == (2, 10)
    assert row["validation_accuracy"] == pytest.approx(2 / 3)
    expected = (2 * np.log(1 + np.exp(-1)) + np.log(1 + np.exp(1))) / 3
    assert row["validation_loss"] == pytest.approx(expected)
    assert (row["head_norm"], row["bias_norm"], row["feature_difference"]) == (1.5, 0.25, 4)
