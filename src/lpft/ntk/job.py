"""Kernels of one encoder for several heads and sets of parameters, in one pass."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import transformers
from torch import Tensor

from lpft import __version__
from lpft.data.examples import Text
from lpft.errors import InputError
from lpft.model.adapters import adapter_settings
from lpft.model.encoder import feature_size
from lpft.model.fingerprint import encoder_fingerprint
from lpft.ntk.assembly import ft_effective, pretrain_effective
from lpft.ntk.certificate import check_entries, parameter_chunks
from lpft.ntk.devices import kernel_device
from lpft.ntk.engine import Sweep, sweep
from lpft.ntk.heads import HeadRows, row_space, rows_as_they_are
from lpft.ntk.inputs import Subject, joined
from lpft.ntk.layout import Layout, Pair
from lpft.ntk.memory import default_budget, memory_in_use, parse_size
from lpft.ntk.options import Options, check_options
from lpft.ntk.plan import Demand, Plan
from lpft.ntk.planner import make_plan
from lpft.ntk.precision import computed_in
from lpft.ntk.requests import KernelRequest, check_requests
from lpft.ntk.result import EmpiricalNTK
from lpft.ntk.sums import TOTAL, Request, distinct_heads
from lpft.ntk.tiles import TileStore
from lpft.ntk.trial import examine

_TEXTS_OF_PRODUCTS_CHECK = 6

Kernels = dict[str, dict[Pair, EmpiricalNTK]]
"""By name of the request and block."""


class KernelJob:
    """Kernels of one encoder for several heads and sets of parameters, in one pass.

    ``plan`` says how they will be computed; one that was begun in ``cache_dir`` is gone on with
    in its own layout. The caller's precision and gradient modes do not matter.

    Args:
        requests: by name.
        groups: lists of texts; the first is that of the rows in training.
        blocks: pairs (i, j) of groups: kernels with rows from group i and columns from group j.
        detailed: the blocks that are split into parts and whose entries are checked (all).

    Raises:
        InputError: as :func:`lpft.ntk.empirical_ntk`, or a request that the encoder cannot meet.
    """

    def __init__(
        self,
        subject: Subject,
        requests: Mapping[str, KernelRequest],
        groups: Sequence[Sequence[Text]],
        blocks: tuple[Pair, ...],
        options: Options,
        *,
        detailed: Sequence[Pair] | None = None,
    ) -> None:
        check_options(options)
        check_requests(subject, requests, len(groups), blocks)
        self._options = options
        self._device = kernel_device(options.device)
        if options.products == "tf32" and self._device.type != "cuda":
            raise InputError("products tf32 need a CUDA device: use exact or bfloat16 here")
        if len({isinstance(group[0], tuple) for group in groups if group}) > 1:
            raise InputError("some lists hold single texts and others pairs: give one kind")
        self._requests = dict(requests)
        self._blocks = blocks
        self._detailed = frozenset(blocks if detailed is None else detailed)
        self._texts = [text for group in groups for text in group]
        self._groups = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        with computed_in(options.dtype):
            self._subject = subject.on(self._device, options.dtype)
            self._tokens = joined([self._subject.tokens(group) for group in groups])
            self._inner = self._inner_requests()
            self._wanted = [
                name
                for name, _ in self._subject.classifier.encoder.named_parameters()
                if any(name in request.parameters for request in self._inner)
            ]
            self._structure = examine(self._subject.classifier, self._tokens, self._wanted)
            self.plan = self._make_plan(None)

    def run(self) -> Kernels:
        """The kernels by name and block."""
        with computed_in(self._options.dtype):
            error = None if self._options.products == "exact" else self._products_error()
            return self._computed(error)

    def _computed(self, products_error: float | None = None) -> Kernels:
        started = perf_counter()
        store = None
        if self._options.cache_dir is not None:
            folder = Path(self._options.cache_dir)
            begun = Layout.read(folder)
            if begun is not None and begun != self.plan.layout:
                self.plan = self._make_plan(begun)
            store = TileStore(folder, self.plan.layout, self._fingerprints())
        swept = sweep(
            self._subject.classifier,
            self._tokens,
            self.plan,
            self._inner,
            self._options,
            store,
            self._detailed,
        )
        kernels = {
            inner.name: {block: self._kernel(inner, block, swept) for block in self._blocks}
            for inner in self._inner
        }
        shared = {
            "plan": self.plan.as_record(),
            "seconds": {**swept.seconds, "total": perf_counter() - started},
        }
        return {
            name: {
                block: replace(
                    kernel, record={**shared, **kernel.record}, products_error=products_error
                )
                for block, kernel in found.items()
            }
            for name, found in kernels.items()
        }

    def _inner_requests(self) -> list[Request]:
        """The requests with their heads' row spaces; equal heads are one."""

        def decompose(weight: Tensor) -> HeadRows:
            if self._options.kernel == "sgd":
                return row_space(weight, self._options.dtype)
            return rows_as_they_are(weight)

        heads: dict[bytes, HeadRows] = {}
        inner = []
        for name, request in self._requests.items():
            weight = request.weight.detach().cpu().double()
            key = f"{weight.shape}".encode() + weight.numpy().tobytes()
            if key not in heads:
                heads[key] = decompose(weight)
            inner.append(Request(name, heads[key], request.parameters))
        return inner

    def _make_plan(self, layout: Layout | None) -> Plan:
        heads = distinct_heads(self._inner)
        numbers = {id(head): number for number, head in enumerate(heads)}
        options = self._options
        return make_plan(
            self._structure,
            Demand(
                lengths=self._tokens.lengths,
                groups=self._groups,
                blocks=self._blocks,
                ranks=tuple(head.rank for head in heads),
                heads_of={name: self._heads_of(name, numbers) for name in self._wanted},
                kernel=options.kernel,
                method=None if options.method == "auto" else options.method,
            ),
            hidden_size=feature_size(self._subject.classifier.config.encoder_config),
            dtype=options.dtype,
            device=self._device,
            budget=default_budget(self._device)
            if options.memory is None
            else parse_size(options.memory),
            used=memory_in_use(self._device),
            accumulators=self._accumulator_bytes(),
            checked=self._checked_numbers() if options.check_entries else 0,
            layout=layout,
        )

    def _heads_of(self, parameter: str, numbers: Mapping[int, int]) -> tuple[int, ...]:
        """The numbers of the heads for which a parameter counts; heads of zeros need nothing."""
        asking = [r.head for r in self._inner if parameter in r.parameters and r.head.rank > 0]
        return tuple(sorted({numbers[id(head)] for head in asking}))

    def _checked_numbers(self) -> int:
        """How many numbers of gradients the check of entries holds at once."""
        by_name = dict(self._subject.classifier.encoder.named_parameters())
        chunks = parameter_chunks([by_name[name] for name in self._wanted])
        return max((sum(p.numel() for p in chunk) for chunk in chunks), default=0)

    def _accumulator_bytes(self) -> int:
        counts = np.bincount(self._groups)
        parts = self._structure.parts(self._options.granularity)
        entries = sum(
            int(counts[i]) * int(counts[j]) * (2 + (parts if (i, j) in self._detailed else 0))
            for i, j in self._blocks
        )
        return sum(8 * entries * (r.head.classes**2 + r.head.rank**2) for r in self._inner)

    def _kernel(self, inner: Request, block: Pair, swept: Sweep) -> EmpiricalNTK:
        request, options = self._requests[inner.name], self._options
        rows, columns = (np.flatnonzero(self._groups == group) for group in block)
        parts = {
            part: ft_effective(
                inner.head,
                sums,
                self.plan.tiles,
                self._groups,
                block,
                halved=options.kernel != "asymmetric",
            )
            for (of_request, part), sums in swept.sums.items()
            if of_request == inner.name and (part == TOTAL or block in self._detailed)
        }
        shape = (len(rows), inner.head.classes, len(columns), inner.head.classes)
        total = parts.pop(TOTAL, torch.zeros(shape, dtype=torch.float64))
        if not torch.isfinite(total).all():
            raise InputError(
                f"the kernel is not finite in {options.dtype}: the model's gradients are too large "
                "for it; compute in torch.float64, or name an intact model"
            )
        features = swept.features[rows], swept.features[columns]
        encoder = self._subject.classifier.encoder
        wanted = [p for name, p in encoder.named_parameters() if name in inner.parameters]
        return EmpiricalNTK(
            pretrain_effective=pretrain_effective(request, *features, options.kernel),
            ft_effective=total,
            row_features=features[0],
            column_features=features[1],
            symmetric=block[0] == block[1] and options.kernel != "asymmetric",
            layers=_named(parts, "layer:"),
            kinds=_named(parts, "kind:"),
            checked_entries=check_entries(
                self._subject.classifier,
                request.weight.to(self._device, options.dtype),
                wanted,
                (self._tokens, rows.tolist(), columns.tolist()),
                total,
                kernel=options.kernel,
                count=options.check_entries if block in self._detailed else 0,
            ),
            record={
                "head_rank": inner.head.rank,
                "parameters": sum(parameter.numel() for parameter in wanted),
            },
        )

    def _products_error(self) -> float:
        """Relative error of F for a few texts against the exact products."""
        rows = np.linspace(0, len(self._texts) - 1, _TEXTS_OF_PRODUCTS_CHECK).round().astype(int)
        few = [self._texts[row] for row in np.unique(rows)]
        plain = replace(self._options, cache_dir=None, granularity=(), check_entries=0)
        exact, fast = (
            KernelJob(self._subject, self._requests, [few], ((0, 0),), options)._computed()
            for options in (replace(plain, products="exact"), plain)
        )
        return max(
            _relative_difference(fast[name][0, 0].ft_effective, kernel[0, 0].ft_effective)
            for name, kernel in exact.items()
        )

    def _fingerprints(self) -> dict[str, str]:
        """What pieces on disk must agree in, by the word that an error message uses."""
        tiling = sha256(str(self.plan.layout).encode())
        for tile in self.plan.tiles:
            for _, rows in tile.batches:
                tiling.update(np.asarray([tile.group, *rows]).tobytes())
        heads, wanted = sha256(), sha256()
        for request in self._inner:
            heads.update(request.name.encode() + request.head.seeds.numpy().tobytes())
            heads.update(request.head.mixing.numpy().tobytes())
            wanted.update(" ".join([request.name, *sorted(request.parameters)]).encode())
        options, classifier = self._options, self._subject.classifier
        adapters = json.dumps(adapter_settings(classifier.encoder), sort_keys=True)
        return {
            "kernels": f"{options.kernel} {self._blocks} {tuple(options.granularity)} "
            f"{sorted(self._detailed)}",
            "methods": options.method,
            "precision": f"{options.dtype} {options.products} {self._device.type}",
            "weights": f"{encoder_fingerprint(classifier)} {adapters}",
            "texts": f"{self._tokens.fingerprint()} {sha256(self._groups.tobytes()).hexdigest()}",
            "heads": heads.hexdigest(),
            "parameters": wanted.hexdigest(),
            "tiles": tiling.hexdigest(),
            "versions": f"lpft {__version__} torch {torch.__version__} transformers "
            f"{transformers.__version__}",
        }


def _relative_difference(found: Tensor, exact: Tensor) -> float:
    scale = float(exact.norm())
    return float((found - exact).norm()) / scale if scale > 0 else 0.0


def _named(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        part.removeprefix(prefix): values
        for part, values in parts.items()
        if part.startswith(prefix)
    }
