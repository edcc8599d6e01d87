"""Linear probing before and after contrastive tuning on the draws of benchmarks/auto.py.

Both probes are fitted on all drawn rows and scored on the test rows: the method ``contrastive``
without its folds, which take five more trainings to calibrate it and to choose between the two.
Each draw is kept in a file of its own, so that a stopped benchmark goes on where it was.

    python benchmarks/contrastive.py --data-dir DIR --cells DIR --data trec,sst2 --size 8 --seeds 5
        [--learning-rate 2e-4]
    python benchmarks/contrastive.py --cells DIR --summary [--learning-rate 2e-4]
        [--setfit-cells DIR]

``--setfit-cells`` is the folder of benchmarks/alternatives.py with SetFit on the same draws.
"""

import argparse
import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from common import CPU, record
from few_rows import Pool, read_pool

from lpft.data import Examples
from lpft.model import build_classifier
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint, extract_features, head_logits
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import cached_probe, prepare_split
from lpft.training.contrastive import tune_for
from lpft.training.probing import install_probe

MAX_LENGTH = 128


def cell(pool: Pool, rows: np.ndarray, seed: int, learning_rate: float | None) -> dict[str, Any]:
    """Test accuracy of the probe before and after tuning, and the CPU seconds of tuning."""
    settings = resolve(
        TrainingSettings(
            method="contrastive",
            seed=seed,
            learning_rate=learning_rate,
            device="cpu",
            max_length=MAX_LENGTH,
        )
    )
    names = tuple(map(str, range(pool.classes)))
    classifier = build_classifier("minilm", names, seed=seed, max_length=MAX_LENGTH)
    model, encoder = classifier.model, encoder_fingerprint(classifier.model)
    texts = {"train": [pool.texts[row] for row in rows], "test": pool.test_texts}
    labels = {"train": pool.labels[rows], "test": pool.test_labels}
    train, test = (
        prepare_split(
            classifier,
            Examples([str(row) for row in range(len(labels[name]))], texts[name], labels[name]),
            settings,
            encoder=encoder,
            name=name,
        )
        for name in texts
    )

    def accuracy(features: np.ndarray) -> float:
        return float((head_logits(model, features).argmax(1) == test.labels).mean())

    probe = cached_probe(train, settings, names)
    install_probe(model.head, probe)
    before, started = accuracy(test.pretrained), process_time()
    with seeded(seed), tempfile.TemporaryDirectory() as folder:
        tune_for(
            model,
            train,
            settings,
            strength=probe.inverse_strength,
            folder=Path(folder),
            on_history=lambda _: None,
        )
    seconds = process_time() - started
    after = accuracy(extract_features(model, test.tokens, device=CPU))
    return {"rows": len(rows), "lp": before, "tuned": after, "cpu_seconds": round(seconds, 1)}


def summary(folder: Path, setfit: Path | None) -> dict[str, dict[str, Any]]:
    """Of each set and size: mean and standard deviation over the draws, and the draws."""
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        name, size, seed = path.stem.split("_")
        draw = {"seed": int(seed), **json.loads(path.read_text())}
        if setfit is not None:
            other = setfit / f"{name}_{size}_setfit_{seed}.json"
            draw["setfit"] = json.loads(other.read_text()) if other.is_file() else None
        sets.setdefault(name, {}).setdefault(size, {"draws": []})["draws"].append(draw)
    for sizes in sets.values():
        for measured in sizes.values():
            for key in ("lp", "tuned"):
                values = [draw[key] for draw in measured["draws"]]
                deviation = statistics.stdev(values) if len(values) > 1 else None
                measured[key] = {"mean": statistics.fmean(values), "sd": deviation}
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished draws")
    parser.add_argument("--data", default="trec,sst2,banking77", help="sets, with commas")
    parser.add_argument("--size", default="8,16", help="rows per class, with commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, help="default: that of the method")
    parser.add_argument("--summary", action="store_true", help="record each set, train nothing")
    parser.add_argument("--setfit-cells", type=Path, help="with --summary: SetFit on these draws")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    if options.summary:
        rate = "" if options.learning_rate is None else f"_at_{options.learning_rate:g}"
        for name, sizes in summary(options.cells, options.setfit_cells).items():
            record(f"contrastive_{name}{rate}", sizes)
        return
    for seed, name, size in product(
        range(options.first_seed, options.first_seed + options.seeds),
        options.data.split(","),
        options.size.split(","),
    ):
        path = options.cells / f"{name}_{size}-per-class_{seed}.json"
        if path.is_file():
            continue
        pool = read_pool(name, options.data_dir)
        rows = pool.draw(f"{size}-per-class", seed)
        if rows is None:
            print(f"{name} has too few rows for {size} per class")
            continue
        result = cell(pool, rows, seed, options.learning_rate)
        path.write_text(json.dumps(result))
        print(path.stem, result, flush=True)


if __name__ == "__main__":
    main()
