"""Prompts and label words on a few rows: fine-tuning beside kernel regression at its start.

The protocol of LM-Kernel-FT (Malladi et al., 2023) with the templates and words of LM-BFF (Gao et
al., 2021): 16 and 64 texts per class to train on, as many to choose the epoch and the strength of
the regression by; accuracy on test rows that are drawn once. Kernels are P + F at the label words'
head: SGD's by kernel ridge regression, SignGD's too, and the asymmetric one by its own solver.

    python benchmarks/prompts.py --data-dir DIR --cells DIR [--model M] [--tasks sst2]

A cell is one task, size and seed; finished ones are read from ``--cells``.

``--model`` is a masked language model. Without it the packaged MiniLM, which has no language model
head, gets one first: a transform and biases are trained on unlabelled training texts over the
frozen encoder, with the word embeddings as output embedding. That is a weak language model, and no
result with it says how RoBERTa would do.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import record
from few_rows import Pool, read_pool
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerBase

from lpft import TextClassifier
from lpft.model.loading import packaged_minilm
from lpft.runs.kernels import compute_kernels
from lpft.settings.configs import make_kernel_config

TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "sst2": ("{text} It was [MASK].", {"0": "terrible", "1": "great"}),
    "trec": (
        "[MASK]: {text}",
        {
            "0": "expression",
            "1": "description",
            "2": "entity",
            "3": "human",
            "4": "location",
            "5": "number",
        },
    ),
}
"""Templates and words by class index, in the order of the classes' names."""

KERNELS = {"sgd": ("sgd", "krr"), "signgd": ("signgd", "krr"), "asymmetric": ("asymmetric",) * 2}
METHODS = ("prompt", "lp", "ft", "prompt-ft", "prompt-lora")
TUNED = {"epochs": 10, "batch_size": 8}
RATES = {"prompt-lora": 2e-3}
RATE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="a masked language model (default: MiniLM with a new head)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--unlabelled", type=int, default=16000, help="texts for MiniLM's new head")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    pools = {task: read_pool(task, options.data_dir) for task in TASKS}
    model, about = options.model, {"model": options.model}
    if model is None:
        folder, described = (
            options.cells / "minilm-with-head",
            options.cells / "language_model.json",
        )
        if not described.exists():
            texts = [str(text) for pool in pools.values() for text in pool.texts]
            drawn = np.random.default_rng(0).permutation(len(texts))[: options.unlabelled]
            about = add_language_head([texts[row] for row in drawn], folder)
            described.write_text(json.dumps(about))
        model, about = str(folder), json.loads(described.read_text())
    for task, size, seed in product(options.tasks, options.sizes, range(options.seeds)):
        cell = options.cells / f"{task} {size}-per-class {seed}.json"
        if not cell.exists():
            parts = drawn_parts(pools[task], size, seed, options.test_rows)
            scores = compare(task, model, parts, seed, options.kernels)
            cell.write_text(json.dumps({"test_rows": options.test_rows, "accuracy": scores}))
        print(cell.name, cell.read_text(), flush=True)
    result: dict[str, Any] = {"language_model": about}
    for task, size in product(TASKS, sorted({16, 64, *options.sizes})):
        cells = sorted(options.cells.glob(f"{task} {size}-per-class *.json"))
        draws = [json.loads(cell.read_text()) for cell in cells]
        if draws:
            result[f"{task} {size}-per-class"] = {
                "test_rows": draws[0]["test_rows"],
                **{
                    name: {
                        "accuracy": round(mean(draw["accuracy"][name] for draw in draws), 4),
                        "draws": [round(draw["accuracy"][name], 4) for draw in draws],
                    }
                    for name in draws[0]["accuracy"]
                },
            }
    record("prompts", result)


Part = tuple[list[Any], np.ndarray]


def drawn_parts(pool: Pool, size: int, seed: int, test_rows: int) -> list[Part]:
    """Texts and classes to train on, to choose by, and to test on: ``size`` per class of the first
    two, or half of the rows of a class that has fewer."""
    generator = np.random.default_rng(seed)
    train, validation = [], []
    for label in range(pool.classes):
        rows = generator.permutation(np.flatnonzero(pool.labels == label))[: 2 * size]
        train.append(rows[: len(rows) // 2])
        validation.append(rows[len(rows) // 2 :])
    test = np.random.default_rng(0).permutation(len(pool.test_texts))[:test_rows]
    parts: list[Part] = []
    for chosen in (train, validation):
        rows = np.sort(np.concatenate(chosen))
        parts.append(([pool.texts[row] for row in rows], pool.labels[rows]))
    test = np.sort(test)
    return [*parts, ([pool.test_texts[row] for row in test], pool.test_labels[test])]


def compare(
    task: str,
    model: str,
    parts: Sequence[Part],
    seed: int,
    kernels: Sequence[str],
) -> dict[str, float]:
    """Accuracy on the test rows by every method and by kernel regression at the words' head."""
    prompt, words = TASKS[task]
    (texts, labels), validation, (test_texts, test_labels) = parts
    accuracies = {}
    for method in METHODS:
        own = {"label_words": words} if method.startswith("prompt") else {}
        tuned = (
            {}
            if method in ("lp", "prompt")
            else {**TUNED, "learning_rate": RATES.get(method, RATE)}
        )
        classifier = TextClassifier(
            model, method=method, seed=seed, prompt=prompt, max_length=64, **own, **tuned
        )
        classifier.fit(texts, labels, validation=validation)
        accuracies[method] = float(np.mean(classifier.predict(test_texts) == test_labels))
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, (rows, classes) in zip(("train", "validation", "test"), parts, strict=True):
            files[f"{name}_file"] = f"{folder}/{name}.csv"
            pd.DataFrame({"text": rows, "label": classes}).to_csv(
                files[f"{name}_file"], index=False
            )
        for kernel in kernels:
            kind, solver = KERNELS[kernel]
            config = make_kernel_config(
                {
                    **files,
                    **{"model": model, "prompt": prompt, "label_words": words, "max_length": 64},
                    **{"methods": "prompt-ft", "kernel": kind, "solver": solver, "seed": seed},
                    "f0_scale": 1.0,
                    "max_samples": max(len(texts), len(test_texts)),
                },
                Path(folder) / kernel,
            )
            fits = compute_kernels(config).by_name["prompt-ft"].kernels["ntk"].by_solver
            (fit,) = (fits or {}).values()
            accuracies[f"{kernel} kernel"] = float(fit["test_accuracy"])
    return accuracies


def add_language_head(texts: Sequence[str], folder: Path, epochs: int = 4) -> dict[str, Any]:
    """MiniLM as a masked language model in ``folder``, its head trained over the frozen encoder.

    Fifteen of a hundred tokens, and at least one of each text, are masked once. The softmax is over
    the tokens that occur; the biases of the others keep them out.
    """
    started = perf_counter()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    tokenizer.backend_tokenizer.no_padding()
    encoder = AutoModel.from_pretrained(packaged_minilm(), add_pooling_layer=False).eval()
    states, targets = masked_states(encoder, tokenizer, texts)
    model = BertForMaskedLM(encoder.config)
    model.bert.load_state_dict(encoder.state_dict())
    model.tie_weights()
    transform = model.cls.predictions.transform
    with torch.no_grad():  # begin near the identity
        transform.dense.weight.copy_(torch.eye(len(transform.dense.weight)))
    known, target = targets.unique(return_inverse=True)
    words = model.bert.embeddings.word_embeddings.weight.detach()[known]
    bias = torch.zeros(len(known), requires_grad=True)
    held_out = len(states) // 20
    optimizer = torch.optim.AdamW([*transform.parameters(), bias], lr=1e-3, weight_decay=0.0)
    steps = epochs * (len(states) - held_out) // 256
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(epochs):
        for rows in (torch.randperm(len(states) - held_out) + held_out).split(256):
            loss = cross_entropy(transform(states[rows]) @ words.T + bias, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        logits = transform(states[:held_out]) @ words.T + bias
        right = float((logits.argmax(1) == target[:held_out]).float().mean())
        nll = float(cross_entropy(logits, target[:held_out]))
        output = model.cls.predictions.decoder.bias
        output.fill_(float(bias.min()) - 10)
        output[known] = bias
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "model": "MiniLM with a language model head trained here, its encoder frozen",
        "texts": len(texts),
        "masked_tokens": len(states),
        "held_out_accuracy": round(right, 4),
        "held_out_nll": round(nll, 3),
        "seconds": round(perf_counter() - started, 1),
    }


@torch.no_grad()
def masked_states(
    encoder: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states at masked tokens (N x h) and the tokens that were there (N)."""
    states, targets = [], []
    for start in range(0, len(texts), 256):
        batch = tokenizer(
            list(texts[start : start + 256]),
            padding=True,
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        special = (ids == tokenizer.cls_token_id) | (ids == tokenizer.sep_token_id)
        draws = torch.rand(ids.shape).masked_fill(~real | special, 2.0)
        chosen = (draws < 0.15) | (draws == draws.amin(1, keepdim=True))
        chosen &= draws < 2.0
        inputs = dict(batch) | {"input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id)}
        states.append(encoder(**inputs).last_hidden_state[chosen])
        targets.append(ids[chosen])
    return torch.cat(states), torch.cat(targets)


if __name__ == "__main__":
    main()
