"""The entry point: all solvers under one convention, their records, and what is refused."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from threadpoolctl import threadpool_info, threadpool_limits

from lpft.errors import InputError
from lpft.ntk.regression import SOLVERS, KernelModel, KernelPair, regress, solver_options
from lpft.ntk.regression.entries import CAVEATS
from lpft.ntk.regression.multiclass import SEEN_OFFSET

from .problems import matrix_problem, scalar_problem

NAMES = ["klr", "krr", "paper", "logistic", "svc", "svr", "lstsq", "asymmetric"]
FORMS = ["matrix", "scalar"]


def problem_and_pair(form="matrix", **shape):
    problem = (matrix_problem if form == "matrix" else scalar_problem)(**shape)
    turned = problem.test.T if problem.test.ndim == 2 else problem.test.transpose(2, 3, 0, 1)
    return problem, KernelPair(problem.train, problem.test, problem.classes, turned)


def run(problem, pair, solver, **options):
    return regress(
        pair,
        problem.labels,
        problem.test_labels,
        problem.f0,
        problem.test_f0,
        solver=solver,
        **options,
    )


def test_the_table_of_solvers():
    assert list(SOLVERS) == NAMES
    assert solver_options("paper") == ()
    assert solver_options("krr") == ("f0_scale", "strength", "folds", "validation")


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_solver_keeps_one_convention(solver, form, classes):
    problem, pair = problem_and_pair(form, classes=classes, rows=24)
    result = run(problem, pair, solver)
    model = result.model
    assert model.solver == solver
    assert model.converged
    assert result.train_logits.shape == (24, classes)
    assert result.test_logits.shape == (7, classes)
    # Rows of the kernel come out as rows of logits, each by itself and in any order.
    order = np.array([3, 0, 6])
    axis = 1 if form == "scalar" else 2
    reverse = None
    if model.reverse_coefficients is not None:
        reverse = np.take(pair.reverse_test, order, axis=axis)
    some = model.predict(pair.test[order], problem.test_f0[order], reverse)
    np.testing.assert_allclose(some, result.test_logits[order], rtol=1e-10, atol=1e-10)
    reverse = None if model.reverse_coefficients is None else pair.reverse_test
    score = model.score(pair.test, problem.test_labels, problem.test_f0, reverse)
    assert score == result.test.accuracy
    assert score == np.mean(result.test_logits.argmax(axis=1) == problem.test_labels)


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_records_are_ready_for_json(solver, form):
    problem, pair = problem_and_pair(form)
    result = run(problem, pair, solver)
    record = result.as_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["solver"] == solver
    assert record["converged"] is True
    for split, logits, labels in (
        ("train", result.train_logits, problem.labels),
        ("test", result.test_logits, problem.test_labels),
    ):
        guesses = logits.argmax(axis=1)
        assert record[f"{split}_accuracy"] == np.mean(guesses == labels)
        assert record[f"{split}_macro_f1"] == pytest.approx(
            f1_score(labels, guesses, average="macro", zero_division=0)
        )
        if solver == "klr":
            expected = log_loss(labels, softmax(logits, axis=1), labels=[0, 1, 2])
            assert record[f"{split}_nll"] == pytest.approx(expected)
        else:
            assert record[f"{split}_nll"] is None
        if solver == "paper":
            entries = (logits > 0) == (np.eye(3)[labels] == 1)
            assert record[f"{split}_entry_accuracy"] == entries.mean()
    assert ("constant_entry_accuracy" in record) == (solver == "paper")
    chooses = solver in ("klr", "krr", "paper", "logistic")
    assert (record["strength"] is not None) == chooses
    assert (record["folds"] == 5) == chooses
    # What a solver takes is what its record says it took.
    given = set(solver_options(solver)) - {"strength", "folds", "validation"}
    assert given <= set(record["settings"])


def test_caveats_travel_with_the_numbers():
    problem, pair = problem_and_pair()
    paper = run(problem, pair, "paper").as_record()
    assert tuple(paper["caveats"]) == CAVEATS
    assert paper["constant_entry_accuracy"] == pytest.approx(2 / 3)
    assert run(problem, pair, "klr").as_record()["caveats"] == [SEEN_OFFSET]
    assert run(problem, pair, "klr", f0_scale=0.0).as_record()["caveats"] == []


def test_options_reach_the_solver():
    problem, pair = problem_and_pair()
    for solver, option in (
        ("klr", {"strength": 3.0}),
        ("klr", {"f0_scale": 0.2}),
        ("krr", {"folds": 2}),
        ("logistic", {"regularization": 0.5}),
        ("svc", {"cost": 0.01}),
        ("svc", {"regularization": 0.5}),
        ("svr", {"tube": 0.4}),
        ("svr", {"cost": 0.001}),
        ("svr", {"f0_scale": 1.0}),
        ("lstsq", {"regularization": 0.5}),
        ("lstsq", {"f0_scale": 1.0}),
        ("asymmetric", {"gamma": 0.01}),
        ("asymmetric", {"f0_scale": 1.0}),
        ("asymmetric", {"regularization": 0.5}),
    ):
        plain, changed = run(problem, pair, solver), run(problem, pair, solver, **option)
        assert plain.as_record() != changed.as_record(), (solver, option)
        if option != {"folds": 2}:
            assert np.abs(plain.test_logits - changed.test_logits).max() > 1e-6


def test_f0_may_be_left_out_where_it_is_not_used():
    problem, pair = problem_and_pair()
    for solver in NAMES[2:]:
        regress(pair, problem.labels, problem.test_labels, solver=solver)
    for solver in NAMES[:2]:
        regress(pair, problem.labels, problem.test_labels, solver=solver, f0_scale=0.0)
        with pytest.raises(InputError, match="f0_scale=1 adds the logits f_0"):
            regress(pair, problem.labels, problem.test_labels, solver=solver)
        with pytest.raises(InputError, match="f0_scale=1 adds the logits f_0"):
            regress(pair, problem.labels, problem.test_labels, problem.f0, solver=solver)


def test_what_does_not_exist_is_named():
    problem, pair = problem_and_pair()
    with pytest.raises(InputError, match="solver 'svm' is unknown: expected one of klr, krr"):
        run(problem, pair, "svm")
    with pytest.raises(InputError, match="'svc' has no option gamma: it takes cost, regul"):
        run(problem, pair, "svc", gamma=1.0)
    with pytest.raises(InputError, match="'paper' has no option strength: it takes none"):
        run(problem, pair, "paper", strength=1.0)


@pytest.mark.parametrize("solver", NAMES)
def test_bad_labels_and_logits_never_reach_a_solver(solver):
    problem, pair = problem_and_pair()
    with pytest.raises(InputError, match="at least 2 classes, found only class 1"):
        run(problem._replace(labels=np.ones(20, dtype=int)), pair, solver)
    with pytest.raises(InputError, match="labels: expected shape"):
        run(problem._replace(labels=problem.labels[:5]), pair, solver)
    with pytest.raises(InputError, match="hidden or unknown label"):
        run(problem._replace(test_labels=np.full(7, -1)), pair, solver)
    with pytest.raises(InputError, match="f_0: expected finite numbers"):
        run(problem._replace(f0=np.full((20, 3), np.nan)), pair, solver)


def test_an_asymmetric_kernel_without_its_reverse():
    problem, _ = problem_and_pair()
    skewed = problem.train + np.triu(problem.train.reshape(60, 60)).reshape(problem.train.shape)
    pair = KernelPair(skewed, problem.test, 3)
    assert pair.reversed() is None
    with pytest.raises(InputError, match="fit with mix=1"):
        run(problem, pair, "asymmetric")
    assert run(problem, pair, "asymmetric", mix=1.0).model.settings["mix"] == 1.0


@pytest.mark.parametrize("form", FORMS)
def test_the_reverse_of_a_symmetric_kernel_is_its_transpose(form):
    """So that the asymmetric solver takes it without one: ridge regression, whatever the mix."""
    problem, pair = problem_and_pair(form)
    alone = KernelPair(problem.train, problem.test, 3)
    np.testing.assert_array_equal(alone.reversed(), pair.reverse_test)
    found = run(problem, alone, "asymmetric", gamma=0.5).test_logits
    np.testing.assert_allclose(found, run(problem, pair, "asymmetric", gamma=0.5).test_logits)
    matrix, test = (
        np.kron(k, np.eye(3)) if form == "scalar" else k.reshape(-1, 60)
        for k in (problem.train, problem.test)
    )
    signs = np.where(np.eye(3)[problem.labels] == 1, 1.0, -1.0).ravel()
    ridge = test @ np.linalg.solve(matrix + 2 * np.eye(60), signs)
    np.testing.assert_allclose(found.ravel(), ridge, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("rows", "limited"), [(20, True), (502, False)])
def test_small_problems_take_one_thread_and_give_the_others_back(monkeypatch, rows, limited):
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    seen = []

    def fit(_train):
        seen.append(threads())
        return KernelModel("probe", np.zeros((rows, 3)), np.zeros(3))

    monkeypatch.setitem(SOLVERS, "probe", fit)
    labels = np.arange(rows) % 3
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        regress(KernelPair(np.eye(rows), np.eye(rows), 3), labels, labels, solver="probe")
        assert threads() == before
    assert len(before) > 0
    assert seen == [[1] * len(before) if limited else before]


@pytest.mark.parametrize("solver", NAMES)
def test_two_rows_are_enough(solver):
    problem, pair = problem_and_pair(rows=2, classes=2, parameters=30)
    result = run(problem, pair, solver)
    assert np.isfinite(result.test_logits).all()
