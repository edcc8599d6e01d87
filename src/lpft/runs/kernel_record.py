"""What ``lpft ntk`` keeps of one method's kernels: statistics and arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.ntk import EmpiricalNTK
from lpft.ntk.regression import KernelPair, ValidationSet
from lpft.ntk.statistics import (
    frobenius_norm,
    ft_ratio,
    heat_map,
    kernel_spectrum,
    kernel_statistics,
    kernel_trace,
)
from lpft.runs.kernel_starts import Start
from lpft.runs.kernel_texts import (
    EVALUATION,
    REVERSED,
    TRAIN,
    VALIDATION,
    Block,
    KernelTexts,
    labels_of,
)

Array = NDArray[np.float64]
PRETRAIN_EFFECTIVE, FT_EFFECTIVE, NTK = "pretrain_effective", "ft_effective", "ntk"
KERNELS = (PRETRAIN_EFFECTIVE, FT_EFFECTIVE, NTK)


class MethodKernels:
    """The kernels of one method's start as NumPy arrays, with its logits f_0."""

    def __init__(
        self, start: Start, blocks: Mapping[Block, EmpiricalNTK], texts: KernelTexts, classes: int
    ) -> None:
        self.start = start
        self.texts = texts
        self.classes = classes
        self.blocks = blocks
        self.train_logits = self._logits(TRAIN)
        self.evaluation_logits = self._logits(EVALUATION)

    def block(self, kernel: str, which: Block) -> Array:
        """P (N x M), F or P + F (N x C x M x C) of one block."""
        found = self.blocks[which]
        return np.asarray((found.total() if kernel == NTK else getattr(found, kernel)).numpy())

    def pair(self, kernel: str) -> KernelPair:
        """What kernel regression learns from and predicts with."""
        reverse = self.block(kernel, REVERSED) if REVERSED in self.blocks else None
        return KernelPair(
            self.block(kernel, TRAIN), self.block(kernel, EVALUATION), self.classes, reverse
        )

    def validation_set(self, kernel: str) -> ValidationSet | None:
        """The texts that choose the strength of kernel regression, if there are such."""
        if self.texts.validation is None:
            return None
        return ValidationSet(
            self.block(kernel, VALIDATION),
            labels_of(self.texts.validation),
            self._logits(VALIDATION),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors of ``<method>.safetensors``."""
        kept: dict[str, NDArray[Any]] = {}
        parts = (
            ("train", TRAIN, self.texts.train),
            ("eval", EVALUATION, self.texts.evaluation),
            ("validation", VALIDATION, self.texts.validation),
        )
        for part, which, examples in parts:
            if examples is not None:
                kept[f"{part}/labels"] = labels_of(examples)
                kept[f"{part}/logits"] = self._logits(which)
                for kernel in (PRETRAIN_EFFECTIVE, FT_EFFECTIVE):
                    kept[f"{part}/{kernel}"] = self.block(kernel, which)
        for kernel in KERNELS:
            kept[f"train/heat_map/{kernel}"] = heat_map(self.block(kernel, TRAIN), self.classes)
        for by in ("layers", "kinds"):
            for name, values in getattr(self.blocks[TRAIN], by).items():
                kept[f"train/ft_effective/{by}/{name}"] = values.numpy()
        return {name: np.ascontiguousarray(array) for name, array in kept.items()}

    def record(self) -> dict[str, Any]:
        """The method's entry of ``kernels.json``, without kernel regression."""
        train = self.blocks[TRAIN]
        ratio = ft_ratio(
            self.block(PRETRAIN_EFFECTIVE, TRAIN),
            self.block(FT_EFFECTIVE, TRAIN),
            labels_of(self.texts.train),
            self.train_logits,
        )
        return {
            "head_start": self.start.head_start,
            "head_rank": train.record["head_rank"],
            "head_norm": float(self.start.weight.norm()),
            "parameter_set": self.start.parameter_set,
            "parameters": train.record["parameters"],
            "ft_ratio": ratio.ratio,
            "kernels": {kernel: self._statistics(kernel) for kernel in KERNELS},
            "layers": _parts(train.layers),
            "kinds": _parts(train.kinds),
            "certificate": train.certificate.as_record(),
            "products_error": train.products_error,
        }

    def _statistics(self, kernel: str) -> dict[str, Any]:
        train, table = self.blocks[TRAIN], self.block(kernel, TRAIN)
        if kernel == FT_EFFECTIVE:
            spectrum = train.spectrum
        else:
            spectrum = kernel_spectrum(table, self.classes, symmetric=train.symmetric)
        return kernel_statistics(table, self.classes, spectrum=spectrum)

    def _logits(self, which: Block) -> Array:
        """f_0 of a block's rows."""
        features = self.blocks[which].row_features.numpy()
        bias = 0.0 if self.start.bias is None else self.start.bias.double().numpy()
        return np.asarray(features @ self.start.weight.double().numpy().T + bias)


def _parts(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {"trace": kernel_trace(part.numpy()), "frobenius_norm": frobenius_norm(part.numpy())}
        for name, part in parts.items()
    }
