"""TextClassifier as a user of scikit-learn meets it, and what it refuses, in one line each."""

import inspect
import json
import pickle
from itertools import product

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.special import logit, softmax
from scipy.stats import linregress
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import NotFittedError
from tiny_models import save_tiny_model, toy_texts
from toy_files import write_toy_file

from lpft import InputError, TextClassifier
from lpft.analysis import fit_temperature
from lpft.analysis.calibration import PRIOR_SD
from lpft.data.duplicates import find_repetitions
from lpft.runs.selection import train_selection
from lpft.runs.train import train_run
from lpft.settings import OutputSettings, TrainingSettings
from lpft.settings.configs import make_config, make_selection
from lpft.training.probing import out_of_fold_logits

PROBING = {"method": "lp", "pooling": "mean", "max_length": 32}
FINE_TUNING = {"pooling": "mean", "max_length": 32, "epochs": 1, "learning_rate": 1e-3}
SHIFTED = toy_texts(60, seed=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def fitted(model):
    """LP-FT on two classes."""
    classifier = TextClassifier(model, **FINE_TUNING | {"epochs": 2})
    return classifier.fit(*toy_texts(120), validation=toy_texts(40, seed=1))


@pytest.fixture(scope="module")
def binary(model):
    return TextClassifier(model, **PROBING).fit(*toy_texts(120), validation=SHIFTED)


@pytest.fixture(scope="module")
def multiclass(model):
    return TextClassifier(model, **PROBING).fit(*three_classes(150), three_classes(60, seed=2))


def three_classes(rows, seed=0):
    """Every third text without its leading good or bad word is neutral."""
    texts, labels = toy_texts(rows, seed)
    return (
        [text.partition(" ")[2] if row % 3 == 2 else text for row, text in enumerate(texts)],
        ["neutral" if row % 3 == 2 else label for row, label in enumerate(labels)],
    )


def refused(says, call, *arguments, **options):
    with pytest.raises(InputError, match=says) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_its_parameters_are_the_settings_with_their_defaults():
    parameters = inspect.signature(TextClassifier.__init__).parameters
    named = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("self", "verbose")
    }
    output = OutputSettings.fields()
    settings = TrainingSettings.fields() | {
        name: output[name] for name in ("target_accuracy", "target_coverage")
    }
    assert named == {name: item.default for name, item in settings.items()}


def test_it_learns_and_its_attributes_agree_with_each_other(fitted):
    texts, labels = toy_texts(60, seed=2)
    assert fitted.classes_.tolist() == ["bad", "good"]
    assert fitted.score(texts, labels) > 0.8
    features = fitted.features(texts)
    assert features.shape == (60, 32)
    weight = fitted.model_.head.weight.detach().numpy()
    logits = features @ weight.T + fitted.model_.head.bias.detach().numpy()
    np.testing.assert_allclose(fitted.logits(texts), logits, atol=1e-5)
    np.testing.assert_allclose(
        fitted.predict_proba(texts), softmax(logits / fitted.temperature_, axis=1), atol=1e-5
    )
    assert (fitted.predict(texts) == fitted.classes_[logits.argmax(1)]).all()
    tokens = fitted.tokenizer_(texts[:3], return_tensors="pt", padding=True)
    with torch.no_grad():
        phi = fitted.model_.features(**tokens).numpy()
    np.testing.assert_allclose(phi, features[:3], atol=2e-6)
    assert {row["event"] for row in fitted.history_} == {"evaluation", "training"}


@pytest.mark.parametrize("method", ["lp", "ft", "lora", "lp-lora"])
def test_every_method_gives_probabilities(model, method):
    settings = PROBING if method == "lp" else FINE_TUNING
    classifier = TextClassifier(model, **settings | {"method": method}).fit(*toy_texts(60))
    proba = classifier.predict_proba(toy_texts(7)[0])
    assert proba.shape == (7, 2)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-12)
    assert type(classifier.model_).__name__ == "LinearHeadClassifier"


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_model_and_leaves_the_programs_randomness_alone(model):
    def randomness(draw_after):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        result = draw_after()
        return result, torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002

    def fit():
        return TextClassifier(model, method="ft", seed=3, **FINE_TUNING).fit(*toy_texts(60))

    first, *drawn = randomness(fit)
    assert drawn == list(randomness(lambda: None)[1:])
    texts, _ = toy_texts(10, seed=9)
    np.testing.assert_array_equal(first.decision_function(texts), fit().decision_function(texts))


@pytest.mark.parametrize(
    "names",
    [(-2, 7), ("-2", "7"), (False, True), (" bad", "good "), ("3.10", "3.11"), ("01", "1")],
    ids=["integers", "digits", "booleans", "blanks around them", "versions", "zeros before"],
)
def test_labels_come_back_as_they_were_given(model, tmp_path, names):
    texts, labels = toy_texts(60)
    given = [names[label == "good"] for label in labels]
    fitted = TextClassifier(model, **PROBING).fit(texts, given, validation=(texts, given))
    assert fitted.classes_.tolist() == list(names)
    right = sum(name == label for name, label in zip(fitted.predict(texts), given, strict=True))
    assert right > 42
    assert fitted.score(texts, given) == right / 60
    assert fitted.score(texts, np.array(given, dtype=object)) == right / 60
    weights = np.arange(60.0)
    expected = accuracy_score(given, fitted.predict(texts), sample_weight=weights)
    assert fitted.score(texts, given, weights) == pytest.approx(expected)
    with pytest.raises(InputError, match="of the type given in training"):
        fitted.score(texts, [0] * 60 if isinstance(names[0], str) else ["0"] * 60)
    if not isinstance(names[0], bool):
        assert fitted.score(texts[:1], ["new" if isinstance(names[0], str) else 5]) == 0
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.classes_.tolist() == list(names)
    assert loaded.classes_.dtype == fitted.classes_.dtype
    assert loaded.score(texts, given) == right / 60


def test_integers_that_no_type_of_numpy_holds_together_stay_exact(model):
    texts, labels = toy_texts(40)
    large = [2**63 + 1 if label == "good" else -1 for label in labels]
    named = TextClassifier(model, **PROBING).fit(texts, labels)
    fitted = TextClassifier(model, **PROBING).fit(texts, large)
    # the classes are sorted by value, so -1 takes the place of "bad", the first by name
    expected = [2**63 + 1 if label == "good" else -1 for label in named.predict(texts)]
    assert fitted.predict(texts).tolist() == expected


def test_columns_of_a_table_are_lists(model):
    texts, labels = toy_texts(60)
    column = pd.Series(labels, index=range(100, 160))
    fitted = TextClassifier(model, **PROBING).fit(pd.Series(texts), column)
    assert fitted.score(texts, labels) > 0.7


@pytest.mark.parametrize(
    "table", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"]
)
def test_tables_of_texts_and_of_pairs_are_cross_validated_as_lists_are(model, table):
    texts, labels = toy_texts(40)
    estimator = TextClassifier(model, **PROBING)
    for columns in ({"text": texts}, {"first": texts, "second": texts[::-1]}):
        listed = texts if len(columns) == 1 else list(zip(*columns.values(), strict=True))
        scores = [
            cross_val_score(estimator, given, labels, cv=2, error_score="raise")
            for given in (table(columns), listed)
        ]
        np.testing.assert_array_equal(*scores)


def test_a_column_of_training_in_the_place_of_the_other_is_refused(model):
    texts, labels = toy_texts(40)
    table = pd.DataFrame({"first": texts, "second": texts[::-1]})
    fitted = TextClassifier(model, **PROBING).fit(table, labels)
    refused("expected first, second", fitted.predict, table[["second", "first"]])
    refused(
        "expected first, second",
        fitted.predict,
        table.rename(columns={"first": "x"})[["second", "x"]],
    )
    same = fitted.predict_proba(table)
    for others in ({"first": "x"}, {"second": "x"}, {"first": "x", "second": "y"}):
        np.testing.assert_array_equal(fitted.predict_proba(table.rename(columns=others)), same)


def test_another_column_than_that_of_training_is_read_with_a_warning(model, caplog):
    texts, labels = toy_texts(40)
    fitted = TextClassifier(model, **PROBING).fit(pd.DataFrame({"text": texts}), labels)
    caplog.clear()
    fitted.predict(pd.DataFrame({"text": texts}))
    fitted.predict(texts)
    fitted.predict(pd.Series(texts, name="title"))
    assert caplog.messages == []
    fitted.predict(pd.DataFrame({"title": texts}))
    (message,) = caplog.messages
    assert "'title'" in message
    assert "'text'" in message


@pytest.mark.parametrize("row", [0, 7, 23, 39])
def test_an_empty_text_is_named_by_its_row_wherever_it_goes(model, row):
    texts, labels = toy_texts(40)
    estimator = TextClassifier(model, **PROBING)
    spoilt = [" " if position == row else text for position, text in enumerate(texts)]
    refused(f"^text {row + 1} is empty", estimator.fit, spoilt, labels)
    column = pd.Series(spoilt, index=range(100, 140)).replace(" ", None)
    refused(f"^text {row + 1} is missing", estimator.fit, column, labels)


def test_pairs_and_single_texts_are_not_mixed_up(model, tmp_path):
    texts, labels = toy_texts(60)
    pairs = [(text, "a film") for text in texts]
    estimator = TextClassifier(model, **PROBING)
    says = "text 1 of the validation texts is a pair: expected a single text"
    refused(says, estimator.fit, texts, labels, validation=(pairs, labels))
    says = "text 1 of the validation texts is a single text: expected a pair"
    refused(says, estimator.fit, pairs, labels, validation=(texts, labels))
    single, paired = clone(estimator).fit(texts, labels), clone(estimator).fit(pairs, labels)
    assert not np.allclose(paired.features(pairs[:1]), paired.features([pairs[0][::-1]]))
    for use in (single.predict, single.predict_proba, single.features, single.decision_function):
        refused("text 1 is a pair", use, pairs[:2])
    refused("text 2 is a single text", paired.predict, [pairs[0], texts[0]])
    refused("expected a list of texts", single.predict, "good film")
    single.save(tmp_path / "single")
    refused("is a pair", TextClassifier.load(tmp_path / "single").predict, pairs[:2])
    # N x 2 arrays are pairs
    np.testing.assert_array_equal(
        paired.predict_proba(np.array(pairs[:3])), paired.predict_proba(pairs[:3])
    )


def test_untrained_is_the_random_head_of_the_seed(model, tmp_path):
    first, again, other = (
        TextClassifier.untrained(model, ["x", "y", "z"], seed=seed, max_length=32)
        for seed in (4, 4, 5)
    )
    assert first.classes_.tolist() == ["x", "y", "z"]
    assert first.temperature_ == 1
    assert torch.equal(first.model_.head.weight, again.model_.head.weight)
    assert not torch.equal(first.model_.head.weight, other.model_.head.weight)
    assert first.predict_proba(["good film"]).shape == (1, 3)
    numbers = TextClassifier.untrained(model, np.unique([3, 1, 3]), max_length=32)
    assert numbers.classes_.tolist() == [1, 3]
    # It takes texts and pairs alike, also once it was saved.
    first.save(tmp_path / "saved")
    for classifier in (first, TextClassifier.load(tmp_path / "saved")):
        assert classifier.features(["good film"]).shape == (1, 32)
        assert classifier.features([("good", "film")]).shape == (1, 32)


def test_what_needs_training_says_so(model):
    with pytest.raises(NotFittedError):
        TextClassifier(model).predict(["good"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["good", "bad"], ["x"]), "2 texts but 1 labels"),
        (([], []), "there are no texts"),
        ((["good", "bad"], [0.5, 1.5]), "regression is not supported"),
        ((["good", "", "bad", "fine"], ["x", "x", "y", "y"]), "is empty"),
        ((["good", "bad"], ["x", "y"]), "held out"),
        ((pd.DataFrame([["a", "b", "c"]]), ["x"]), "the texts are a DataFrame with 3 columns"),
        ((["a", "b"], None), r"the labels are None \(NoneType\)"),
        (
            (["a", ["b"] * 999, "c"], ["x", "y", "x"], (["v"], ["x"])),
            r"text 2 is \['b', .*\.\.\.: ex",
        ),
        ((["a", "b"], ["x", "y"], ["v"] * 41), "validation is a list of 41: expected a tuple of"),
        ((["a", "b"], ["x", "y"], "no"), "validation is a str: expected a tuple of two"),
        ((["a", "b"], ["x", "y"], (["v"], None)), "the validation labels are None"),
        ((["a", "b"], ["x", "y"], ("v", ["x"])), "the validation texts are one string"),
        ((["a", "b"], ["x", "y"], (["v"], [])), "1 validation texts but 0 validation labels"),
        ((["a", "b"], ["x", "y"], ([], [])), "there are no validation texts"),
        ((["a", "b"], ["x", "y"], (["v"], ["odd"])), "'odd' in row 1 of 1"),
        ((["a", "b"], ["x", "y"], (["v", " "], ["x", "y"])), "text 2 of the validation texts is e"),
    ],
)
def test_wrong_arguments_of_fit(model, arguments, says):
    refused(says, TextClassifier(model, **PROBING).fit, *arguments)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"seed": True}, "seed True must be a whole number"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 4294967295"),
        ({"max_length": 32.5}, "max_length 32.5 must be a whole number"),
        ({"epochs": "2"}, "epochs '2' must be a number"),
        ({"head_bias": 1}, "head_bias 1 must be true or false"),
        ({"method": ["ft"]}, r"method \['ft'\] must be text"),
        ({"method": "lpft"}, "unknown method 'lpft'"),
        ({"method": "x"}, "expected one of lp, .*, auto$"),
        ({"class_weight": "balance"}, r"'balance' must be 'balanced' or a dict \{label: weight\}"),
        ({"class_weight": [1, 2]}, r"class_weight \[1, 2\] must be 'balanced' or a dict"),
        ({"class_weight": {"x": -1}}, "class_weight -1 must be .*with numbers above 0$"),
        ({"pooling": "max"}, "pooling max is unknown: expected one of first, last, mean"),
    ],
)
def test_wrong_parameters(model, parameters, says):
    settings = {"method": "ft"} | parameters
    refused(says, TextClassifier(model, **settings).fit, *toy_texts(20))
    refused(says, TextClassifier.untrained, model, ["x", "y"], **settings)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"precision": "float16", "device": "cpu"}, "needs an accelerator"),
    ],
)
def test_parameters_that_contradict_each_other(model, parameters, says):
    refused(says, TextClassifier(model, **parameters).fit, *toy_texts(20))


@pytest.mark.heavy
def test_parameters_without_effect_are_ignored_so_that_searches_try_several_methods(model):
    texts, labels = toy_texts(40)
    plain = TextClassifier(model, **PROBING).fit(texts, labels)
    useless = {"epochs": 3, "precision": "float16", "lora_rank": 2, "device": "cpu"}
    given = TextClassifier(model, **PROBING, **useless).fit(texts, labels)
    np.testing.assert_array_equal(plain.predict_proba(texts), given.predict_proba(texts))
    assert given.get_params()["epochs"] == 3  # clone keeps what it was given
    estimator = TextClassifier(model, epochs=1, batch_size=8, max_length=32, pooling="mean")
    grid = {"method": ["lp", "lp-ft"], "lora_rank": [2]}
    search = GridSearchCV(estimator, grid, cv=2, error_score="raise").fit(texts, labels)
    assert search.best_params_["method"] in grid["method"]


def test_numpys_numbers_are_numbers(model):
    settings = {"seed": np.int64(1), "epochs": np.float32(1), "batch_size": np.int32(8)}
    fitted = TextClassifier(model, method="ft", max_length=32, **settings).fit(*toy_texts(20))
    assert fitted.predict(["good"]).shape == (1,)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ([1, "1"], "the classes mix int and str"),
        (None, "the classes are None"),
        (["x", "x"], "at least 2 different names"),
        (["x", None], "no label in row 2"),
    ],
)
def test_wrong_classes_of_an_untrained_classifier(model, classes, says):
    refused(says, TextClassifier.untrained, model, classes)


@pytest.mark.heavy
def test_a_loaded_classifier_is_the_saved_one_and_repeats_its_training(model, tmp_path):
    parameters = FINE_TUNING | {
        "method": "ft",
        "seed": np.int64(3),
        "batch_size": 4,
        "class_weight": "balanced",
    }
    fitted = TextClassifier(model, **parameters).fit(*toy_texts(40))
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved", device="cpu")
    assert loaded.get_params() == fitted.get_params() | {"device": "cpu"}
    assert loaded.history_ == fitted.history_
    assert loaded.temperature_ == fitted.temperature_
    texts, _ = toy_texts(10, seed=1)
    np.testing.assert_array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    again = clone(loaded).fit(*toy_texts(40))
    assert torch.equal(again.model_.head.weight, fitted.model_.head.weight)
    np.testing.assert_array_equal(again.logits(texts), fitted.logits(texts))


def test_what_a_folder_holds_is_replaced_only_when_asked_and_never_a_run(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    refused("not an empty folder", fitted.save, tmp_path / "saved")
    fitted.save(tmp_path / "saved", overwrite=True)
    (tmp_path / "run.json").write_text("{}")
    refused("contains a run", fitted.save, tmp_path, overwrite=True)


def test_a_folder_without_parameters_still_loads(binary, tmp_path):
    binary.save(tmp_path / "saved")
    (tmp_path / "saved/text_classifier.json").unlink()
    loaded = TextClassifier.load(tmp_path / "saved")
    assert (loaded.model, loaded.max_length) == (str(tmp_path / "saved"), 32)
    assert loaded.predict(["good"]).shape == (1,)


@pytest.mark.parametrize("content", ["{", "[]", '{"parameters": 3, "paired": null}'])
def test_damaged_parameters_are_named(binary, tmp_path, content):
    binary.save(tmp_path / "saved")
    (tmp_path / "saved/text_classifier.json").write_text(content)
    refused(r"text_classifier\.json", TextClassifier.load, tmp_path / "saved")


def test_a_run_of_the_command_line_has_its_own_settings(model, tmp_path):
    settings = {
        "model": model, "task": "demo", "method": "ft", "seed": 5, "epochs": 1.0, "batch_size": 4,
        "learning_rate": 1e-3, "max_length": 32, "max_train_samples": 12, "device": "cpu",
    }  # fmt: skip
    train_run(make_config(settings, tmp_path / "run"))
    parameters = TextClassifier.load(tmp_path / "run", device="cpu").get_params()
    own = {name: value for name, value in settings.items() if name in parameters}
    assert len(own) == 8
    assert {name: parameters[name] for name in own} == own
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["seed"] == 5


def test_scikit_learn_clones_and_cross_validates_it(model):
    estimator = TextClassifier(model, **PROBING)
    assert clone(estimator).get_params() == estimator.get_params()
    texts, labels = toy_texts(90)
    scores = cross_val_score(estimator, np.array(texts), np.array(labels), cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.6


def test_two_classes_have_one_decision_value_and_three_have_three(binary, multiclass):
    texts, _ = toy_texts(20, seed=3)
    logits, values = binary.logits(texts), binary.decision_function(texts)
    assert (logits.shape, values.shape) == ((20, 2), (20,))
    np.testing.assert_array_equal(values, [second - first for first, second in logits])
    np.testing.assert_array_equal(
        binary.predict(texts), ["good" if value > 0 else "bad" for value in values]
    )
    assert multiclass.decision_function(texts).shape == (20, 3)
    np.testing.assert_array_equal(multiclass.decision_function(texts), multiclass.logits(texts))


def test_ranking_scores_of_two_classes(binary):
    texts, labels = toy_texts(40, seed=4)
    labels[::7] = ["bad"] * 6  # or else every pair is in order
    scores = binary.predict_proba(texts)[:, 1]
    good = [score for score, label in zip(scores, labels, strict=True) if label == "good"]
    bad = [score for score, label in zip(scores, labels, strict=True) if label == "bad"]
    # the share of pairs that are in order
    in_order = np.mean([(a > b) + (a == b) / 2 for a, b in product(good, bad)])
    assert 0.5 < in_order < 1
    assert get_scorer("roc_auc")(binary, texts, labels) == pytest.approx(in_order, abs=1e-12)
    truth = [label == "good" for label in labels]
    precision = make_scorer(
        average_precision_score, response_method="decision_function", pos_label="good"
    )
    assert precision(binary, texts, labels) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learns_temperature_is_ours(binary, multiclass, classes):
    clf, held_out = (binary, SHIFTED) if classes == 2 else (multiclass, three_classes(60, seed=2))
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature")
    calibrated.fit(*held_out)
    texts, _ = three_classes(30, seed=5)
    np.testing.assert_allclose(calibrated.predict_proba(texts), clf.predict_proba(texts), atol=1e-4)
    assert clf.temperature_ != 1


def test_platt_scaling_of_a_frozen_classifier(binary):
    texts, labels = SHIFTED
    calibrated = CalibratedClassifierCV(FrozenEstimator(binary), method="sigmoid")
    proba = calibrated.fit(texts, labels).predict_proba(texts)
    # p = expit(slope * value + intercept)
    values, logits = binary.decision_function(texts).astype(float), logit(proba[:, 1])
    line = linregress(values, logits)
    assert line.slope > 0
    np.testing.assert_allclose(line.slope * values + line.intercept, logits, atol=1e-3)


@pytest.mark.parametrize("response", ["decision_function", "predict_proba"])
def test_a_threshold_can_be_tuned(binary, response):
    texts, labels = SHIFTED
    tuned = TunedThresholdClassifierCV(
        FrozenEstimator(binary), scoring="accuracy", response_method=response,
        cv="prefit", refit=False,
    ).fit(texts, labels)  # fmt: skip
    assert tuned.score(texts, labels) >= binary.score(texts, labels)
    values = binary.decision_function(texts)
    best = max(
        np.mean((values >= threshold) == (np.array(labels) == "good"))
        for threshold in [*values, np.inf]
    )
    assert best >= tuned.score(texts, labels) > best - 0.05


def test_auto_chooses_as_the_command_does_on_the_same_rows(tiny_bert, tmp_path):
    path = write_toy_file(tmp_path / "train.csv", 330, 0)
    settings = {"model": str(tiny_bert), "max_length": 16, "epochs": 2, "learning_rate": 3e-3}
    config = make_selection(
        settings | {"method": "auto", "train_file": str(path), "device": "cpu"}, tmp_path / "run"
    )
    run = train_selection(config).folder
    recorded = json.loads((run / "run.json").read_text())["selection"]

    table = pd.read_csv(path)
    clf = TextClassifier(**settings, method="auto", device="cpu")
    clf.fit(list(table["text"]), list(table["label"]))
    assert f"candidates/{clf.method_}" == recorded["chosen"]
    assert clf.selection_["chosen"] == clf.method_
    for name in ("rule", "reason", "standings"):
        assert clf.selection_[name] == recorded[name]
    entries = clf.selection_["candidates"]
    for one, other in zip(entries, recorded["candidates"], strict=True):
        assert one.items() <= other.items()
    left_out = {one["folder"]: one["reason"] for one in recorded["decision"] if not one["train"]}
    assert clf.selection_["left_out"] == left_out
    saved = TextClassifier.load(run)
    texts = ["good the film", "poor train"]
    np.testing.assert_array_equal(clf.predict_proba(texts), saved.predict_proba(texts))

    clf.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert (loaded.method, loaded.method_) == ("auto", clf.method_)
    assert loaded.selection_ == clf.selection_


def test_one_method_is_not_chosen(tiny_bert):
    texts, labels = toy_texts(20)
    clf = TextClassifier(str(tiny_bert), method="lp", max_length=16).fit(texts, labels)
    assert (clf.method_, clf.selection_) == ("lp", None)


def test_only_the_ratios_of_sample_weights_count(model):
    texts, labels = toy_texts(60)
    plain, twice, half = (
        TextClassifier(model, **FINE_TUNING)
        .fit(texts, labels, (texts, labels), sample_weight=weights)
        .logits(texts)
        for weights in (None, np.full(60, 2.0), pd.Series([0.5] * 60))
    )
    np.testing.assert_allclose(twice, plain, atol=1e-5)
    np.testing.assert_array_equal(half, twice)


@pytest.mark.parametrize(
    "weights",
    [torch.ones(40, requires_grad=True), torch.ones(40).bfloat16(), [1.7e308] * 40],
    ids=["with a gradient", "bfloat16", "whose sum is infinite"],
)
def test_weights_of_any_number_type_and_size_are_read(model, weights):
    texts, labels = toy_texts(40)
    plain, weighted = (
        TextClassifier(model, **PROBING).fit(texts, labels, sample_weight=one).logits(texts)
        for one in ([1.0] * 40, weights)
    )
    np.testing.assert_array_equal(weighted, plain)


def test_whole_weights_are_repeated_rows_to_linear_probing(model):
    texts, labels = three_classes(60)
    weights = np.random.default_rng(0).integers(0, 4, 60)
    clf = TextClassifier(model, **PROBING, class_weight={"bad": 2}).fit(
        texts, labels, three_classes(30, seed=1), sample_weight=weights
    )
    repeated = np.repeat(np.arange(60), weights)
    features = TextClassifier.untrained(model, ["x", "y"], **PROBING).features(texts)
    strengths, fits = np.logspace(-4, 4, 10), []
    for strength in strengths:  # of the weights with mean 1
        mean = weights[weights > 0].mean()
        fits.append(
            LogisticRegression(
                C=strength / mean, solver="newton-cg", tol=1e-9, class_weight={"bad": 2}
            ).fit(features[repeated], np.array(labels)[repeated])
        )
    ours = softmax(clf.logits(texts), axis=1)
    gaps = [np.abs(fit.predict_proba(features) - ours).max() for fit in fits]
    assert min(gaps) < 1e-4
    assert sorted(gaps)[1] > 1e-3


def test_a_row_of_weight_0_is_left_out_with_its_class(model):
    texts, labels = toy_texts(60)
    weights = [0.0, *[1.0] * 59]
    left_out = TextClassifier(model, **PROBING).fit(texts[1:], labels[1:])
    weighted = TextClassifier(model, **PROBING).fit(
        texts, ["odd", *labels[1:]], sample_weight=weights
    )
    assert weighted.classes_.tolist() == ["bad", "good"]
    np.testing.assert_array_equal(weighted.logits(texts), left_out.logits(texts))
    assert weighted.temperature_ == left_out.temperature_


def test_the_temperature_of_folds_is_that_of_weighted_probes_and_rows(model):
    texts, labels = toy_texts(60)
    labels[::7] = ["bad"] * 9
    weights = np.where(np.arange(60) % 7 == 0, 3.0, 1.0)
    clf = TextClassifier(model, **PROBING).fit(texts, labels, sample_weight=weights)
    features = TextClassifier.untrained(model, ["x", "y"], **PROBING).features(texts)
    indices, weights = np.array(labels) == "good", weights / weights.mean()
    probing = {"sample_weight": weights, "scoring": "log-loss"}
    repeats = find_repetitions(texts).near
    logits = out_of_fold_logits(features, indices.astype(int), 2, groups=repeats, **probing)
    expected = fit_temperature(logits, indices.astype(int), PRIOR_SD, weights)
    assert clf.temperature_ == pytest.approx(expected.temperature, rel=1e-5)


def test_a_value_of_many_lines_is_named_in_one(model):
    estimator = TextClassifier(model, method="lp", class_weight=pd.Series({"good": 2.0}))
    with pytest.raises(InputError, match="class_weight") as caught:
        estimator.fit(*toy_texts(40))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([-1.0] * 40, "sample_weight of text 1 is -1"),
        ([1.0, np.nan] * 20, "sample_weight of text 2 is nan"),
        ([1.0, 2.0, np.inf, 0.0] * 10, "sample_weight of text 3 is inf"),
        ([1.0] * 39, r"shape \(39,\): expected one number for each of 40 texts"),
        ([[1.0] * 40], r"shape \(1, 40\)"),
        ([0] * 40, "all 40 texts is zero"),
        (["x"] * 40, "sample_weight are .*: expected 40 numbers"),
        (2.0, r"shape \(\)"),
    ],
)
def test_wrong_sample_weights(model, weights, says):
    estimator = TextClassifier(model, **PROBING)
    refused(says, estimator.fit, *toy_texts(40), sample_weight=weights)


@pytest.mark.parametrize("names", [("bad", "good"), (0, 1), (False, True)])
def test_class_weights_by_name_survive_a_saved_classifier(model, tmp_path, names):
    texts, labels = toy_texts(40)
    given = [names[label == "good"] for label in labels]
    weighted = TextClassifier(model, **PROBING, class_weight={names[1]: 4}).fit(texts, given)
    plain = TextClassifier(model, **PROBING).fit(texts, given)
    proba = weighted.predict_proba(texts)[:, 1]
    assert proba.mean() > plain.predict_proba(texts)[:, 1].mean()
    weighted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.class_weight == {names[1]: 4}
    assert type(next(iter(loaded.class_weight))) is type(names[1])
    refused(
        "class_weight names 'worse', which is no class",
        TextClassifier(model, **PROBING, class_weight={"worse": 2}).fit,
        texts,
        given,
    )


@pytest.mark.heavy
def test_searches_try_every_method_with_one_set_of_epochs(model):
    texts, labels = toy_texts(24)
    grid = {"method": ["lp", "ft", "lp-ft"], "epochs": [1], "learning_rate": [1e-3]}
    estimator = TextClassifier(model, batch_size=8, max_length=32, pooling="mean")
    search = GridSearchCV(estimator, grid, cv=2, error_score="raise").fit(texts, labels)
    assert set(search.cv_results_["param_method"]) == {"lp", "ft", "lp-ft"}
    drawn = RandomizedSearchCV(estimator, grid, n_iter=2, cv=2, random_state=0, error_score="raise")
    table = pd.DataFrame({"text": texts})
    assert drawn.fit(table, pd.Series(labels)).best_estimator_.predict(table).shape == (24,)


def test_weights_are_cut_into_the_folds_of_a_cross_validation(model):
    texts, labels = toy_texts(40)
    weights = np.linspace(0.5, 2, 40)
    estimator = TextClassifier(model, **PROBING)
    scores = cross_val_score(
        estimator, texts, labels, cv=2, params={"sample_weight": weights}, error_score="raise"
    )
    assert len(scores) == 2


def test_pipelines_pickles_and_calibration_by_folds(model):
    texts, labels = toy_texts(40)
    pipeline = make_pipeline(FunctionTransformer(), TextClassifier(model, **PROBING))
    pipeline.fit(texts, labels, textclassifier__sample_weight=[1.0] * 40)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict_proba(texts), pipeline.predict_proba(texts))
    calibrated = CalibratedClassifierCV(TextClassifier(model, **PROBING), cv=2)
    assert calibrated.fit(texts, labels).predict_proba(texts).shape == (40, 2)


def test_predictions_are_explained_by_the_rows_of_the_fit(fitted):
    texts, labels = toy_texts(120)
    explained = fitted.explain(texts[:2], label_errors=True)
    found = explained.influence
    assert found.head.shape == found.encoder.shape == (2, 120)
    np.testing.assert_allclose(found.total, found.head + found.encoder)
    assert [explained.classes[c] for c in found.classes] == fitted.predict(texts[:2]).tolist()
    table = explained.table(1, count=4)
    assert len(table) <= 8
    assert [texts[row - 1] for row in table["row"]] == table["text"].tolist()
    assert [labels[row - 1] for row in table["row"]] == table["label"].tolist()
    np.testing.assert_allclose(table["score"], found.total[1, table["row"] - 1])
    doubtful = explained.label_errors(7)
    assert len(doubtful) == 7
    assert doubtful["margin"].is_monotonic_increasing
    assert (doubtful["label"] != doubtful["suggested"]).all()


def test_a_loaded_classifier_is_given_its_rows_again(fitted, tmp_path):
    texts, labels = toy_texts(120)
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    with pytest.raises(InputError, match="train="):
        loaded.explain(texts[:1])
    again = loaded.explain(texts[:1], train=(texts, labels), score="first-order").influence
    before = fitted.explain(texts[:1], score="first-order").influence
    np.testing.assert_allclose(again.total, before.total, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_explained_is_refused(fitted, model):
    with pytest.raises(InputError, match="nothing to explain"):
        fitted.explain(None)
    with pytest.raises(InputError, match="pair"):
        fitted.explain([("a", "b")])
    with pytest.raises(InputError, match="label_errors=True"):
        fitted.explain(toy_texts(2)[0], score="first-order").label_errors()
    explained = fitted.explain(toy_texts(2)[0], score="first-order")
    with pytest.raises(InputError, match="number=2: expected a text from 0 to 1"):
        explained.table(2)
    few = fitted.classes_.tolist()
    with pytest.raises(InputError, match="expected more training rows than the 2 classes, found 2"):
        fitted.explain(None, train=(toy_texts(2)[0], few), label_errors=True)
    adapted = TextClassifier(model, **FINE_TUNING | {"method": "lora"})
    adapted.fit(*toy_texts(40), validation=toy_texts(20, seed=1))
    with pytest.raises(InputError, match="lpft explain"):
        adapted.explain(["good"])
