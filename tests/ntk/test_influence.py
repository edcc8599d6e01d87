"""Influence of training rows: kernels of log odds against explicit gradients, the scores against
closed forms, refitted regressions and scikit-learn."""

import numpy as np
import pytest
import torch
from references import explicit_jacobian
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import toy_texts

from lpft import InputError
from lpft.model.inference import extract_features, head_logits
from lpft.ntk import KernelRequest, Options, request_of, studied_model
from lpft.ntk.influence import (
    Influence,
    InfluenceJob,
    RowKernels,
    TextsWithGradients,
    TrainedRows,
    doubtful,
    extremes,
    first_order,
    left_out_margins,
    log_odds,
    regressed,
)
from lpft.ntk.memory import memory_in_use

TRAIN, EXPLAINED = toy_texts(6, seed=21)[0], toy_texts(3, seed=22)[0]
LABELS = np.array([0, 1, 2, 0, 1, 2])
DOUBLE = Options(dtype=torch.float64, device="cpu")


def read_with_gradients(model, tokenizer, texts, classes):
    tokens = read(tokenizer, texts)
    features = extract_features(model, tokens, device=torch.device("cpu"))
    _, gradient = log_odds(head_logits(model, features), classes)
    return TextsWithGradients(tokens, features, gradient)


def explicit_gradients(model, of, part=""):
    """The gradients of the outputs of texts by the parameters of a part, N x D in float64."""
    names = [name for name, _ in model.named_parameters() if part in name]
    jacobian = explicit_jacobian(model, of.tokens, names).numpy()
    return np.einsum("nc,ncd->nd", of.gradient, jacobian)


def test_the_gradient_of_log_odds_is_that_of_autograd():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    classes = np.array([3, 0, 1, 1, 2])
    odds, gradient = log_odds(logits.detach().numpy(), classes)
    probability = logits.softmax(1)[torch.arange(5), torch.from_numpy(classes)]
    expected = torch.log(probability / (1 - probability))
    (by_autograd,) = torch.autograd.grad(expected.sum(), logits)
    np.testing.assert_allclose(odds, expected.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(gradient, by_autograd.numpy(), atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_kernels_of_log_odds_are_products_of_explicit_gradients(family):
    classifier = tiny_classifier(family)
    model = classifier.model.double().eval()
    sides = [
        read_with_gradients(model, classifier.tokenizer, TRAIN, LABELS),
        read_with_gradients(model, classifier.tokenizer, EXPLAINED, np.array([1, 0, 2])),
    ]
    subject = studied_model(model, classifier.tokenizer, 62)
    kernels = RowKernels(subject, request_of(subject), sides, ((1, 0), (0, 0)), DOUBLE).run()
    for part, names in (("head", "head."), ("encoder", "encoder."), ("total", "")):
        train, explained = (explicit_gradients(model, of, names) for of in sides)
        # Features come in float32, which the head's part shows.
        tolerance = 1e-10 if part == "encoder" else 1e-5
        for block, expected in (((1, 0), explained @ train.T), ((0, 0), train @ train.T)):
            error = np.linalg.norm(getattr(kernels[block], part) - expected)
            assert error < tolerance * np.linalg.norm(expected), (part, block)


def test_of_an_adapter_its_factors_count():
    adapted, tokenizer = tiny_adapted("bert")
    subject = studied_model(adapted.double(), tokenizer, 62)
    plain = subject.classifier
    factors = [name for name, p in plain.encoder.named_parameters() if "lora_" in name]
    rows = read_with_gradients(plain, tokenizer, TRAIN, LABELS)
    request = KernelRequest(subject.head.weight.detach(), frozenset(factors))
    found = RowKernels(subject, request, [rows], ((0, 0),), DOUBLE).run()[0, 0].encoder
    gradients = explicit_gradients(plain, rows, "lora_")
    expected = gradients @ gradients.T
    assert np.linalg.norm(found - expected) < 1e-8 * np.linalg.norm(expected)


def test_first_order_is_the_change_of_the_log_odds_by_one_small_step_on_the_row():
    classifier = tiny_classifier("bert")
    model = classifier.model.double().eval()
    subject = studied_model(model, classifier.tokenizer, 62)
    train = TrainedRows(read(classifier.tokenizer, TRAIN), LABELS)
    explained = read(classifier.tokenizer, EXPLAINED[:1])
    found = InfluenceJob(
        subject, request_of(subject), train, explained, DOUBLE, score="first-order"
    ).run()
    assert found.left_out is None
    rate, batch = 1e-7, explained.batch([0])
    before = [p.detach().clone() for p in model.parameters()]

    def odds():
        with torch.no_grad():
            logits = model.head(model.features(**batch)).numpy()
        return log_odds(logits, found.classes)[0][0]

    for row in range(len(TRAIN)):
        start = odds()
        logits = model.head(model.features(**train.tokens.batch([row])))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS[[row]]))
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0 if gradient is None else rate * gradient
        change = (odds() - start) / rate
        assert change == pytest.approx(found.total[0, row], rel=1e-3, abs=1e-4)
        with torch.no_grad():
            for parameter, own in zip(model.parameters(), before, strict=True):
                parameter.copy_(own)


def test_the_regression_s_shares_are_what_ridge_regression_loses_with_a_row_s_target():
    generator = np.random.default_rng(0)
    train, new = generator.normal(size=(12, 5)), generator.normal(size=(3, 5))
    among, kernel, targets = train @ train.T, new @ train.T, generator.random(12)
    shares = regressed(kernel, among, targets, strength=0.5)
    ridge = KernelRidge(alpha=0.5 * np.trace(among) / 12, kernel="precomputed")
    whole = ridge.fit(among, targets).predict(kernel)
    np.testing.assert_allclose(shares.sum(1), whole)
    for row in range(12):
        without = targets.copy()
        without[row] = 0
        lost = whole - ridge.fit(among, without).predict(kernel)
        np.testing.assert_allclose(shares[:, row], lost, atol=1e-12)


def test_margins_without_a_row_are_those_of_regressions_fitted_without_it():
    """Each regression is solved as a system of its own: ridge for the kernel, none for classes."""
    generator = np.random.default_rng(1)
    features = generator.normal(size=(15, 6))
    labels = np.arange(15) % 3
    _, gradient = log_odds(generator.normal(size=(15, 3)), labels)
    among = (features @ features.T) * (gradient @ gradient.T)
    values, vectors = np.linalg.eigh(gradient @ gradient.T)
    kept = vectors[:, values < 1e-9]  # what intercepts of classes leave
    ridge = 0.7 * np.trace(kept.T @ among @ kept) / 15
    margins = np.zeros(15)
    for row in range(15):
        others = np.delete(np.arange(15), row)
        system = np.block(
            [
                [among[np.ix_(others, others)] + ridge * np.eye(14), gradient[others]],
                [gradient[others].T, np.zeros((3, 3))],
            ]
        )
        solution = np.linalg.lstsq(system, np.r_[np.ones(14), np.zeros(3)])[0]
        margins[row] = np.r_[among[row, others], gradient[row]] @ solution
    means = np.array([margins[labels == label].mean() for label in range(3)])
    found = left_out_margins(among, gradient, labels, strength=0.7)
    np.testing.assert_allclose(found, margins - means[labels], atol=1e-10)


def test_scores_of_a_linear_probe_rank_rows_as_training_without_each_does():
    """Logistic regression by scikit-learn, trained again without each of its 60 rows."""
    generator = np.random.default_rng(2)
    features = generator.normal(size=(60, 8))
    labels = (features @ generator.normal(size=8) + generator.normal(size=60) > 0).astype(int)
    new = generator.normal(size=(4, 8))
    strength = 0.5

    def odds(rows):
        probe = LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=1000)
        probe.fit(features[rows], labels[rows])
        return probe.decision_function(new), probe.decision_function(features)

    of_new, of_rows = odds(np.arange(60))
    signs = np.where(of_new > 0, 1, -1)
    row_signs = 2 * labels - 1
    residuals = expit(-of_rows * row_signs)
    kernel = (new @ features.T) * np.outer(signs, row_signs)
    among = (features @ features.T) * np.outer(row_signs, row_signs)
    # The ridge that the probe's own curvature has in the mean.
    ridge = 1 / strength / np.mean(residuals * (1 - residuals)) / np.mean(np.diag(among))
    regression = regressed(kernel, among, residuals, strength=ridge)
    step = first_order(kernel, residuals)
    for text in range(4):
        actual = [
            (of_new[text] - odds(np.delete(np.arange(60), row))[0][text]) * signs[text]
            for row in range(60)
        ]
        # Not 1: one ridge stands for the curvature of all rows.
        assert spearmanr(regression[text], actual).statistic > 0.9
        assert spearmanr(step[text], actual).statistic > 0.7
        largest = np.argsort(-np.abs(actual))[:20]
        assert (np.sign(regression[text, largest]) == np.sign(np.array(actual)[largest])).all()


def test_a_head_alone_needs_no_pass_and_has_no_encoder_s_share():
    classifier = tiny_classifier("bert")
    subject = studied_model(classifier.model, classifier.tokenizer, 62)
    request = KernelRequest(subject.head.weight.detach(), frozenset())
    train = TrainedRows(read(classifier.tokenizer, TRAIN), LABELS)
    job = InfluenceJob(
        subject, request, train, read(classifier.tokenizer, EXPLAINED), DOUBLE, labels=True
    )
    assert job.plan is None
    found = job.run()
    assert not found.encoder.any()
    assert found.head.any()
    assert found.left_out.shape == (6,)


def test_weights_of_rows_multiply_their_scores():
    classifier = tiny_classifier("bert")
    subject = studied_model(classifier.model, classifier.tokenizer, 62)
    tokens, explained = read(classifier.tokenizer, TRAIN), read(classifier.tokenizer, EXPLAINED)
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    request = KernelRequest(subject.head.weight.detach(), frozenset())
    plain, weighted = (
        InfluenceJob(subject, request, TrainedRows(tokens, LABELS, of), explained, DOUBLE).run()
        for of in (None, weights)
    )
    np.testing.assert_allclose(weighted.total, plain.total * weights)


def test_an_unknown_score_is_refused():
    classifier = tiny_classifier("bert")
    subject = studied_model(classifier.model, classifier.tokenizer, 62)
    train = TrainedRows(read(classifier.tokenizer, TRAIN), LABELS)
    with pytest.raises(InputError, match="regression or first-order"):
        InfluenceJob(subject, request_of(subject), train, None, DOUBLE, score="trak")


def test_rows_are_named_by_the_size_and_the_sign_of_their_score():
    assert extremes(np.array([0.2, -1.0, 0.0, 3.0, -0.1]), 2) == ([3, 0], [1, 4])
    assert extremes(np.array([0.2, 0.1]), 5) == ([0, 1], [])


def test_the_most_doubtful_labels_come_first_with_the_most_probable_other_class():
    found = Influence(
        *(np.zeros(0, dtype=int), np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(3)),
        left_out=np.array([-0.1, 0.4, -0.6]),
        logits=np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 5.0, 1.0]]),
        text_logits=np.zeros((0, 3)),
    )
    rows, suggested = doubtful(found, np.array([0, 1, 2]), 2)
    assert rows == [2, 0]
    assert suggested.tolist() == [1, 2]


def test_more_training_rows_than_memory_holds_are_refused_with_what_fits():
    classifier = tiny_classifier("bert")
    subject = studied_model(classifier.model, classifier.tokenizer, 62)
    tokens = read(classifier.tokenizer, TRAIN)
    many = TrainedRows(tokens.select(np.arange(3000) % 6), np.arange(3000) % 3)
    request = KernelRequest(subject.head.weight.detach(), frozenset())
    little = Options(device="cpu", memory=memory_in_use(torch.device("cpu")) + 10**7)
    with pytest.raises(InputError, match=r"3,000 training rows.*--max-rows"):
        InfluenceJob(subject, request, many, tokens, little)
    with pytest.raises(InputError, match="memory 10MB is less than the"):
        InfluenceJob(subject, request, many, tokens, Options(device="cpu", memory="10MB"))
    InfluenceJob(subject, request, many, tokens, little, score="first-order").run()
