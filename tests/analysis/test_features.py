"""CS, Diff and FDR against naive loops and regression identities, and the joint t-SNE."""

import json

import numpy as np
import pytest
import sklearn.manifold
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics.pairwise import cosine_similarity as pairwise_cosine

from lpft.analysis import cosine_similarity, feature_difference, feature_statistics, fisher_ratio
from lpft.analysis.features import project_with_head
from lpft.errors import InputError


def labelled_features(rows, width, classes, seed):
    """Correlated features with class means apart; every class present."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    means = rng.normal(size=(classes, width))
    noise = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))
    return means[labels] + noise, labels


def naive_ratio(features, labels):
    """The definition, one outer product at a time."""
    mean, width = features.mean(axis=0), features.shape[1]
    within, between = np.zeros((width, width)), np.zeros((width, width))
    for label in set(labels.tolist()):
        members = features[labels == label]
        centre = members.mean(axis=0)
        between += len(members) * np.outer(centre - mean, centre - mean)
        for row in members:
            within += np.outer(row - centre, row - centre)
    return float(np.trace(np.linalg.pinv(within, rcond=1e-10, hermitian=True) @ between))


def test_cosine_similarity_by_hand():
    # Pairs: (1,0).(0,1) = 0, (1,0).(3,4) = 3/5, (0,1).(3,4) = 4/5; lengths do not matter.
    assert cosine_similarity([[7.0, 0.0], [0.0, 2.0], [3.0, 4.0]]) == pytest.approx(1.4 / 3)
    assert cosine_similarity([[1.0, 2.0], [-2.0, -4.0]]) == pytest.approx(-1)
    assert cosine_similarity([[1.0, 2.0]] * 5) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 30), width=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_cosine_similarity_against_the_double_loop(rows, width, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, width)) + rng.normal(size=width)
    total = 0.0
    for i in range(rows):
        for j in range(rows):
            if i != j:
                lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
                total += features[i] @ features[j] / lengths
    found = cosine_similarity(features)
    assert found == pytest.approx(total / (rows * (rows - 1)), abs=1e-12)
    assert -1 / (rows - 1) - 1e-12 <= found <= 1 + 1e-12
    scales = rng.uniform(0.1, 10, size=(rows, 1))
    assert cosine_similarity((scales * features)[::-1]) == pytest.approx(found, abs=1e-12)


def test_zero_vectors_count_as_zero_as_in_scikit_learn():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    pairs = pairwise_cosine(features)
    expected = pairs[~np.eye(4, dtype=bool)].mean()
    assert expected == pytest.approx(0.6 * 2 / 12)
    assert cosine_similarity(features) == pytest.approx(expected)
    assert cosine_similarity(np.zeros((3, 2))) == 0


def test_one_row_makes_no_pair():
    assert cosine_similarity([[1.0, 2.0]]) is None


def test_feature_difference_by_hand():
    features = np.array([[3.0, 4.0], [1.0, 1.0]])
    assert feature_difference(features, np.array([[0.0, 0.0], [1.0, -1.0]])) == 3.5
    assert feature_difference(features, features) == 0


def test_feature_difference_of_float32_is_taken_in_float64():
    start = np.full((1, 4), 1000.0, dtype=np.float32)
    moved = np.nextafter(start, np.float32(2000))  # each entry moves by 2^-14
    assert feature_difference(moved, start) == 2 * 2.0**-14


def test_other_shape_of_pretrained_features_is_refused():
    with pytest.raises(InputError, match=r"expected the shape .* \(3, 2\), found \(2, 2\)"):
        feature_difference(np.ones((2, 2)), np.ones((3, 2)))


def test_fisher_ratio_by_hand():
    # Means 1 and 5 around 3: S_B = 2 * 4 + 2 * 4 = 16; S_W = 4 * 1 = 4.
    line = np.array([[0.0], [2.0], [4.0], [6.0]])
    labels = np.array([0, 0, 1, 1])
    assert fisher_ratio(line, labels) == pytest.approx(4, rel=1e-14)
    # Unequal classes {0, 2}, {4}: m = 2, S_B = 2 * 1 + 1 * 4 = 6, S_W = 2.
    assert fisher_ratio(line[:3], labels[:3]) == pytest.approx(3, rel=1e-14)


@pytest.mark.parametrize(("second", "expected"), [(1e-4, 4 + 4), (1e-6, 4)])
def test_eigenvalues_are_cut_at_1e_10_of_the_largest(second, expected):
    # S_W = diag(4, 4 s^2) and S_B has the same ratio 4 in both columns: cut once s^2 < 1e-10.
    # Signs make the columns' scatter orthogonal within classes; each adds its own share.
    first = np.array([0.0, 2.0, 0.0, 2.0, 4.0, 6.0, 4.0, 6.0])
    other = np.array([0.0, 0.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0])
    features = np.stack([first, second * other], axis=1)
    assert fisher_ratio(features, np.repeat([0, 1], 4)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "width", "classes"), [(60, 8, 2), (60, 8, 5), (12, 40, 3), (40, 40, 4), (41, 40, 2)]
)
def test_fisher_ratio_against_the_definition(rows, width, classes):
    features, labels = labelled_features(rows, width, classes, seed=rows)
    assert fisher_ratio(features, labels) == pytest.approx(naive_ratio(features, labels), rel=1e-7)


@pytest.mark.parametrize(("rows", "width"), [(50, 3), (300, 40)])
def test_two_classes_give_the_regression_identity(rows, width):
    features, labels = labelled_features(rows, width, 2, seed=width)
    r2 = LinearRegression().fit(features, labels).score(features, labels)
    assert fisher_ratio(features, labels) == pytest.approx(r2 / (1 - r2), rel=1e-9)


@pytest.mark.parametrize("classes", [3, 6])
def test_several_classes_give_the_canonical_correlations(classes):
    # Hotelling and Lawley: the trace is the sum of r^2 / (1 - r^2) over the canonical
    # correlations r of the features and the one-hot labels, the cosines between their spans.
    features, labels = labelled_features(200, 10, classes, seed=classes)
    onehot = np.eye(classes)[labels]
    spans = [np.linalg.qr(m - m.mean(axis=0))[0] for m in (features, onehot[:, 1:])]
    squares = np.linalg.svd(spans[0].T @ spans[1], compute_uv=False) ** 2
    assert fisher_ratio(features, labels) == pytest.approx(
        np.sum(squares / (1 - squares)), rel=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 8), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_invertible_maps_shifts_orders_and_label_names_do_not_matter(width, classes, seed):
    features, labels = labelled_features(40, width, classes, seed)
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(width, width)))[0] for _ in range(2))
    mapped = features @ (left * rng.uniform(0.2, 5, width)) @ right + 10 * rng.normal(size=width)
    order = rng.permutation(40)
    renamed = 3 * rng.permutation(classes)[labels]
    within = features - np.stack([features[labels == c].mean(axis=0) for c in labels])
    spread = np.linalg.cond(within)
    if spread < 1e3:  # far from the cut, which no linear map respects
        expected = fisher_ratio(features, labels)
        assert fisher_ratio(mapped[order], renamed[order]) == pytest.approx(expected, rel=1e-7)
        assert expected >= 0


def test_a_single_class_and_equal_means_have_ratio_zero():
    features = np.random.default_rng(0).normal(size=(10, 3))
    assert fisher_ratio(features, np.full(10, 2)) == 0
    assert fisher_ratio(features[:1], np.array([1])) == 0
    assert fisher_ratio(np.full((4, 3), 0.1), np.array([0, 0, 1, 1])) == 0
    assert fisher_ratio([[1.0], [3.0], [2.0], [2.0]], [0, 0, 1, 1]) == 0


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e6])
def test_classes_apart_that_do_not_vary_have_no_ratio(offset):
    rng = np.random.default_rng(0)
    collapsed = rng.normal(size=(3, 5))[np.arange(21) % 3] + offset
    assert fisher_ratio(collapsed, np.arange(21) % 3) is None
    assert fisher_ratio(rng.normal(size=(4, 5)) + offset, np.arange(4)) is None


def test_a_large_common_offset_does_not_cost_digits():
    features, labels = labelled_features(50, 4, 3, seed=7)
    grid = np.round(features * 2**20) / 2**20  # so that adding 2^30 is exact
    assert fisher_ratio(grid + 2**30, labels) == pytest.approx(naive_ratio(grid, labels), rel=1e-8)


def test_statistics_have_the_keys_of_features_json():
    pretrained, labels = labelled_features(40, 6, 3, seed=2)
    features = pretrained.copy()
    features[:, 0] += 2.0
    statistics = feature_statistics(features, pretrained, labels)
    assert set(statistics) == {
        "cosine_similarity",
        "feature_difference",
        "fisher_ratio",
        "pretrained",
    }
    assert statistics["feature_difference"] == pytest.approx(2, rel=1e-12)
    # A shift leaves scatters alone.
    assert statistics["fisher_ratio"] == pytest.approx(naive_ratio(pretrained, labels), rel=1e-8)
    assert statistics["pretrained"] == {
        "cosine_similarity": cosine_similarity(pretrained),
        "fisher_ratio": pytest.approx(naive_ratio(pretrained, labels), rel=1e-8),
    }
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics


def test_statistics_of_one_row_are_json_too():
    statistics = feature_statistics([[1.0, 2.0]], [[1.0, 0.0]], [0])
    assert json.loads(json.dumps(statistics)) == {
        "cosine_similarity": None,
        "feature_difference": 2.0,
        "fisher_ratio": 0.0,
        "pretrained": {"cosine_similarity": None, "fisher_ratio": 0.0},
    }


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.empty((0, 4)), [], "features: expected at least one row"),
        ([[np.inf, 0.0]], [0], "features: expected finite numbers, found 1"),
        ([[1.0, 0.0]], [0, 1], "labels: expected shape"),
        ([[1.0, 0.0]], [-1], "class indices of 0 or more, found -1 in row 0"),
        ([[1.0, 0.0]], [0.5], "integer class indices"),
    ],
)
def test_wrong_input_is_named(features, labels, message):
    with pytest.raises(InputError, match=message):
        feature_statistics(features, features, labels)


# --- features and head in one picture


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
