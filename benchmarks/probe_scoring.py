"""Linear probing of few rows: its strength chosen by accuracy or by log loss of the same folds.

    python benchmarks/probe_scoring.py --data-dir DIR

Test accuracy, NLL without temperature, and the spread of log10 C over draws. The features are
MiniLM's; records results/probe_scoring.json.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import record
from few_rows import TEST_ROWS, read_pool

from lpft import TextClassifier
from lpft.analysis.calibration import negative_log_likelihood
from lpft.settings import ProbeScoring
from lpft.training.probing import fit_probe

DATA = ("sst2", "trec", "cb", "csabstruct", "banking77")
SIZES = ("8-per-class", "16-per-class", "64-per-class", "500-rows")
DRAWS = 6


def compare(name: str, data_dir: Path) -> list[dict[str, Any]]:
    """A row for each size and scoring of one data set."""
    pool = read_pool(name, data_dir)
    draws = {
        (size, seed): rows
        for size in SIZES
        for seed in range(DRAWS)
        if (rows := pool.draw(size, seed)) is not None and len(rows) <= TEST_ROWS
    }
    encoder = TextClassifier.untrained("minilm", ["a", "b"], max_length=128)
    used = np.unique(np.concatenate(list(draws.values())))
    features = encoder.features([pool.texts[row] for row in used])
    test = encoder.features(pool.test_texts)
    compared: list[dict[str, Any]] = []
    for size in SIZES:
        for scoring in get_args(ProbeScoring):
            scores = []
            for seed in range(DRAWS):
                if (size, seed) not in draws:
                    continue
                chosen = draws[size, seed]
                inputs = features[np.searchsorted(used, chosen)]
                labels = pool.labels[chosen]
                probe = fit_probe(inputs, labels, pool.classes, scoring=scoring)
                logits = test @ probe.weight.T + probe.bias
                accuracy = float((logits.argmax(axis=1) == pool.test_labels).mean())
                nll = negative_log_likelihood(logits, pool.test_labels)
                scores.append((accuracy, nll, float(np.log10(probe.inverse_strength))))
            if scores:
                accuracies, nlls, strengths = zip(*scores, strict=True)
                compared.append(
                    {
                        "data": name,
                        "size": size,
                        "scoring": scoring,
                        "draws": len(scores),
                        "accuracy": round(statistics.mean(accuracies), 4),
                        "nll": round(statistics.mean(nlls), 4),
                        "sd of log10 C": round(statistics.pstdev(strengths), 2),
                    }
                )
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="official release files")
    data_dir = parser.parse_args().data_dir
    record("probe_scoring", {"rows": [row for name in DATA for row in compare(name, data_dir)]})


if __name__ == "__main__":
    main()
