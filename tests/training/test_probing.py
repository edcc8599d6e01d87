"""The linear probe against scikit-learn's own predictions and the optimum's own equations.

Its path from zero is compared to SciPy's L-BFGS-B on an objective written out by hand.
"""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from lpft.data.splits import fold_numbers
from lpft.errors import InputError
from lpft.training.probing import fit_probe, out_of_fold_logits, probing_path


def problem(rows, width, classes, noise=1.0):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(rows, width)).astype(np.float32)
    scores = features @ generator.normal(size=(width, classes))
    return features, (scores + noise * generator.normal(size=(rows, classes))).argmax(1)


def by_scikit_learn(features, labels, **settings):
    return LogisticRegressionCV(
        Cs=10,
        cv=5,
        l1_ratios=(0.0,),
        scoring="accuracy",
        use_legacy_attributes=False,
        tol=1e-10,
        max_iter=20000,
        **settings,
    ).fit(features.astype(np.float64), labels)


@pytest.mark.parametrize(("rows", "width"), [(200, 8), (120, 40), (3000, 6)])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("fit_bias", [True, False])
def test_the_installed_head_predicts_what_scikit_learn_predicts(rows, width, classes, fit_bias):
    features, labels = problem(rows, width, classes)
    probe = fit_probe(features, labels, classes, fit_bias=fit_bias)
    search = by_scikit_learn(features, labels, fit_intercept=fit_bias)
    # The paper's search stops at 1e-4, where a row or two at the border may change sides twice.
    scores = dict(zip(search.Cs_, search.scores_.mean(axis=0)[0], strict=True))
    assert scores[probe.inverse_strength] >= max(scores.values()) - 3 / rows
    expected = LogisticRegression(
        C=probe.inverse_strength, tol=1e-10, max_iter=20000, fit_intercept=fit_bias
    ).fit(features.astype(np.float64), labels)
    logits = features @ probe.weight.T + probe.bias
    by_head = softmax(logits, axis=1)
    np.testing.assert_allclose(by_head, expected.predict_proba(features), atol=1e-5)
    assert probe.converged
    assert probe.weight.shape == (classes, width)
    if not fit_bias:
        assert not probe.bias.any()


def few_rows_of_many_classes():
    """Six rows of each of 20 classes: a search that stops early prefers C = 1292."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(20), 6)
    features = 0.5 * rng.normal(size=(20, 64))[labels] + rng.normal(size=(120, 64))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = rng.permutation(120)
    return features.astype(np.float32)[order], labels[order]


@pytest.mark.parametrize(
    ("features", "labels"),
    [problem(60, 12, 2, 4.0), problem(60, 12, 4, 3.0), few_rows_of_many_classes()],
    ids=["two classes", "four classes", "many classes"],
)
def test_the_strength_may_be_that_of_the_least_log_loss(features, labels):
    losses, classes = {}, labels.max() + 1
    folds = list(StratifiedKFold(5).split(features, labels))
    for strength in np.logspace(-4, 4, 10):
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=20000)
        losses[strength] = sum(
            log_loss(
                labels[out],
                model.fit(features[rows], labels[rows]).predict_proba(features[out]),
                labels=range(classes),
            )
            for rows, out in folds
        )
    probe = fit_probe(features, labels, classes, scoring="log-loss")
    assert probe.inverse_strength == pytest.approx(min(losses, key=losses.get))
    assert probe.inverse_strength != fit_probe(features, labels, classes).inverse_strength


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_meets_the_optimum_of_its_objective(classes):
    # Where C sum_i CE + |V|^2 / 2 is smallest, C (P - Y)^T Phi + V = 0; b has no penalty.
    features, labels = problem(400, 10, classes)
    probe = fit_probe(features, labels, classes)
    logits = features @ probe.weight.T + probe.bias
    residual = softmax(logits, axis=1) - np.eye(classes)[labels]
    # scikit-learn's binary row w has penalty |w|^2 / 2 = |w/2|^2 + |w/2|^2, twice that of V's rows.
    penalty = probe.weight * (2 if classes == 2 else 1)
    gradient = residual.T @ features + penalty / probe.inverse_strength
    assert np.abs(gradient).max() < 1e-6 * len(features)
    assert np.abs(residual.sum(0)).max() < 1e-6 * len(features)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 1.0, 2: 0.5}])
def test_a_row_of_weight_k_is_k_rows(classes, class_weight):
    features, labels = problem(120, 6, classes)
    weights = np.random.default_rng(1).integers(1, 5, 120)
    probe = fit_probe(
        features, labels, classes, class_weight=class_weight, sample_weight=weights.astype(float)
    )
    for rows, sample_weight in (
        (np.arange(120), weights),
        (np.repeat(np.arange(120), weights), None),
    ):
        expected = LogisticRegression(
            C=probe.inverse_strength,
            tol=1e-10,
            max_iter=20000,
            class_weight={label: class_weight[label] for label in range(classes)}
            if isinstance(class_weight, dict)
            else class_weight,
        ).fit(features[rows].astype(np.float64), labels[rows], sample_weight=sample_weight)
        np.testing.assert_allclose(
            softmax(features @ probe.weight.T + probe.bias, axis=1),
            expected.predict_proba(features),
            atol=1e-5,
        )


def test_the_strength_is_chosen_by_weighted_folds():
    features, labels = problem(150, 12, 3, noise=3.0)
    weights = np.where(np.arange(150) % 3 == 0, 8.0, 0.25)
    losses = {}
    for strength in np.logspace(-4, 4, 10):
        losses[strength] = np.mean(
            [
                log_loss(
                    labels[out],
                    LogisticRegression(C=strength, tol=1e-8, max_iter=20000)
                    .fit(features[rows], labels[rows], sample_weight=weights[rows])
                    .predict_proba(features[out]),
                    labels=range(3),
                    sample_weight=weights[out],
                )
                for rows, out in StratifiedKFold(5).split(features, labels)
            ]
        )
    probe = fit_probe(features, labels, 3, scoring="log-loss", sample_weight=weights)
    assert probe.inverse_strength == pytest.approx(min(losses, key=losses.get))


def test_out_of_fold_logits_are_those_of_weighted_probes():
    features, labels = problem(60, 5, 3)
    weights = np.random.default_rng(1).uniform(0.2, 3, 60)
    fold = fold_numbers(labels)
    logits = out_of_fold_logits(
        features, labels, 3, inverse_strength=0.5, fold=fold, sample_weight=weights
    )
    for number in range(5):
        out = fold == number
        expected = LogisticRegression(C=0.5, tol=1e-10, max_iter=20000).fit(
            features[~out], labels[~out], sample_weight=weights[~out]
        )
        np.testing.assert_allclose(
            softmax(logits[out], axis=1), expected.predict_proba(features[out]), atol=1e-3
        )


def test_two_classes_share_one_row_of_opposite_signs():
    features, labels = problem(100, 5, 2)
    probe = fit_probe(features, labels, 2)
    np.testing.assert_array_equal(probe.weight[0], -probe.weight[1])
    assert probe.bias[0] == -probe.bias[1]


def test_rows_of_three_classes_sum_to_zero():
    features, labels = problem(200, 5, 3)
    np.testing.assert_allclose(fit_probe(features, labels, 3).weight.sum(0), 0, atol=1e-6)


def test_balanced_weights_are_scikit_learns():
    features, labels = problem(300, 6, 3)
    keep = (labels != 0) | (np.arange(300) % 5 == 0)
    features, labels = features[keep], labels[keep]
    probe = fit_probe(features, labels, 3, class_weight="balanced")
    expected = by_scikit_learn(features, labels, class_weight="balanced")
    assert probe.inverse_strength == pytest.approx(expected.C_)
    np.testing.assert_allclose(
        softmax(features @ probe.weight.T + probe.bias, axis=1),
        expected.predict_proba(features),
        atol=1e-5,
    )


def test_a_class_without_rows_is_never_predicted_and_stays_finite():
    features, labels = problem(150, 5, 3)
    labels = np.where(labels == 1, 3, labels)
    probe = fit_probe(features, labels, 5)
    assert probe.absent_classes == (1, 4)
    logits = features @ probe.weight.T + probe.bias
    assert not probe.weight[[1, 4]].any()
    present = logits[:, [0, 2, 3]]
    assert logits[:, [1, 4]].max() <= present.min() - 10 + 1e-9
    expected = by_scikit_learn(features, labels).predict_proba(features)
    np.testing.assert_allclose(softmax(present, axis=1), expected, atol=1e-5)


def test_a_class_without_rows_has_no_bias_where_the_head_has_none():
    features, labels = problem(150, 5, 2)
    probe = fit_probe(features, np.array([0, 2])[labels], 3, fit_bias=False)
    assert probe.absent_classes == (1,)
    assert not probe.weight[1].any()
    assert not probe.bias.any()


@pytest.mark.parametrize(("rarest", "folds"), [(3, 3), (2, 2), (1, 5)])
def test_rare_classes_lower_the_folds_or_sit_out_the_choice(rarest, folds):
    features, labels = problem(120, 5, 2)
    features = np.concatenate([features, np.full((rarest, 5), 9.0, dtype=np.float32)])
    labels = np.concatenate([labels, np.full(rarest, 2)])
    probe = fit_probe(features, labels, 3)
    assert probe.folds == folds
    predicted = (features @ probe.weight.T + probe.bias).argmax(1)
    assert (predicted[-rarest:] == 2).all()


def test_two_rows_of_two_classes_are_enough():
    features = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    probe = fit_probe(features, np.array([0, 1]), 2)
    assert (probe.folds, probe.inverse_strength) == (0, 1.0)
    assert (features @ probe.weight.T + probe.bias).argmax(1).tolist() == [0, 1]


def test_wrong_inputs_are_refused():
    features, labels = problem(20, 3, 2)
    with pytest.raises(InputError, match="at least 2 classes, found 1"):
        fit_probe(features, np.zeros(20, dtype=np.int64), 2)
    features[3, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        fit_probe(features, labels, 2)


def naive_iterates(features, labels, classes, strength, count):
    """V and b after each iteration, on the mean over rows of the probe's objective."""
    rows, width = features.shape
    iterates = []

    def unpacked(flat):
        table = flat.reshape(classes, width + 1)
        return table[:, :-1], table[:, -1]

    def objective(flat):
        weight, bias = unpacked(flat)
        logits = features.astype(np.float64) @ weight.T + bias
        error = softmax(logits, axis=1)
        error[np.arange(rows), labels] -= 1
        entropy = -log_softmax(logits, axis=1)[np.arange(rows), labels].mean()
        value = entropy + (weight**2).sum() / (2 * strength * rows)
        slope = error.T @ features / rows + weight / (strength * rows)
        return value, np.column_stack([slope, error.mean(0)]).ravel()

    minimize(
        objective,
        np.zeros(classes * (width + 1)),
        method="L-BFGS-B",
        jac=True,
        callback=lambda flat: iterates.append(unpacked(flat.copy())),
        options={"maxiter": count, "maxls": 50, "gtol": 1e-8, "ftol": 64 * np.finfo(float).eps},
    )
    return iterates


def test_points_are_the_iterates_of_lbfgs_on_the_objective():
    features, labels = problem(150, 6, 3, noise=2)
    path = probing_path(features, labels, 3, inverse_strength=0.5)
    naive = naive_iterates(features, labels, 3, 0.5, 12)
    checked = 0
    for point in path.points:
        if 0 < point.iteration <= len(naive):
            weight, bias = naive[point.iteration - 1]
            np.testing.assert_allclose(point.weight, weight, atol=1e-8)
            np.testing.assert_allclose(point.bias, bias, atol=1e-8)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("fit_bias", "class_weight"), [(True, None), (False, None), (True, "balanced")]
)
def test_the_path_ends_at_the_probe(classes, fit_bias, class_weight):
    features, labels = problem(300, 8, classes, noise=2)
    keep = (labels != 0) | (np.arange(300) % 3 == 0)
    features, labels = features[keep], labels[keep]
    settings = {"fit_bias": fit_bias, "class_weight": class_weight}
    probe = fit_probe(features, labels, classes, **settings)
    path = probing_path(
        features, labels, classes, inverse_strength=probe.inverse_strength, **settings
    )
    np.testing.assert_allclose(path.points[-1].weight, probe.weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path.points[-1].bias, probe.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_heads_predict_what_truncated_fits_of_scikit_learn_predict(classes):
    features, labels = problem(120, 7, classes, noise=2)
    path = probing_path(features, labels, classes, inverse_strength=3.0)
    early = [point for point in path.points[1:] if point.iteration < path.stop]
    assert len(early) > 4
    for point in early:
        with pytest.warns(match="lbfgs failed to converge"):
            fitted = LogisticRegression(C=3.0, solver="lbfgs", max_iter=point.iteration).fit(
                features.astype(np.float64), labels
            )
        logits = features @ point.weight.T + point.bias
        np.testing.assert_allclose(
            softmax(logits, axis=1), fitted.predict_proba(features), atol=1e-6
        )


def test_the_path_starts_at_zero_and_lowers_the_objective():
    features, labels = problem(200, 10, 3, noise=2)
    path = probing_path(features, labels, 3, inverse_strength=10.0)
    iterations = [point.iteration for point in path.points]
    assert iterations == sorted(set(iterations))
    assert iterations[:3] == [0, 1, 2]
    assert not path.points[0].weight.any()
    assert path.stop in iterations
    assert path.stop < iterations[-1]
    values = []
    for point in path.points:
        logits = features @ point.weight.T + point.bias
        entropy = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].sum()
        values.append(10.0 * entropy + (point.weight**2).sum() / 2)
    assert (np.diff(values) <= 1e-9 * values[0]).all()


def test_a_class_without_rows_stays_below_all_others():
    features, labels = problem(100, 5, 2, noise=2)
    path = probing_path(features, np.where(labels == 1, 2, 0), 3, inverse_strength=1.0)
    for point in path.points:
        logits = features @ point.weight.T + point.bias
        if point.iteration:
            assert (logits[:, 1] < logits[:, [0, 2]].min(axis=1)).all()


def test_out_of_fold_logits_are_those_of_models_fitted_without_the_rows():
    features, labels = problem(90, 5, 3)
    strength = fit_probe(features, labels, 3).inverse_strength
    logits = out_of_fold_logits(features, labels, 3)
    fold = fold_numbers(labels)
    for number in range(5):
        rest, out = fold != number, fold == number
        fitted = LogisticRegression(C=strength, tol=1e-10, max_iter=20000)
        fitted.fit(features[rest].astype(np.float64), labels[rest])
        expected = fitted.predict_log_proba(features[out])
        np.testing.assert_allclose(log_softmax(logits[out], axis=1), expected, atol=1e-2)
    changed = labels.copy()
    changed[fold == 0] = (changed[fold == 0] + 1) % 3
    again = out_of_fold_logits(features, changed, 3, inverse_strength=strength, fold=fold)
    np.testing.assert_array_equal(again[fold == 0], logits[fold == 0])


def test_a_class_with_one_row_breaks_no_fold():
    features, labels = problem(40, 4, 2)
    labels[7] = 2
    logits = out_of_fold_logits(features, labels, 3)
    assert np.isfinite(logits).all()
    others = np.flatnonzero(fold_numbers(labels) == fold_numbers(labels)[7])
    assert (logits[others, 2] <= logits[others, :2].min(axis=1) - 10 + 1e-9).all()


def test_repeated_rows_are_never_on_both_sides():
    generator = np.random.default_rng(1)
    texts = np.arange(120) // 2  # each twice
    features = generator.normal(size=(60, 200)).astype(np.float32)[texts]
    labels = generator.integers(0, 2, 60)[texts]
    # features say nothing of the labels: only a twin in training can
    together = out_of_fold_logits(features, labels, 2, inverse_strength=1e3, groups=texts)
    apart = out_of_fold_logits(features, labels, 2, inverse_strength=1e3)
    assert 0.2 < (together.argmax(1) == labels).mean() < 0.8 < (apart.argmax(1) == labels).mean()
