"""TextClassifier as a user of scikit-learn meets it."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.validation import NotFittedError
from tiny_models import save_tiny_model, toy_texts

from lpft import InputError, TextClassifier
from lpft.settings import TrainingSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def fitted(model):
    return classifier(model).fit(*toy_texts(120), validation=toy_texts(40, seed=1))


def classifier(model, **parameters):
    settings = {
        "method": "lp-ft",
        "pooling": "mean",
        "max_length": 32,
        "epochs": 2,
        "learning_rate": 1e-3,
    }
    return TextClassifier(model, **(settings | parameters))


def test_its_parameters_are_the_settings_with_their_defaults():
    parameters = inspect.signature(TextClassifier.__init__).parameters
    named = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("self", "verbose")
    }
    assert named == {name: item.default for name, item in TrainingSettings.fields().items()}
    assert len(named) == 18


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


def test_saving_and_loading_keeps_the_probabilities(fitted, tmp_path):
    texts, _ = toy_texts(20, seed=3)
    fitted.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    assert loaded.temperature_ == fitted.temperature_
    assert loaded.get_params()["max_length"] == 32
    with pytest.raises(InputError, match="not an empty folder"):
        fitted.save(tmp_path / "saved")
    fitted.save(tmp_path / "saved", overwrite=True)


@pytest.mark.parametrize("method", ["lp", "ft", "lora", "lp-lora"])
def test_every_method_gives_probabilities(model, method):
    settings = {"epochs": None, "learning_rate": None} if method == "lp" else {"epochs": 1}
    fitted = classifier(model, method=method, **settings).fit(*toy_texts(60))
    proba = fitted.predict_proba(toy_texts(7)[0])
    assert proba.shape == (7, 2)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-12)
    assert type(fitted.model_).__name__ == "LinearHeadClassifier"


def test_labels_come_back_as_they_were_given(model, tmp_path):
    texts, labels = toy_texts(60)
    numbers = np.array([7 if label == "good" else -2 for label in labels])
    settings = {"method": "lp", "epochs": None, "learning_rate": None}
    fitted = classifier(model, **settings).fit(texts, numbers)
    assert fitted.classes_.tolist() == [-2, 7]
    assert np.issubdtype(fitted.predict(texts).dtype, np.integer)
    fitted.save(tmp_path / "saved")
    assert TextClassifier.load(tmp_path / "saved").predict(texts[:1]).tolist() in ([7], [-2])
    digits = ["7" if label == "good" else "-2" for label in labels]
    assert classifier(model, **settings).fit(texts, digits).classes_.tolist() == ["-2", "7"]
    named = pd.Series(labels, index=range(100, 160))
    assert classifier(model, **settings).fit(pd.Series(texts), named).score(texts, labels) > 0.7


def test_pairs_are_tuples_of_two_texts(model):
    texts, labels = toy_texts(60)
    pairs = [(text, "a film") for text in texts]
    fitted = classifier(model, method="lp", epochs=None, learning_rate=None).fit(pairs, labels)
    assert fitted.predict(pairs[:4]).shape == (4,)
    assert not np.allclose(fitted.features(pairs[:1]), fitted.features([("a film", texts[0])]))


def test_the_same_seed_gives_the_same_model_and_leaves_the_programs_randomness_alone(model):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    first = classifier(model, method="ft", epochs=1, seed=3).fit(*toy_texts(60))
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()  # noqa: NPY002
    second = classifier(model, method="ft", epochs=1, seed=3).fit(*toy_texts(60))
    texts, _ = toy_texts(10, seed=9)
    np.testing.assert_array_equal(first.decision_function(texts), second.decision_function(texts))


def test_scikit_learns_tools_take_it(model):
    estimator = classifier(model, method="lp", epochs=None, learning_rate=None)
    assert clone(estimator).get_params() == estimator.get_params()
    texts, labels = toy_texts(90)
    scores = cross_val_score(estimator, np.array(texts), np.array(labels), cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.6


def test_untrained_is_the_random_head_of_the_seed(model):
    first = TextClassifier.untrained(model, ["x", "y", "z"], seed=4, max_length=32)
    again = TextClassifier.untrained(model, ["x", "y", "z"], seed=4, max_length=32)
    other = TextClassifier.untrained(model, ["x", "y", "z"], seed=5, max_length=32)
    assert first.classes_.tolist() == ["x", "y", "z"]
    assert first.temperature_ == 1
    assert torch.equal(first.model_.head.weight, again.model_.head.weight)
    assert not torch.equal(first.model_.head.weight, other.model_.head.weight)
    assert first.predict_proba(["good film"]).shape == (1, 3)
    with pytest.raises(InputError, match="at least 2 different names"):
        TextClassifier.untrained(model, ["x", "x"])


@pytest.mark.parametrize(
    ("texts", "labels", "says"),
    [
        (["good", "bad"], ["x"], "2 texts but 1 labels"),
        ([], [], "at least 2 classes"),
        (["good", "bad"], ["x", "x"], "at least 2 classes"),
        (["good", "bad"], [[1, 0], [0, 1]], "multi-label is not supported"),
        (["good", "bad"], [0.5, 1.5], "regression is not supported"),
        (["good", "bad"], ["x", None], "no label"),
        (["good", "", "bad", "fine"], ["x", "x", "y", "y"], "is empty"),
        (["good", 3, "bad", "fine"], ["x", "x", "y", "y"], "expected a string"),
        (["good", "bad"], ["x", "y"], "held out"),
    ],
)
def test_wrong_training_data_is_refused(model, texts, labels, says):
    with pytest.raises(InputError, match=says):
        classifier(model, method="lp", epochs=None, learning_rate=None).fit(texts, labels)


def test_a_validation_label_that_training_lacks_is_refused(model):
    with pytest.raises(InputError, match="'odd'"):
        classifier(model).fit(*toy_texts(20), validation=(["good film"], ["odd"]))


def test_what_needs_training_says_so(model):
    with pytest.raises(NotFittedError):
        TextClassifier(model).predict(["good"])


def test_unknown_parameters_of_a_method_are_refused(model):
    with pytest.raises(InputError, match="unknown method 'lpft'"):
        classifier(model, method="lpft").fit(*toy_texts(20))
    with pytest.raises(InputError, match="no effect with method lp"):
        classifier(model, method="lp").fit(*toy_texts(20))


def test_one_bare_string_is_not_read_letter_by_letter(fitted):
    with pytest.raises(InputError, match="expected a list of texts"):
        fitted.predict("good film")


def test_untrained_takes_the_classes_of_numpy(model):
    found = TextClassifier.untrained(model, np.unique([3, 1, 3]), max_length=32)
    assert found.classes_.tolist() == [1, 3]
    assert np.issubdtype(found.classes_.dtype, np.integer)


def test_a_run_of_the_command_line_is_never_saved_over(fitted, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run"):
        fitted.save(tmp_path, overwrite=True)


def test_precision_that_cannot_have_an_effect_is_refused(model):
    probing = {"method": "lp", "epochs": None, "learning_rate": None}
    with pytest.raises(InputError, match="precision has no effect"):
        classifier(model, precision="bfloat16", **probing).fit(*toy_texts(20))
    with pytest.raises(InputError, match="needs an accelerator"):
        classifier(model, precision="float16", device="cpu").fit(*toy_texts(20))
