"""Kernels of one encoder for several heads and sets of parameters, in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.data.examples import Text
from lpft.errors import InputError
from lpft.model.encoder import feature_size
from lpft.ntk.assembly import ft_effective, pretrain_effective
from lpft.ntk.certificate import check_entries, parameter_chunks, refuse_wrong_entries
from lpft.ntk.devices import kernel_device
from lpft.ntk.engine import Sweep, sweep
from lpft.ntk.examination import examine
from lpft.ntk.fingerprints import kernel_fingerprints
from lpft.ntk.heads import HeadRows, row_space, rows_as_they_are
from lpft.ntk.inputs import Subject, joined
from lpft.ntk.layout import Layout, Pair
from lpft.ntk.memory import default_budget, memory_in_use, parse_size
from lpft.ntk.options import Options, check_options
from lpft.ntk.plan import Demand, Plan
from lpft.ntk.planner import Sizes, make_plan
from lpft.ntk.precision import computed_in
from lpft.ntk.products_check import products_error, sampled_places
from lpft.ntk.requests import KernelRequest, check_requests
from lpft.ntk.result import EmpiricalNTK
from lpft.ntk.sums import TOTAL, Request, distinct_heads
from lpft.ntk.tiles import TileStore

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
        """The kernels by name and block.

        Raises:
            InputError: as :func:`lpft.ntk.empirical_ntk`.
        """
        if self._options.products == "exact":
            return self._computed()
        places = sampled_places(self._groups)
        exact = self._of_few(places).run()
        kernels = self._computed()
        error = products_error(kernels, exact, places)
        return {
            name: {block: replace(kernel, products_error=error) for block, kernel in found.items()}
            for name, found in kernels.items()
        }

    def _of_few(self, places: Sequence[NDArray[np.int64]]) -> "KernelJob":
        """The same job by exact products for the texts at these places of their groups."""
        groups = [np.flatnonzero(self._groups == group)[p] for group, p in enumerate(places)]
        return KernelJob(
            self._subject,
            self._requests,
            [[self._texts[row] for row in rows] for rows in groups],
            self._blocks,
            replace(
                self._options, products="exact", cache_dir=None, granularity=(), check_entries=0
            ),
        )

    def _computed(self) -> Kernels:
        started = perf_counter()
        with computed_in(self._options.dtype):
            store = self._store()
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
                block: replace(kernel, record={**shared, **kernel.record})
                for block, kernel in found.items()
            }
            for name, found in kernels.items()
        }

    def _store(self) -> TileStore | None:
        """Where finished pieces are kept; what was begun there is gone on with in its layout."""
        if self._options.cache_dir is None:
            return None
        folder = Path(self._options.cache_dir)
        begun = Layout.read(folder)
        if begun is not None and begun != self.plan.layout:
            self.plan = self._make_plan(begun)
        fingerprints = kernel_fingerprints(
            self._subject.classifier,
            self._tokens,
            self._groups,
            self._inner,
            self.plan,
            self._options,
            detailed=self._detailed,
        )
        return TileStore(folder, self.plan.layout, fingerprints)

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
            sizes=self._sizes(),
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

    def _sizes(self) -> Sizes:
        config = self._subject.classifier.config.encoder_config
        return Sizes(
            hidden=feature_size(config),
            heads=getattr(config, "num_attention_heads", 1),
            layers=getattr(config, "num_hidden_layers", 1),
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
        entries = check_entries(
            self._subject.classifier,
            request.weight.to(self._device, options.dtype),
            wanted,
            (self._tokens, rows.tolist(), columns.tolist()),
            total,
            kernel=options.kernel,
            count=options.check_entries if block in self._detailed else 0,
        )
        if options.kernel == "sgd" and options.products == "exact":
            refuse_wrong_entries(entries, options.dtype)
        return EmpiricalNTK(
            pretrain_effective=pretrain_effective(request, *features, options.kernel),
            ft_effective=total,
            row_features=features[0],
            column_features=features[1],
            symmetric=block[0] == block[1] and options.kernel != "asymmetric",
            layers=_named(parts, "layer:"),
            kinds=_named(parts, "kind:"),
            checked_entries=entries,
            record={
                "head_rank": inner.head.rank,
                "parameters": sum(parameter.numel() for parameter in wanted),
            },
        )


def _named(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        part.removeprefix(prefix): values
        for part, values in parts.items()
        if part.startswith(prefix)
    }
