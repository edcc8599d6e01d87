"""The numbers of a history, from a head whose norms and logits are computed by hand."""

import numpy as np
import pytest

from lpft.training.history import path_rows
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
