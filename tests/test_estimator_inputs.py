"""What TextClassifier refuses, in one line each, and labels and pairs that it takes as they are."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from tiny_models import save_tiny_model, toy_texts

from lpft import InputError, TextClassifier
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

PROBING = {"method": "lp", "pooling": "mean", "max_length": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("bert", tmp_path_factory.mktemp("model")))


def refused(says, call, *arguments, **options):
    with pytest.raises(InputError, match=says) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "names",
    [(False, True), (" bad", "good "), ("3.10", "3.11"), ("01", "1")],
    ids=["booleans", "blanks around them", "versions", "digits"],
)
def test_labels_come_back_as_they_were_given(model, tmp_path, names):
    texts, labels = toy_texts(60)
    given = [names[label == "good"] for label in labels]
    fitted = TextClassifier(model, **PROBING).fit(texts, given, validation=(texts, given))
    assert fitted.classes_.tolist() == list(names)
    right = sum(name == label for name, label in zip(fitted.predict(texts), given, strict=True))
    assert right > 42
    assert fitted.score(texts, given) == right / 60
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.classes_.tolist() == list(names)
    assert loaded.classes_.dtype == fitted.classes_.dtype
    assert loaded.score(texts, given) == right / 60


def test_pairs_and_single_texts_are_not_mixed_up(model, tmp_path):
    texts, labels = toy_texts(60)
    pairs = [(text, "a film") for text in texts]
    estimator = TextClassifier(model, **PROBING)
    says = "text 1 of the validation texts is a pair: expected a single text"
    refused(says, estimator.fit, texts, labels, validation=(pairs, labels))
    says = "text 1 of the validation texts is a single text: expected a pair"
    refused(says, estimator.fit, pairs, labels, validation=(texts, labels))
    single, paired = clone(estimator).fit(texts, labels), clone(estimator).fit(pairs, labels)
    for use in (single.predict, single.predict_proba, single.features, single.decision_function):
        refused("text 1 of the texts is a pair", use, pairs[:2])
    refused("text 2 of the texts is a single text", paired.predict, [pairs[0], texts[0]])
    single.save(tmp_path / "single")
    refused("is a pair", TextClassifier.load(tmp_path / "single").predict, pairs[:2])
    # N x 2 arrays are pairs
    np.testing.assert_array_equal(
        paired.predict_proba(np.array(pairs[:3])), paired.predict_proba(pairs[:3])
    )


def test_an_untrained_classifier_takes_either(model, tmp_path):
    untrained = TextClassifier.untrained(model, ["x", "y"], max_length=32)
    untrained.save(tmp_path / "saved")
    for classifier in (untrained, TextClassifier.load(tmp_path / "saved")):
        assert classifier.features(["good film"]).shape == (1, 32)
        assert classifier.features([("good", "film")]).shape == (1, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((pd.DataFrame({"text": ["a", "b"]}), ["x", "y"]), "the texts are a DataFrame"),
        (({"text": ["a", "b"]}, ["x", "y"]), "the texts are a dict"),
        ((["a", "b"], None), r"the labels are None \(NoneType\)"),
        ((["a", "b"], (label for label in "xy")), r"\(generator\): expected a list"),
        ((["a", "b"], "xy"), r"the labels are 'xy' \(str\)"),
        ((["a", "b"], [b"x", b"y"]), "decode them"),
        (
            (["a", ["b"] * 999, "c"], ["x", "y", "x"], (["v"], ["x"])),
            r"text 2 is \['b', .*\.\.\.: ex",
        ),
        ((["a", "b"], ["x", "y"], ["v"] * 41), "validation is a list of 41: expected a tuple of"),
        ((["a", "b"], ["x", "y"], "no"), "validation is a str: expected a tuple of two"),
        ((["a", "b"], ["x", "y"], (["v"], None)), "the validation labels are None"),
        ((["a", "b"], ["x", "y"], ("v", ["x"])), "the validation texts are one string"),
        ((["a", "b"], ["x", "y"], (["v"], [])), "1 validation texts but 0 validation labels"),
    ],
)
def test_wrong_arguments_of_fit(model, arguments, says):
    refused(says, TextClassifier(model, **PROBING).fit, *arguments)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"seed": "x"}, "seed 'x' must be a whole number"),
        ({"seed": 1.5}, "seed 1.5 must be a whole number"),
        ({"seed": None}, "seed None must be a whole number"),
        ({"seed": True}, "seed True must be a whole number"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 4294967295"),
        ({"max_length": "x"}, "max_length 'x' must be a whole number"),
        ({"max_length": 32.5}, "max_length 32.5 must be a whole number"),
        ({"epochs": "2"}, "epochs '2' must be a number"),
        ({"batch_size": 2.5}, "batch_size 2.5 must be a whole number"),
        ({"head_bias": None}, "head_bias None must be true or false"),
        ({"head_bias": 1}, "head_bias 1 must be true or false"),
        ({"method": ["ft"]}, r"method \['ft'\] must be text"),
        ({"method": "lpft"}, "unknown method 'lpft'"),
        ({"pooling": "max"}, "pooling max is unknown: expected one of first, last, mean"),
        ({"precision": None}, "precision None is unknown: expected one of"),
    ],
)
def test_wrong_parameters(model, parameters, says):
    settings = {"method": "ft"} | parameters
    refused(says, TextClassifier(model, **settings).fit, *toy_texts(20))
    refused(says, TextClassifier.untrained, model, ["x", "y"], **settings)


def test_numpys_numbers_are_numbers(model):
    settings = {"seed": np.int64(1), "epochs": np.float32(1), "batch_size": np.int32(8)}
    fitted = TextClassifier(model, method="ft", max_length=32, **settings).fit(*toy_texts(20))
    assert fitted.predict(["good"]).shape == (1,)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ([1, "1"], "the classes mix int and str"),
        ([True, 1], "the classes mix bool and int"),
        ("ab", r"the classes are 'ab' \(str\): expected a list"),
        (None, "the classes are None"),
        (["x"], "the classes are 'x': expected at least 2 different names"),
        (["x", "x"], "at least 2 different names"),
        (["x", None], "no label in row 2"),
    ],
)
def test_wrong_classes_of_an_untrained_classifier(model, classes, says):
    refused(says, TextClassifier.untrained, model, classes)


def test_a_loaded_classifier_has_the_parameters_and_repeats_the_training(model, tmp_path):
    parameters = {
        "method": "ft",
        "seed": np.int64(3),
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "max_length": 32,
        "class_weight": "balanced",
    }
    fitted = TextClassifier(model, **parameters).fit(*toy_texts(40))
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved", device="cpu")
    assert loaded.get_params() == fitted.get_params() | {"device": "cpu"}
    assert loaded.history_ == fitted.history_
    again = clone(loaded).fit(*toy_texts(40))
    assert torch.equal(again.model_.head.weight, fitted.model_.head.weight)
    texts, _ = toy_texts(10, seed=1)
    np.testing.assert_array_equal(again.logits(texts), fitted.logits(texts))


def test_a_folder_without_parameters_still_loads(model, tmp_path):
    fitted = TextClassifier(model, **PROBING).fit(*toy_texts(40))
    fitted.save(tmp_path / "saved")
    (tmp_path / "saved/text_classifier.json").unlink()
    loaded = TextClassifier.load(tmp_path / "saved")
    assert (loaded.model, loaded.max_length) == (str(tmp_path / "saved"), 32)
    assert loaded.predict(["good"]).shape == (1,)


@pytest.mark.parametrize("content", ["{", "[]", '{"parameters": 3, "paired": null}'])
def test_damaged_parameters_are_named(model, tmp_path, content):
    TextClassifier.untrained(model, ["x", "y"], max_length=32).save(tmp_path / "saved")
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
