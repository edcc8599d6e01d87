"""The joint t-SNE: what it is given, by naive loops, and what it shows of clusters far apart."""

import numpy as np
import pytest
import sklearn.manifold

from lpft.analysis.features import project_with_head
from lpft.errors import InputError


class Recorded:
    """Stands in for scikit-learn's TSNE: keeps what it is given, places points by their number."""

    def __init__(self, **settings):
        self.settings = settings
        Recorded.last = self

    def fit_transform(self, points):
        self.points = points
        return np.column_stack([np.arange(len(points)), -np.arange(len(points))]).astype("float32")


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(sklearn.manifold, "TSNE", Recorded)
    return Recorded


def arrays(seed=0, texts=5, classes=3, width=4):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(texts, width)),
        rng.normal(size=(texts, width)),
        rng.normal(size=(classes, width)),
        rng.normal(size=(classes, width)),
    )


def test_points_are_directions_from_the_stated_middles(recorded):
    before, after, head_before, head_after = arrays()
    found = project_with_head(before, after, head_before, head_after, seed=3)
    middle = sum(before) / 5
    expected = [v - middle for v in [*before, *after]]
    for head in (head_before, head_after):
        expected += [row - sum(head) / 3 for row in head]
    assert len(recorded.last.points) == 16
    for point, vector in zip(recorded.last.points, expected, strict=True):
        np.testing.assert_allclose(point, vector / np.sqrt((vector**2).sum()))
    assert recorded.last.settings["random_state"] == 3
    assert recorded.last.settings["perplexity"] == 5.0
    np.testing.assert_array_equal(found.features_before[:, 0], np.arange(5))
    np.testing.assert_array_equal(found.features_after[:, 0], np.arange(5, 10))
    np.testing.assert_array_equal(found.head_before[:, 0], np.arange(10, 13))
    np.testing.assert_array_equal(found.head_after[:, 0], np.arange(13, 16))


def test_neither_lengths_of_the_head_nor_common_shifts_enter(recorded):
    before, after, head_before, head_after = arrays(1)
    project_with_head(before, after, head_before, head_after, seed=0)
    first = recorded.last.points
    shift, common = np.full(4, 7.0), np.array([1.0, -2.0, 3.0, 0.5])
    project_with_head(
        before + shift, after + shift, 30 * head_before, 0.01 * (head_after + common), seed=0
    )
    np.testing.assert_allclose(recorded.last.points, first, atol=1e-12)


def test_a_vector_without_length_stays_at_zero(recorded):
    before, after, head_before, _ = arrays(2)
    project_with_head(before, after, head_before, np.ones((3, 4)), seed=0)
    assert not recorded.last.points[-3:].any()


def test_a_row_lies_with_the_features_whose_logit_it_raises_most():
    rng = np.random.default_rng(0)
    directions = np.eye(3, 12)
    labels = np.arange(90) % 3
    features = 5 * directions[labels] + 0.3 * rng.normal(size=(90, 12))
    found = project_with_head(features, features, directions, 40 * directions, seed=0)
    assert found.features_before.shape == (90, 2)
    for label, row in enumerate(found.head_after):
        distances = np.linalg.norm(found.features_after - row, axis=1)
        assert (labels[np.argsort(distances)[:10]] == label).all()
    again = project_with_head(features, features, directions, 40 * directions, seed=0)
    np.testing.assert_array_equal(again.features_after, found.features_after)


def test_what_does_not_belong_together_is_refused():
    before, after, head_before, head_after = arrays()
    with pytest.raises(InputError, match=r"features after: expected the shape before training"):
        project_with_head(before, after[:4], head_before, head_after, seed=0)
    with pytest.raises(InputError, match=r"rows of the head: expected the features' width 4"):
        project_with_head(before, after, head_before[:, :3], head_after[:, :3], seed=0)
    after[0, 0] = np.nan
    with pytest.raises(InputError, match="features after: expected finite numbers"):
        project_with_head(before, after, head_before, head_after, seed=0)
