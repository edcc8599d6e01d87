"""A small writer of folders of kernels from random gradients, in the shapes of ``lpft ntk``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lpft.ntk.statistics import alignment_matrix, ft_ratio, heat_map, kernel_statistics
from lpft.results.kernels import KernelRecord

CLASSES = ("contradiction", "entailment", "neutral")
# Where the head comes from, what F is scaled with, and how many directions F has.
METHODS = {
    "ft": ("random", 0.05, 90),
    "lora": ("random", 1e-4, 60),
    "lp-ft": ("lp", 30.0, 45),
    "lp-lora": ("lp", 0.1, 40),
}
LAYERS = ("embeddings", *(f"encoder.layer.{i}" for i in range(6)))
KINDS = ("embeddings", "attention", "feed-forward", "LayerNorm", "bias")


@dataclass(frozen=True)
class Kernels:
    """The arrays of one method: P, F and P + F of training texts, labels and logits."""

    pretrain: np.ndarray
    ft: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    def total(self) -> np.ndarray:
        classes = self.ft.shape[1]
        return self.ft + np.einsum("nm,cd->ncmd", self.pretrain, np.eye(classes))


def random_kernels(
    method: str, samples: int, classes: int, *, scale: float, directions: int, seed: int = 0
) -> Kernels:
    """Kernels of clustered features and gradients; P is the same for one seed, labels for all."""
    ordered = np.minimum(np.arange(samples) * 2 * classes // samples, classes - 1)
    labels = np.random.default_rng(0).permutation(ordered)
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 12))
    features = 2 + 0.4 * centres[labels] + 0.2 * rng.normal(size=(samples, 12))
    rng = np.random.default_rng([seed, sum(map(ord, method))])
    shared = rng.normal(size=(classes, classes, directions))
    decay = np.exp(-6.0 * np.arange(directions) / directions)
    psi = (0.7 * shared[labels] + rng.normal(size=(samples, classes, directions))) * decay
    psi -= psi.mean(axis=1, keepdims=True) * (method.startswith("lp"))
    return Kernels(
        pretrain=features @ features.T + 1,
        ft=scale * np.einsum("ncp,mdp->ncmd", psi, psi, optimize=True),
        labels=labels,
        logits=rng.normal(size=(samples, classes)),
    )


def regression(method: str, kernel: str, classes: int) -> dict[str, Any]:
    """Accuracies in the shape of the solvers', different for every kernel."""
    shift = 0.01 * list(METHODS).index(method) if kernel != "pretrain_effective" else 0.0
    shift += {"pretrain_effective": 0.0, "ft_effective": 0.004, "ntk": 0.006}[kernel]
    return {
        "paper": {
            "train_accuracy": 0.90 + shift,
            "test_accuracy": 0.80 + shift,
            "constant_accuracy": (classes - 1) / classes,
            "train_text_accuracy": 0.86 + shift,
            "test_text_accuracy": 0.71 + shift,
        },
        "kernel_logistic_regression": {
            "train_accuracy": 0.85 + shift,
            "test_accuracy": 0.70 + shift,
            "strength": 1.0,
        },
        "kernel_ridge_regression": {"train_accuracy": 0.84 + shift, "test_accuracy": 0.69 + shift},
    }


def write_kernels(
    folder: Path,
    *,
    methods: tuple[str, ...] = tuple(METHODS),
    samples: int = 60,
    classes: tuple[str, ...] = CLASSES,
    data_name: str = "cb",
    model: str = "minilm",
    kernel: str = "sgd",
    seed: int = 0,
    regressed: bool = True,
    tensors: bool = True,
    **changes: Any,
) -> Path:
    """Write one folder of kernels and return it; ``changes`` replace keys of the record."""
    folder.mkdir(parents=True)
    count = len(classes)
    by_method: dict[str, Any] = {}
    aligned: dict[str, np.ndarray] = {}
    for method in methods:
        start, scale, directions = METHODS[method]
        arrays = random_kernels(
            method, samples, count, scale=scale, directions=directions, seed=seed
        )
        found = {
            "pretrain_effective": arrays.pretrain,
            "ft_effective": arrays.ft,
            "ntk": arrays.total,
        }
        aligned.setdefault("pretrain_effective", arrays.pretrain)
        aligned |= {f"{method}/{name}": found[name] for name in ("ft_effective", "ntk")}
        by_method[method] = {
            "head_start": start,
            "head_rank": count - 1 if start == "lp" else count,
            "head_norm": 12.5 if start == "lp" else 0.55,
            "parameters": 1000 if "lora" in method else 22_000_000,
            "ft_ratio": ft_ratio(arrays.pretrain, arrays.ft, arrays.labels, arrays.logits).ratio,
            "kernels": {
                name: {
                    **kernel_statistics(table, count),
                    "regression": regression(method, name, count) if regressed else None,
                }
                for name, table in found.items()
            },
            "layers": _parts(LAYERS, record_trace(arrays.ft), lora="lora" in method),
            "kinds": _parts(KINDS, record_trace(arrays.ft), lora="lora" in method),
            "products_error": None,
            "certificate": {
                "asymmetry": 0.0,
                "smallest_eigenvalue": -1.2e-9,
                "largest_eigenvalue": float(
                    np.linalg.norm(arrays.total.reshape(samples * count, -1), 2)
                ),
                "entries_checked": 8,
                "products_checked": 1,
                "largest_relative_error": 3.1e-7,
            },
        }
        if tensors:
            _save_tensors(folder / f"{method}.safetensors", arrays, found, count)
    record = {
        "schema": 1,
        "data": {
            "name": data_name,
            "classes": list(classes),
            "rows": {"train": samples, "eval": 20},
            "eval_split": "test",
        },
        "model": model,
        "kernel": kernel,
        "dtype": "float32",
        "seed": seed,
        "max_length": 128,
        "config": {"task": data_name, "memory": "6GB", "output_dir": str(folder)},
        "methods": by_method,
        "alignment": alignment_matrix(aligned),
        "plan": {"passes": [{"texts": 80, "methods": {"materialize": 36, "sandwich": 2}}]},
        "timings": {"kernel_seconds": 12.3, "regression_seconds": 130.0},
        "environment": {"python": "3.11.9", "device": "cpu"},
    }
    KernelRecord.model_validate(record | changes).write(folder)
    return folder


def record_trace(kernel: np.ndarray) -> float:
    return float(np.einsum("ncnc->", kernel))


def _parts(names: tuple[str, ...], trace: float, *, lora: bool) -> dict[str, dict[str, float]]:
    """Shares 1, 2, 3, ... of a trace; of LoRA only those of attention or of layers."""
    there = [name for name in names if not lora or "layer." in name or name == "attention"]
    weights = {name: place + 1 for place, name in enumerate(there)}
    total = sum(weights.values())
    return {
        name: {"trace": trace * weight / total, "frobenius_norm": weight**0.5}
        for name, weight in weights.items()
    }


def _save_tensors(path: Path, arrays: Kernels, found: dict[str, np.ndarray], classes: int) -> None:
    maps = {
        f"train/heat_map/{name}": heat_map(table, classes).astype(np.float32)
        for name, table in found.items()
    }
    rows = arrays.labels[:20]
    save_file(
        {
            "train/pretrain_effective": arrays.pretrain,
            "train/ft_effective": arrays.ft,
            "train/labels": arrays.labels,
            "train/logits": arrays.logits,
            "eval/pretrain_effective": arrays.pretrain[:20],
            "eval/ft_effective": arrays.ft[:20],
            "eval/labels": rows,
            "eval/logits": arrays.logits[:20],
            **maps,
        },
        path,
    )


def path_record(epochs: int = 3) -> dict[str, Any]:
    """A path whose drift grows by 0.08 and whose error by 0.03 at every epoch."""
    names = ("pretrain_effective", "ft_effective", "ntk")
    points = [
        {
            "epoch": float(epoch),
            "head_norm": 2.0 + 0.1 * epoch,
            "feature_difference": 0.4 * epoch,
            "drift": {name: 0.04 * place * epoch for place, name in enumerate(names)},
            "alignment_with_start": dict.fromkeys(names, 1 - 0.1 * epoch),
            "alignment_with_labels": dict.fromkeys(names, 0.3 + 0.05 * epoch),
            "linearization_error": dict.fromkeys(
                ("train", "eval"), 0.03 * epoch if epoch else None
            ),
            "layers": dict.fromkeys(LAYERS, 0.01 * epoch),
            "kinds": dict.fromkeys(KINDS, 0.02 * epoch),
        }
        for epoch in range(epochs + 1)
    ]
    return {
        "answer": "no",
        "until": 1.0,
        "largest": {"drift": 0.08 * epochs, "linearization_error": 0.03 * epochs},
        "limits": {"drift": 0.1, "linearization_error": 0.1},
        "kept_epoch": 2.0,
        "points": points,
    }
