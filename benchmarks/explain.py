"""Which training rows a prediction rests on, and which labels are wrong: the kernel beside others.

Two measures, on rows of SST-2 and TREC with MiniLM.

- The linear datamodeling score (Park et al., ICML 2023): 50 halves of the training rows are trained
  on again, and the log-odds of the true class of 100 test texts is compared with the sum of the
  scores of the half's rows, by Spearman's correlation over the halves; the mean over the texts. What
  is trained again: linear probing, and LP-FT by AdamW with the run's own rate for three epochs. The
  strength of the probe is that of all rows.
- The AUROC of 10 % planted wrong labels among 500 rows, by the classifier that was trained on them
  as ``TextClassifier(method="lp-ft")`` trains, with 200 validation rows.

Each training and each set of scores is kept in a file of its own, so that a stopped benchmark goes
on where it was.

    python benchmarks/explain.py --data-dir DIR --cells DIR
    python benchmarks/explain.py --cells DIR --summary
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from few_rows import Pool, read_pool

from lpft import TextClassifier
from lpft.data import Examples
from lpft.data.tokens import Tokens
from lpft.model import Classifier, build_classifier, load_classifier, save_classifier
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint, extract_features, head_logits
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import cached_probe, prepare_split
from lpft.training.probing import LinearProbe, fit_probe, install_probe

DATA = ("sst2", "trec")
ROWS, TESTED, HALVES, EPOCHS = 300, 100, 50, 3
"""Of the linear datamodeling score."""
NOISY_ROWS, VALIDATION, WRONG, DRAWS = 500, 200, 0.1, 3
"""Of the planted labels."""
SETTINGS = resolve(TrainingSettings(method="lp-ft", device="cpu", max_length=64))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rows:
    """Texts by their tokens, class indices, and the frozen features (N x h)."""

    tokens: Tokens
    labels: np.ndarray
    pretrained: np.ndarray


def read(classifier: Classifier, texts: list, labels: np.ndarray) -> Rows:
    examples = Examples([str(row) for row in range(len(labels))], list(texts), labels)
    encoder = encoder_fingerprint(classifier.model)
    inputs = prepare_split(classifier, examples, SETTINGS, encoder=encoder, name="rows")
    return Rows(inputs.tokens, labels, inputs.pretrained)


def fresh(pool: Pool) -> Classifier:
    names = tuple(map(str, range(pool.classes)))
    return build_classifier("minilm", names, seed=0, max_length=SETTINGS.max_length)


def finetune(classifier: Classifier, rows: Rows, probe: LinearProbe, seed: int) -> None:
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


def subset(rows: Rows, chosen: np.ndarray) -> Rows:
    return Rows(rows.tokens.select(chosen), rows.labels[chosen], rows.pretrained[chosen])


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
    inputs = prepare_split(
        classifier,
        Examples([str(row) for row in drawn], [pool.texts[row] for row in drawn], train.labels),
        SETTINGS,
        encoder=encoder_fingerprint(classifier.model),
        name="rows",
    )
    strength = cached_probe(inputs, SETTINGS, names).inverse_strength
    for number in range(-1, HALVES):
        path = cells / f"half_{name}_{number}.npz"
        if path.exists():
            continue
        chosen = np.arange(ROWS)
        if number >= 0:
            chosen = np.sort(np.random.default_rng(number).permutation(ROWS)[: ROWS // 2])
        part = subset(train, chosen)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--data", default=",".join(DATA))
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.data.split(","):
        train_halves(name, options.data_dir, options.cells)
        train_noisy(name, options.data_dir, options.cells)


if __name__ == "__main__":
    main()
