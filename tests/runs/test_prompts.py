"""A prompt from training to prediction, export and kernels, as a user meets it."""

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import BAD, GOOD, save_tiny_language_model, toy_texts
from torch.nn.functional import cross_entropy
from toy_files import write_toy_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, pipeline

from lpft import TextClassifier

TEMPLATE = "{text} it was [MASK]"
WORDS = ("--label-words", "good=great,bad=poor")
LONG = "the film was good and we " * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_language_model("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 24, "validation": 10, "test": 10}
    for seed, (name, rows) in enumerate(sizes.items()):
        write_toy_file(folder / f"{name}.csv", rows, seed)
    return {name: folder / f"{name}.csv" for name in sizes}


@pytest.fixture(scope="module")
def files(data) -> tuple[object, ...]:
    return tuple(part for name, path in data.items() for part in (f"--{name}-file", path))


@pytest.fixture(scope="module")
def run(lpft, model, files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "prompt-ft"
    outcome = lpft(
        *("train", *files, "--model", model, "--prompt", TEMPLATE, *WORDS),
        *("--method", "prompt-ft", "--epochs", 1, "--max-length", 20, "--output-dir", folder),
    )
    assert outcome.status == 0, outcome.err
    return folder


def texts_of(path):
    with path.open() as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_a_run_predicts_with_its_prompt_and_without_options(lpft, run):
    outcome = lpft("predict", run, "--text", LONG, "a <mask> film")
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line)["probabilities"] for line in outcome.out.splitlines()]
    loaded = TextClassifier.load(run)
    table = loaded.predict_proba([LONG, "a <mask> film"])
    assert [list(row.values()) for row in rows] == [pytest.approx(row, abs=1e-6) for row in table]
    ids = loaded.tokenizer_(LONG, truncation=True)["input_ids"]
    assert len(ids) == 20
    assert loaded.tokenizer_.convert_ids_to_tokens(ids[-4:]) == ["it", "was", "<mask>", "<sep>"]


def test_a_run_records_its_prompt_and_the_tokens(run):
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["prompt"] == TEMPLATE
    assert config["label_words"] == {"good": "great", "bad": "poor"}
    prompt = json.loads((run / "config.json").read_text())["prompt"]
    assert prompt["tokens"] == {"bad": "poor", "good": "great"}
    assert "prompt-ft" in (run / "README.md").read_text()


def test_a_run_has_a_page_with_its_command(lpft, run, tmp_path):
    outcome = lpft("report", run, "--output", tmp_path / "page.html")
    assert outcome.status == 0, outcome.err
    page = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "page.html").read_text()))
    assert f"--prompt '{TEMPLATE}' " in page
    assert "--label-words bad=poor" in page


def test_the_pipeline_of_transformers_reads_the_prompt(run, data):
    texts = texts_of(data["test"])
    classify = pipeline("text-classification", model=str(run), top_k=None)
    loaded = TextClassifier.load(run)
    for text, row in zip(texts, loaded.predict_proba(texts), strict=True):
        scores = {item["label"]: item["score"] for item in classify([text], truncation=True)[0]}
        assert [scores[label] for label in loaded.classes_] == pytest.approx(row, abs=1e-5)


def test_without_training_the_classifier_is_the_language_model(lpft, model, files, tmp_path):
    outcome = lpft(
        *("train", *files, "--model", model, "--prompt", TEMPLATE, *WORDS),
        *("--method", "prompt", "--max-length", 20, "--output-dir", tmp_path / "run"),
    )
    assert outcome.status == 0, outcome.err
    loaded = TextClassifier.load(tmp_path / "run")
    start = TextClassifier.untrained(
        str(model),
        ["bad", "good"],
        prompt=TEMPLATE,
        label_words={"good": "great", "bad": "poor"},
        max_length=20,
    )
    texts = ["the film was good", LONG]
    assert loaded.logits(texts) == pytest.approx(start.logits(texts), abs=1e-6)
    assert loaded.temperature_ != 1.0


def test_kernels_have_one_pass_for_random_lp_and_word_heads(lpft, model, files, tmp_path):
    outcome = lpft(
        *("ntk", *files, "--model", model, "--prompt", TEMPLATE, *WORDS, "--max-length", 20),
        *("--methods", "ft,lp-ft,prompt-ft", "--solver", "krr", "--max-samples", 8),
        *("--dtype", "float64", "--output-dir", tmp_path / "kernels"),
    )
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / "kernels" / "kernels.json").read_text())
    assert len(record["plan"]["passes"]) == 1
    starts = {name: method["head_start"] for name, method in record["methods"].items()}
    assert starts == {"ft": "random", "lp-ft": "lp", "prompt-ft": "words"}
    kernels = [
        load_file(tmp_path / "kernels" / f"{name}.safetensors") for name in ("ft", "prompt-ft")
    ]
    key = next(name for name in kernels[0] if "pretrain" in name)
    assert np.array_equal(kernels[0][key], kernels[1][key])


def test_the_kernel_of_a_trained_run_needs_no_option(lpft, run, tmp_path):
    outcome = lpft(
        *("ntk", run, "--with-start", "--max-samples", 6, "--output-dir", tmp_path / "kernels")
    )
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / "kernels" / "kernels.json").read_text())
    assert list(record["methods"]) == ["prompt-ft", "trained"]


@pytest.mark.heavy
def test_a_run_goes_to_onnx_and_not_to_a_stock_model(lpft, run, tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    outcome = lpft("export", run, "--format", "onnx", "--output-dir", tmp_path / "onnx")
    assert outcome.status == 0, outcome.err
    check = json.loads((tmp_path / "onnx" / "export.json").read_text())["check"]
    assert check["largest_difference_of_a_logit"] < 1e-4
    outcome = lpft("export", run, "--format", "transformers", "--output-dir", tmp_path / "stock")
    assert outcome.status == 2
    assert "reads the blank of a prompt" in outcome.err


def test_an_estimator_keeps_its_prompt(model, data, tmp_path):
    texts = texts_of(data["train"])
    labels = [text.split()[0] in ("good", "great", "fine") for text in texts]
    words = {True: "great", False: "poor"}
    classifier = TextClassifier(
        str(model), method="prompt-lora", epochs=1, prompt=TEMPLATE, label_words=words
    )
    classifier.fit(texts, labels, validation=(texts[:8], labels[:8]))
    classifier.save(tmp_path / "model")
    loaded = TextClassifier.load(tmp_path / "model")
    assert loaded.predict_proba(texts) == pytest.approx(classifier.predict_proba(texts), abs=1e-6)
    assert loaded.get_params()["prompt"] == TEMPLATE
    assert loaded.get_params()["label_words"] == words


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "prompt-ft", "--prompt", TEMPLATE), "prompt-ft needs --label-words"),
        (("--method", "prompt-ft", *WORDS), "--label-words needs --prompt"),
        (("--method", "ft", "--prompt", TEMPLATE, *WORDS), "--label-words has no effect with"),
        (
            ("--method", "prompt", "--prompt", TEMPLATE, "--label-words", "good=great"),
            "--label-words has no word for class 'bad'",
        ),
        (
            ("--method", "prompt", "--prompt", "{text} {text_b} [MASK]", *WORDS),
            "is for pairs, and the data has single texts",
        ),
        (("--method", "prompt", "--prompt", "it was [MASK]", *WORDS), "no place for the text"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(lpft, model, files, tmp_path, options, says):
    outcome = lpft("train", *files, "--model", model, *options, "--output-dir", tmp_path / "run")
    assert outcome.status == 2
    assert says in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ")


def test_kernels_refuse_label_words_that_no_method_takes(lpft, model, files, tmp_path):
    base = ("ntk", *files, "--model", model, "--prompt", TEMPLATE, "--output-dir", tmp_path / "k")
    outcome = lpft(*base, *WORDS, "--methods", "ft")
    assert outcome.status == 2
    assert "--label-words has no effect on the kernels of ft" in outcome.err
    outcome = lpft(*base, "--methods", "ft,prompt-ft")
    assert outcome.status == 2
    assert "prompt-ft needs --label-words" in outcome.err


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A tiny masked language model that has read which words go with good and with bad texts.

    It saw sentences of the form "text it was word" without labels, with the word masked.
    """
    folder = save_tiny_language_model("bert", tmp_path_factory.mktemp("models") / "taught")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, labels = toy_texts(2000, seed=5)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder))
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
        for start in range(0, 2 * len(texts), 40):
            rows = [row % len(texts) for row in range(start, start + 40)]
            inputs = tokenizer(
                [f"{texts[row]} it was <mask>" for row in rows], padding=True, return_tensors="pt"
            )
            choices = [GOOD if labels[row] == "good" else BAD for row in rows]
            drawn = torch.randint(0, 3, (len(rows),), generator=generator).tolist()
            words = [choice[number] for choice, number in zip(choices, drawn, strict=True)]
            at = inputs["input_ids"] == tokenizer.mask_token_id
            targets = torch.tensor(tokenizer.convert_tokens_to_ids(words))
            loss = cross_entropy(model(**inputs).logits[at], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    return folder


@pytest.mark.heavy
def test_label_words_bring_what_the_language_model_knows(taught):
    texts, labels = toy_texts(200, seed=6)
    words = {"good": "great", "bad": "poor"}
    start = TextClassifier.untrained(
        str(taught), ["bad", "good"], prompt=TEMPLATE, label_words=words
    )
    assert np.mean(start.predict(texts) == labels) > 0.95
    random = TextClassifier.untrained(str(taught), ["bad", "good"], prompt=TEMPLATE)
    assert np.mean(random.predict(texts) == labels) < 0.95
    few, theirs = toy_texts(8, seed=7)
    tuned = TextClassifier(
        str(taught), method="prompt-ft", epochs=2, prompt=TEMPLATE, label_words=words
    ).fit(few, theirs, validation=(few, theirs))
    assert np.mean(tuned.predict(texts) == labels) > 0.95
