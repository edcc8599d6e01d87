"""Which training rows a prediction rests on, and which labels are wrong: the kernel beside others.

Two measures, on rows of SST-2 and TREC with MiniLM.

- The linear datamodeling score (Park et al., ICML 2023): 50 halves of 300 training rows are trained
  on again. The log odds of the true class of 100 test texts are compared with the sum of the scores
  of the half's rows, by Spearman's correlation over the halves; the mean over texts is recorded.
  Trained again are linear probing, and LP-FT by AdamW for three epochs. The strength of the probe
  is that of all rows.
- The AUROC of 10 % planted wrong labels among 500 rows, by the classifier that was trained on them
  as ``TextClassifier(method="lp-ft")`` trains, with 200 clean validation rows.

Each training and each kernel is kept in a file of its own, so that a stopped benchmark goes on
where it was; ``--summary`` records the cells that are there.

    python benchmarks/explain.py --data-dir DIR --cells DIR --stage train
    python benchmarks/explain.py --data-dir DIR --cells DIR --stage score
    python benchmarks/explain.py --cells DIR --summary
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from common import record
from few_rows import Pool, read_pool
from scipy.special import expit, softmax
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from lpft import TextClassifier
from lpft.analysis.calibration import fit_temperature
from lpft.data import Examples
from lpft.data.tokens import tokenize
from lpft.model import Classifier, build_classifier, load_classifier, save_classifier
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint, extract_features, head_logits
from lpft.ntk import Options, studied_model
from lpft.ntk.influence import (
    RowKernel,
    RowKernels,
    TextsWithGradients,
    first_order,
    left_out_margins,
    log_odds,
    regressed,
    trained_request,
)
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
    prepare_split,
)
from lpft.training.probing import LinearProbe, fit_probe, install_probe

DATA = ("sst2", "trec")
ROWS, TESTED, HALVES, EPOCHS = 300, 100, 50, 3
"""Of the linear datamodeling score."""
NOISY_ROWS, VALIDATION, WRONG, DRAWS = 500, 200, 0.1, 3
"""Of the planted labels."""
SKETCH = 4096
"""Buckets of the random projections."""
SETTINGS = resolve(TrainingSettings(method="lp-ft", device="cpu", max_length=64))
CPU = torch.device("cpu")


def read(classifier: Classifier, texts: list, labels: np.ndarray) -> SplitInputs:
    examples = Examples([str(row) for row in range(len(labels))], list(texts), labels)
    encoder = encoder_fingerprint(classifier.model)
    return prepare_split(classifier, examples, SETTINGS, encoder=encoder, name="rows")


def fresh(pool: Pool) -> Classifier:
    names = tuple(map(str, range(pool.classes)))
    return build_classifier("minilm", names, seed=0, max_length=SETTINGS.max_length)


def finetune(classifier: Classifier, rows: SplitInputs, probe: LinearProbe, seed: int) -> None:
    """Plain AdamW from the probe, the rate falling linearly to 0."""
    model = classifier.model
    install_probe(model.head, probe)
    rate, size = SETTINGS.learning_rate, SETTINGS.batch_size
    assert rate is not None
    assert size is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    steps = EPOCHS * -(-len(rows.labels) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    with seeded(seed):
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows.labels)).split(size):
                labels = torch.from_numpy(rows.labels[batch.numpy()])
                loss = model(**rows.tokens.batch(batch.numpy()), labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    model.eval()


def train_halves(name: str, data_dir: Path, cells: Path) -> None:
    """The classifiers of all rows, and the logits of the test texts by those of every half."""
    pool = read_pool(name, data_dir)
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.permutation(len(pool.labels))[:ROWS])
    tested = np.sort(rng.permutation(len(pool.test_labels))[:TESTED])
    classifier = fresh(pool)
    train = read(classifier, [pool.texts[row] for row in drawn], pool.labels[drawn])
    test = read(classifier, [pool.test_texts[row] for row in tested], pool.test_labels[tested])
    names = classifier.model.config.classes
    strength = cached_probe(train, SETTINGS, names).inverse_strength
    for number in range(-1, HALVES):
        path = cells / f"half_{name}_{number}.npz"
        if path.exists():
            continue
        chosen = np.arange(ROWS)
        if number >= 0:
            chosen = np.sort(np.random.default_rng(number).permutation(ROWS)[: ROWS // 2])
        part = train.select(chosen)
        probe = fit_probe(part.pretrained, part.labels, pool.classes, inverse_strength=strength)
        classifier = fresh(pool)
        install_probe(classifier.model.head, probe)
        probed = head_logits(classifier.model, test.pretrained)
        if number < 0:
            save_classifier(classifier, cells / f"model_{name}_lp")
        finetune(classifier, part, probe, seed=max(number, 0))
        if number < 0:
            save_classifier(classifier, cells / f"model_{name}_lp-ft")
        features = extract_features(classifier.model, test.tokens, device=CPU)
        tuned = head_logits(classifier.model, features)
        np.savez(
            path, chosen=chosen, lp=probed, tuned=tuned, drawn=drawn, tested=tested, c=strength
        )
        print(path.name, flush=True)


def train_noisy(name: str, data_dir: Path, cells: Path) -> None:
    """A classifier of rows of which a tenth has another label than its own."""
    pool = read_pool(name, data_dir)
    for draw in range(DRAWS):
        folder = cells / f"noisy_{name}_{draw}"
        if folder.exists():
            continue
        rng = np.random.default_rng(100 + draw)
        order = rng.permutation(len(pool.labels))[: NOISY_ROWS + VALIDATION]
        rows, validation = order[:NOISY_ROWS], order[NOISY_ROWS:]
        labels = pool.labels[rows].copy()
        wrong = rng.choice(NOISY_ROWS, int(WRONG * NOISY_ROWS), replace=False)
        labels[wrong] = (labels[wrong] + rng.integers(1, pool.classes, len(wrong))) % pool.classes
        classifier = TextClassifier(method="lp-ft", seed=draw, device="cpu").fit(
            [pool.texts[row] for row in rows],
            labels,
            validation=([pool.texts[row] for row in validation], pool.labels[validation]),
        )
        classifier.save(folder)
        np.savez(cells / f"noisy_{name}_{draw}.npz", rows=rows, labels=labels, wrong=wrong)
        print(folder.name, flush=True)


def kernels(
    classifier: Classifier,
    method: str,
    train: TextsWithGradients,
    other: TextsWithGradients | None,
    path: Path,
) -> dict[str, RowKernel]:
    """K among the training rows, and from the other texts to them, read where it is there."""
    names = ("among",) + ("other",) * (other is not None)
    if not path.exists():
        subject = studied_model(classifier.model, classifier.tokenizer, SETTINGS.max_length)
        request = trained_request(subject, method)
        sides = [train] if other is None else [train, other]
        blocks = {"among": (0, 0), "other": (1, 0)}
        options = Options(device="cpu", memory="4GB")
        found = RowKernels(
            subject, request, sides, tuple(blocks[name] for name in names), options
        ).run()
        arrays = {
            f"{name} {part}": getattr(found[blocks[name]], part)
            for name in names
            for part in ("head", "encoder")
        }
        np.savez(path, **arrays)
    content = np.load(path)
    return {name: RowKernel(content[f"{name} head"], content[f"{name} encoder"]) for name in names}


def sketch(classifier: Classifier, side: TextsWithGradients, path: Path) -> np.ndarray:
    """Gradients of the log odds by plain autograd, summed into random buckets with random signs.

    A count sketch keeps inner products in the mean, as TRAK's dense projections do, at the cost of
    one pass over the gradient.
    """
    if path.exists():
        return np.load(path)
    model = classifier.model
    table = model.encoder.get_input_embeddings().weight
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    buckets = [torch.randint(SKETCH, p.shape, generator=generator) for p in parameters]
    signs = [2.0 * torch.randint(2, p.shape, generator=generator) - 1 for p in parameters]
    rows = np.zeros((len(side.tokens), SKETCH), dtype=np.float32)
    for row in range(len(rows)):
        batch = side.tokens.batch([row])
        logits = model.head(model.features(**batch))[0]
        output = logits @ torch.from_numpy(side.gradient[row]).to(logits)
        gradients = torch.autograd.grad(output, parameters, allow_unused=True)
        total = torch.zeros(SKETCH)
        for parameter, gradient, bucket, sign in zip(
            parameters, gradients, buckets, signs, strict=True
        ):
            if gradient is None:
                continue
            if parameter is table:  # the other rows are zero
                used = batch["input_ids"].unique()
                gradient, bucket, sign = gradient[used], bucket[used], sign[used]
            total.index_add_(0, bucket.flatten(), (gradient * sign).flatten())
        rows[row] = total.numpy()
    np.save(path, rows)
    return rows


def explained(
    classifier: Classifier, texts: list, labels: np.ndarray
) -> tuple[TextsWithGradients, np.ndarray, np.ndarray]:
    """The texts with the gradients of their labels' log odds, the logits, and the log odds."""
    tokens = tokenize(classifier.tokenizer, texts, classifier.max_length)
    features = extract_features(classifier.model, tokens, device=CPU)
    logits = head_logits(classifier.model, features).astype(np.float64)
    odds, gradient = log_odds(logits, labels)
    return TextsWithGradients(tokens, features, gradient), logits, odds


def cosine(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosine similarity of features about the mean of the columns."""
    rows, columns = rows - columns.mean(0), columns - columns.mean(0)
    unit = [of / np.linalg.norm(of, axis=1, keepdims=True) for of in (rows, columns)]
    return unit[0] @ unit[1].T


def datamodeling(name: str, kind: str, data_dir: Path, cells: Path) -> dict[str, Any]:
    """The score of every way to attribute, for one data set and method."""
    pool = read_pool(name, data_dir)
    every = np.load(cells / f"half_{name}_-1.npz")
    drawn, tested = every["drawn"], every["tested"]
    labels, test_labels = pool.labels[drawn], pool.test_labels[tested]
    classifier = load_classifier(cells / f"model_{name}_{kind}")
    train, logits, odds = explained(classifier, [pool.texts[row] for row in drawn], labels)
    test, test_logits, _ = explained(
        classifier, [pool.test_texts[row] for row in tested], test_labels
    )
    others = np.setdiff1d(np.arange(len(pool.labels)), drawn)
    others = np.random.default_rng(1).choice(others, VALIDATION, replace=False)
    _, held_out, _ = explained(classifier, [pool.texts[r] for r in others], pool.labels[others])
    temperature = fit_temperature(held_out, pool.labels[others]).temperature
    calm = expit(-log_odds(logits / temperature, labels)[0])
    sure = expit(-odds)
    found = kernels(classifier, kind, train, test, cells / f"kernel_{name}_{kind}.npz")
    halves = [np.load(path) for path in sorted(cells.glob(f"half_{name}_*.npz"))]
    halves = [half for half in halves if len(half["chosen"]) < ROWS]
    inside = np.zeros((len(halves), ROWS))
    for number, half in enumerate(halves):
        inside[number, half["chosen"]] = 1
    field = "lp" if kind == "lp" else "tuned"
    actual = np.stack([log_odds(half[field], test_labels)[0] for half in halves])

    def score(scores: np.ndarray) -> float:
        sums = inside @ scores.T
        found = [spearmanr(sums[:, t], actual[:, t]).statistic for t in range(TESTED)]
        return round(float(np.nanmean(found)), 3)

    part = "head" if kind == "lp" else "total"
    kernel, among = (getattr(found[block], part) for block in ("other", "among"))
    result = {
        "regression": score(regressed(kernel, among, calm)),
        **{
            f"regression, lambda {strength}": score(regressed(kernel, among, calm, strength))
            for strength in (0.3, 1.0, 10.0)
        },
        "regression, uncalibrated residuals": score(regressed(kernel, among, sure)),
        "first-order": score(first_order(kernel, calm)),
        "first-order, uncalibrated residuals (TracIn)": score(first_order(kernel, sure)),
        "cosine of features, signed by equal labels": score(
            cosine(test.features, train.features) * np.where(test_labels[:, None] == labels, 1, -1)
        ),
    }
    if kind != "lp":
        for one in ("head", "encoder"):
            part_kernel, part_among = (getattr(found[block], one) for block in ("other", "among"))
            result[f"regression, {one} alone"] = score(regressed(part_kernel, part_among, calm))
        projected = [
            sketch(classifier, side, cells / f"sketch_{name}_{kind}_{which}.npy")
            for which, side in (("train", train), ("test", test))
        ]
        kernel, among = projected[1] @ projected[0].T, projected[0] @ projected[0].T
        among = among.astype(np.float64)
        result["TRAK-like sketch, calibrated"] = score(regressed(kernel, among, calm))
        result["TRAK-like sketch"] = score(regressed(kernel, among, sure))
    return {
        "halves": len(halves),
        "temperature": round(temperature, 3),
        "test_accuracy": round(float((test_logits.argmax(1) == test_labels).mean()), 3),
        "score": result,
    }


def wrong_labels(name: str, draw: int, data_dir: Path, cells: Path) -> dict[str, Any]:
    """The AUROC of every way to find wrong labels, in one draw."""
    pool = read_pool(name, data_dir)
    content = np.load(cells / f"noisy_{name}_{draw}.npz")
    labels, texts = content["labels"], [pool.texts[row] for row in content["rows"]]
    wrong = np.isin(np.arange(NOISY_ROWS), content["wrong"])
    classifier = load_classifier(cells / f"noisy_{name}_{draw}")
    train, logits, odds = explained(classifier, texts, labels)
    calm = expit(-log_odds(logits / classifier.model.config.temperature, labels)[0])
    found = kernels(classifier, "lp-ft", train, None, cells / f"noisy-kernel_{name}_{draw}.npz")
    among = found["among"].total
    projected = sketch(classifier, train, cells / f"noisy-sketch_{name}_{draw}.npy")
    sketched = (projected @ projected.T).astype(np.float64)

    def margins(kernel: np.ndarray, *strength: float) -> np.ndarray:
        return -left_out_margins(kernel, train.gradient, labels, *strength)

    # cleanlab on out-of-fold probabilities of probes on the frozen features, as lpft check does
    start = fresh(pool)
    inputs = read(start, texts, labels)
    names = start.model.config.classes
    probe = cached_probe(inputs, SETTINGS, names)
    out_of_fold = cached_out_of_fold_logits(inputs, SETTINGS, probe, names)
    chance = softmax(out_of_fold / fit_temperature(out_of_fold, labels).temperature, axis=1)

    def neighbours(features: np.ndarray) -> np.ndarray:
        near = cosine(features, features)
        np.fill_diagonal(near, -np.inf)
        return (labels[np.argsort(-near, axis=1)[:, :10]] != labels[:, None]).mean(1)

    scores = {
        "left-out margin (lpft explain)": margins(among),
        **{
            f"left-out margin, lambda {strength:g}": margins(among, strength)
            for strength in (0.3, 1.0, 10.0)
        },
        "left-out margin, head alone": margins(found["among"].head),
        "self-influence": np.diag(among) * calm**2,
        "left-out margin, TRAK-like sketch": margins(sketched),
        "self-influence, TRAK-like sketch": np.diag(sketched) * calm**2,
        "loss": -odds,
        "10 neighbours by cosine, trained features": neighbours(train.features),
        "10 neighbours by cosine, frozen features": neighbours(inputs.pretrained),
        "cleanlab (lpft check --label-errors)": -get_label_quality_scores(labels, chance),
    }
    return {
        "train_accuracy": round(float((odds > 0).mean()), 3),
        "auroc": {way: round(float(roc_auc_score(wrong, of)), 3) for way, of in scores.items()},
    }


def summary(cells: Path) -> dict[str, Any]:
    """All scores that are there; of planted labels the mean over draws, and the draws."""
    scores = {
        path.stem: json.loads(path.read_text()) for path in sorted(cells.glob("score_*.json"))
    }
    result: dict[str, Any] = {"datamodeling": {}, "wrong_labels": {}}
    draws: dict[str, list[dict[str, Any]]] = {}
    for stem, values in scores.items():
        _, what, name, which = stem.split("_")
        if what == "lds":
            result["datamodeling"][f"{name} {which}"] = values
        else:
            draws.setdefault(name, []).append(values)
    for name, of in draws.items():
        means = {
            way: round(statistics.mean(one["auroc"][way] for one in of), 3)
            for way in of[0]["auroc"]
        }
        result["wrong_labels"][name] = {"mean": means, "draws": of}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--stage", choices=("train", "score"))
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if options.summary:
        record("explain", summary(options.cells))
        return
    options.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    where = (options.data_dir, options.cells)
    for name in options.data.split(","):
        if options.stage == "train":
            train_halves(name, *where)
            train_noisy(name, *where)
            continue
        for kind in ("lp", "lp-ft"):
            cell(options.cells / f"score_lds_{name}_{kind}.json", datamodeling, name, kind, *where)
        for draw in range(DRAWS):
            if (options.cells / f"noisy_{name}_{draw}.npz").exists():
                path = options.cells / f"score_noise_{name}_{draw}.json"
                cell(path, wrong_labels, name, draw, *where)


def cell(path: Path, compute: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """Write what is computed to ``path``, unless it is there."""
    if not path.exists():
        path.write_text(json.dumps(compute(*arguments), indent=2) + "\n")
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
