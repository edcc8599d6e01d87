"""The service's answers: predictions, limits, refusals in one sentence, schemas."""

import json
import logging
import re

import numpy as np
import pytest
from exportable import CLASSES, TEXTS, classifier_of, expected_logits, saved, softmax

pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytest.importorskip("httpx2", reason="httpx2 is not installed")

from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

import lpft
from lpft.results.saved import open_saved
from lpft.runs.predict import threshold_of
from lpft.serve.app import make_app
from lpft.serve.batching import Batcher, QueueFull
from lpft.settings import OutputSettings
from lpft.settings.commands import ServingSettings

PAIRS = [["the film was good", "a poor meal"], ["it", "a train and then a train again"]]
SECRET = "kettle"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def classifier():
    return classifier_of("bert", "mean")


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    return saved(classifier, tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture(scope="module")
def client_of():
    """A client of the service of a folder; ``below`` and settings as ``lpft serve`` takes them."""
    opened = []

    def made(folder, below=None, **settings):
        loaded = open_saved(folder, "cpu")
        threshold = threshold_of(loaded, OutputSettings(abstain_below=below))
        app = make_app(loaded, ServingSettings(**settings), threshold)
        opened.append(TestClient(app, raise_server_exceptions=False))
        return opened[-1].__enter__()

    yield made
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(client_of, folder):
    return client_of(folder)


@pytest.fixture(scope="module")
def pair_client(client_of, tmp_path_factory):
    classifier = classifier_of("bert", "mean", paired=True)
    return client_of(saved(classifier, tmp_path_factory.mktemp("models") / "pairs"))


def predicted(client, **body):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def table(predictions, classes=CLASSES):
    return np.array([[one["probabilities"][str(name)] for name in classes] for one in predictions])


def refusal(answer):
    """The sentence of a refusal, which is JSON and nothing else."""
    assert list(answer.json()) == ["error"]
    sentence = answer.json()["error"]
    assert "\n" not in sentence
    assert 10 < len(sentence) < 200
    return sentence


def test_predictions_are_the_softmax_of_calibrated_logits_in_the_order_of_the_texts(
    client, classifier
):
    expected = softmax(expected_logits(classifier, TEXTS))
    found = predicted(client, texts=TEXTS)
    np.testing.assert_allclose(table(found), expected, atol=3e-6)
    assert [one["label"] for one in found] == [CLASSES[row.argmax()] for row in expected]
    assert all(set(one) == {"label", "probabilities"} for one in found)
    alone = [predicted(client, text=text)[0] for text in TEXTS]
    np.testing.assert_allclose(table(alone), expected, atol=3e-6)


def test_predictions_are_those_of_lpft_predict(lpft, client, folder):
    lines = lpft("predict", folder, "--text", *TEXTS).out.splitlines()
    expected = [json.loads(line) for line in lines]
    found = predicted(client, texts=TEXTS)
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    np.testing.assert_allclose(table(found), table(expected), atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["fnet", "mobilebert"])
def test_a_model_that_padding_changes_gives_a_text_the_same_answer_beside_longer_ones(
    family, client_of, tmp_path
):
    from transformers import FNetConfig, MobileBertConfig

    small = {"vocab_size": 48, "num_hidden_layers": 2, "intermediate_size": 24}
    wide = {"hidden_size": 16, "max_position_embeddings": 64}
    config = {
        "fnet": FNetConfig(**small, **wide),
        "mobilebert": MobileBertConfig(
            **small, **wide, embedding_size=16, num_attention_heads=2, intra_bottleneck_size=8
        ),
    }[family]
    from tiny_classifiers import random_classifier
    from tiny_models import tiny_tokenizer

    tokenizer = tiny_tokenizer("bert")
    tokenizer.model_max_length = 24
    classifier = random_classifier(config, tokenizer, CLASSES, pooling="mean")
    client = client_of(saved(classifier, tmp_path / "model"))
    together = table(predicted(client, texts=TEXTS))
    alone = table([predicted(client, text=text)[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.01


def test_pairs_are_lists_of_two(pair_client):
    classifier = classifier_of("bert", "mean", paired=True)
    expected = softmax(expected_logits(classifier, [tuple(pair) for pair in PAIRS]))
    np.testing.assert_allclose(table(predicted(pair_client, texts=PAIRS)), expected, atol=3e-6)
    (one,) = predicted(pair_client, text=PAIRS[0])
    np.testing.assert_allclose(table([one]), expected[:1], atol=3e-6)
    assert pair_client.get("/health").json()["pairs"] is True
    for wrong in ("a", ["a"], ["a", "b", "c"], ["a", 3], {"a": "b"}):
        answer = pair_client.post("/predict", json={"text": wrong})
        assert answer.status_code == 422
        assert "a list of two strings" in refusal(answer)
    answer = pair_client.post("/predict", json={"text": ["a", " "]})
    assert (answer.status_code, "empty" in refusal(answer)) == (422, True)


def test_labels_are_of_their_own_type(client_of, tmp_path):
    folder = saved(classifier_of("bert", "mean", classes=(3, 7)), tmp_path / "numbers")
    client = client_of(folder)
    (one,) = predicted(client, text="good")
    assert one["label"] in (3, 7)
    assert set(one["probabilities"]) == {"3", "7"}
    assert client.get("/health").json()["classes"] == [3, 7]


def test_it_abstains_below_the_threshold_that_is_given_or_the_classifiers_own(
    client_of, classifier, folder, tmp_path
):
    top = softmax(expected_logits(classifier, TEXTS)).max(axis=1)
    below = float(np.sort(top)[1:3].mean())
    client = client_of(folder, below=below)
    found = predicted(client, texts=TEXTS)
    assert [one["abstained"] for one in found] == [bool(p < below) for p in top]
    assert {one["abstained"] for one in found} == {True, False}
    assert all(one["label"] in CLASSES for one in found)
    own = classifier_of("bert", "mean")
    own.model.config.abstain_below = below
    client = client_of(saved(own, tmp_path / "own"))
    assert predicted(client, texts=TEXTS) == found
    assert client.get("/health").json()["abstain_below"] == below


def test_top_k_keeps_the_largest_probabilities_first(client):
    (full,) = predicted(client, text="good")
    (two,) = predicted(client, text="good", top_k=2)
    ordered = sorted(full["probabilities"].items(), key=lambda item: -item[1])
    assert list(two["probabilities"].items()) == ordered[:2]
    assert two["label"] == ordered[0][0]
    (every,) = predicted(client, text="good", top_k=3)
    assert every["probabilities"] == full["probabilities"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b'{"text": "kettle', "not valid JSON"),
        (b'{"text": "kettle"} more', "not valid JSON"),
        (b"\xff\xfe{\x00", "not valid JSON in UTF-8"),
        ('{"text": "kettle café"}'.encode("latin-1"), "not valid JSON in UTF-8"),
        ('{"text": "kettle"}'.encode("utf-16"), "not valid JSON in UTF-8"),
        (b'{"text": "kettle \\ud800"}', "not valid JSON"),
        (b'{"text": "\xed\xa0\x80 kettle"}', "not valid JSON in UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"text":' * 100_000, "not valid JSON"),
        (b'["kettle"]', "no JSON object"),
        (b'"kettle"', "no JSON object"),
        (b"null", "no JSON object"),
        (b"{}", "either 'text' or 'texts', found neither"),
        (b'{"top_k": 1}', "found neither"),
        (b'{"text": "kettle", "texts": ["kettle"]}', "found both"),
        (b'{"text": "kettle", "batch": 1}', "unknown field 'batch'"),
        (b'{"Text": "kettle"}', "unknown field 'Text'"),
        (b'{"text": null}', "'text' must be a string"),
        (b'{"text": 3}', "'text' must be a string"),
        (b'{"text": NaN}', "'text' must be a string"),
        (b'{"text": ["kettle"]}', "'text' must be a string"),
        (b'{"texts": "kettle"}', "'texts' must be a list"),
        (b'{"texts": ["kettle", 3]}', "text 2 must be a string"),
        (b'{"texts": [["kettle", "kettle"]]}', "text 1 must be a string"),
        (b'{"texts": [null]}', "text 1 must be a string"),
        (b'{"texts": []}', "at least one text"),
        (b'{"text": ""}', "text 1 is empty"),
        (b'{"texts": ["kettle", " \\n\\t"]}', "text 2 is empty"),
        (b'{"text": "kettle", "top_k": 0}', "'top_k' must be a whole number from 1 to 3"),
        (b'{"text": "kettle", "top_k": 4}', "from 1 to 3, the number of classes"),
        (b'{"text": "a", "text": "b"}', "'text' more than once"),
        (b'{"top_k": 1, "texts": ["a"], "top_k": 2}', "'top_k' more than once"),
        (b'{"text": "kettle", "top_k": -1}', "'top_k' must be"),
        (b'{"text": "kettle", "top_k": 1.5}', "'top_k' must be"),
        (b'{"text": "kettle", "top_k": true}', "'top_k' must be"),
        (b'{"text": "kettle", "top_k": "2"}', "'top_k' must be"),
        (b'{"text": "kettle", "top_k": null}', "'top_k' must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_valid_request_is_refused_in_a_sentence_without_its_text(client, body, says):
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == 422
    assert says in refusal(answer)
    assert SECRET not in answer.text


def test_a_null_character_is_read_as_lpft_predict_reads_it(lpft, client, folder, tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "good\\u0000 film"}\n')
    line = json.loads(lpft("predict", folder, "--file", path, "--text-columns", "text").out)
    (one,) = predicted(client, text="good\0 film")
    assert one["probabilities"] == pytest.approx(line["probabilities"], abs=1e-6)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_other_types_of_content_are_refused(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/predict", content=b'{"text": "good"}', headers=headers)
    assert answer.status_code == 415
    assert "expected the Content-Type application/json" in refusal(answer)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"]
)
def test_every_type_of_json_is_read(client, kind):
    answer = client.post("/predict", content=b'{"text": "good"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


def test_a_body_has_a_limit(client_of, folder):
    client = client_of(folder, max_bytes=1000)
    body = json.dumps({"text": "good"}).encode()
    fitting = body + b" " * (1000 - len(body))
    assert client.post("/predict", content=fitting, headers=JSON).status_code == 200
    for content in (fitting + b" ", iter([fitting, b" "])):  # with and without Content-Length
        answer = client.post("/predict", content=content, headers=JSON)
        assert answer.status_code == 413
        assert "at most 1,000 bytes" in refusal(answer)


def test_texts_and_characters_have_limits(client_of, folder):
    client = client_of(folder, max_texts=2, max_characters=10)
    assert len(predicted(client, texts=["good"] * 2)) == 2
    answer = client.post("/predict", json={"texts": ["good"] * 3})
    assert (answer.status_code, "at most 2 per request" in refusal(answer)) == (413, True)
    assert predicted(client, text="ä" * 10)
    answer = client.post("/predict", json={"texts": ["good", "ä" * 11]})
    assert answer.status_code == 413
    assert refusal(answer).startswith("text 2 has 11 characters")
    # more texts than are computed at once, and than the queue holds, are still answered
    small = client_of(folder, batch_texts=3, max_queue=2)
    many = predicted(small, texts=TEXTS * 5)
    np.testing.assert_allclose(table(many[:4]), table(predicted(small, texts=TEXTS)), atol=1e-5)
    assert len(many) == 20


def test_a_full_queue_is_answered_with_when_to_come_back(client, monkeypatch):
    async def full(*_):
        raise QueueFull(7)

    monkeypatch.setattr(Batcher, "predict", full)
    answer = client.post("/predict", json={"text": "good"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert "try again in 7 s" in refusal(answer)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyError])
def test_an_error_is_answered_and_logged_without_the_text(
    client, error, monkeypatch, caplog, capfd
):
    def fail(_, texts, *__, **___):
        raise error(*texts)

    monkeypatch.setattr("lpft.serve.app.predict_texts", fail)
    monkeypatch.setattr(logging.getLogger("lpft"), "propagate", True)
    answer = client.post("/predict", json={"text": SECRET})
    assert answer.status_code == 500
    assert ("out of memory" in refusal(answer)) == (error is MemoryError)
    assert error.__name__ in caplog.text
    assert SECRET not in answer.text + caplog.text + "".join(capfd.readouterr())
    monkeypatch.undo()
    assert predicted(client, text=SECRET), "the service goes on"


def test_texts_are_neither_logged_nor_printed(client, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    predicted(client, text=SECRET)
    client.post("/predict", json={"text": SECRET, "other": SECRET})
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_other_paths_and_methods_say_what_there_is(client):
    for answer, status in ((client.get("/predict"), 405), (client.get("/docs"), 404)):
        assert answer.status_code == status
        assert "POST /predict" in refusal(answer)
    assert client.get("/predict").headers["Allow"] == "POST"


def test_health_says_what_is_served(client):
    found = client.get("/health").json()
    assert isinstance(found.pop("model"), str)
    assert found == {
        "status": "ready",
        "name": "toy",
        "classes": list(CLASSES),
        "pairs": False,
        "abstain_below": None,
        "lpft": lpft.__version__,
    }


def schema(client, which):
    """A JSON Schema of the service's description, with what it refers to."""
    described = client.get("/openapi.json").json()
    body = described["paths"]["/predict"]["post"]
    chosen = {
        "request": lambda: body["requestBody"]["content"],
        "answer": lambda: body["responses"]["200"]["content"],
        "problem": lambda: body["responses"]["422"]["content"],
        "health": lambda: described["paths"]["/health"]["get"]["responses"]["200"]["content"],
    }[which]()["application/json"]
    return Draft202012Validator({**chosen["schema"], "components": described["components"]}), chosen


def test_the_schemas_hold_for_what_is_asked_and_answered(client, pair_client):
    for one, text, other in ((client, "good", ["a", "b"]), (pair_client, ["a", "b"], "good")):
        request, _ = schema(one, "request")
        answer, described = schema(one, "answer")
        problem, _ = schema(one, "problem")
        bodies = [{"text": text}, {"texts": [text, text], "top_k": 1}, *request.schema["examples"]]
        for body in bodies:
            request.validate(body)
            found = one.post("/predict", json=body)
            assert found.status_code == 200
            answer.validate(found.json())
        answer.validate(described["example"])
        wrong = [{}, {"text": other}, {"text": text, "texts": [text]}, {"text": text, "x": 1}, []]
        for body in [
            *wrong,
            {"texts": []},
            {"text": text, "top_k": 0},
            {"text": text, "top_k": 99},
            {"text": None},
        ]:
            assert not request.is_valid(body), body
            found = one.post("/predict", json=body)
            assert found.status_code == 422
            problem.validate(found.json())
    schema(client, "health")[0].validate(client.get("/health").json())


def test_the_page_loads_nothing_and_runs_its_own_script_alone(client_of, tmp_path):
    hostile = ("<script>alert(1)</script>", "</title><img src=x onerror=alert(2)>")
    client = client_of(saved(classifier_of("bert", "mean", classes=hostile), tmp_path / "<b>x"))
    answer = client.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<h1>&lt;b&gt;x</h1>" in answer.text
    assert answer.text.count("<script>") == answer.text.count("</script>") == 1
    assert not re.search(r"(?:src|href|url\()=?[\"']?(?:https?:)?//", answer.text)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "innerHTML" not in answer.text
