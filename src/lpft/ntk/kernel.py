"""The empirical NTK of a classifier's logits: one kernel, or several of one encoder at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lpft.choices import Device, Granularity, KernelKind, LinearMethod, Products
from lpft.data.examples import Text, listed_texts
from lpft.errors import InputError
from lpft.model.encoder import feature_size
from lpft.model.fingerprint import encoder_fingerprint
from lpft.model.inference import resolve_device
from lpft.ntk.certificate import check_entries
from lpft.ntk.engine import TOTAL, Request, Sweep, distinct_heads, sweep
from lpft.ntk.heads import row_space, rows_as_they_are
from lpft.ntk.inputs import Subject, joined, open_subject
from lpft.ntk.memory import default_budget, memory_in_use, parse_size
from lpft.ntk.plan import Demand, Layout, Plan, make_plan
from lpft.ntk.precision import computed_in
from lpft.ntk.products import Method, Pair
from lpft.ntk.result import EmpiricalNTK
from lpft.ntk.structure import examine
from lpft.ntk.tiles import TileStore

_TEXTS_OF_PRODUCTS_CHECK = 6


@dataclass(frozen=True)
class KernelRequest:
    """One of several kernels of the same encoder.

    Attributes:
        weight: V, C x h: the head whose logits are meant.
        parameters: names of the encoder's parameters, as ``encoder.named_parameters()`` gives them.
        head_trains: whether P counts V; ``bias_trains`` whether it counts b (the +1).
    """

    weight: Tensor
    parameters: frozenset[str]
    head_trains: bool = True
    bias_trains: bool = True


@dataclass(frozen=True)
class Options:
    """How kernels are computed; see :func:`empirical_ntk`."""

    method: LinearMethod = "auto"
    kernel: KernelKind = "sgd"
    granularity: tuple[Granularity, ...] = ()
    products: Products = "exact"
    dtype: torch.dtype = torch.float32
    memory: str | int | None = None
    cache_dir: str | Path | None = None
    device: Device = "auto"
    check_entries: int = 2


def empirical_ntk(
    model: Any,
    a: Sequence[Text],
    b: Sequence[Text] | None = None,
    *,
    parameters: Literal["all", "trainable"] = "all",
    method: LinearMethod = "auto",
    kernel: KernelKind = "sgd",
    granularity: Sequence[Granularity] = (),
    products: Products = "exact",
    dtype: torch.dtype = torch.float32,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    memory: str | int | None = None,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    check_entries: int = 2,
) -> EmpiricalNTK:
    """The exact empirical NTK of the logits ``V phi(x) + b``, split into P and F.

    ``Theta(x, x') = P(x, x') I_C + F(x, x')`` with ``P = <phi(x), phi(x')> + 1`` from the head's
    parameters and ``F = V J_phi(x) J_phi(x')^T V^T`` from the encoder's. The temperature is not in
    it. Evaluation mode: no dropout. Source: Tomihari and Sato (2024), Proposition 4.1.

    Args:
        model: a ``TextClassifier``, or a ``LinearHeadClassifier`` (with PEFT adapters or without)
            with ``tokenizer``.
        a: N texts, or pairs as tuples of two.
        b: M texts for the columns; None means ``a``, and half of the work.
        parameters: ``all``, or the ``trainable`` ones, which require gradients.
        method: for linear weights; ``auto`` takes the one of fewest flops for each.
        kernel: ``sgd`` is the NTK; ``signgd`` has ``<sign g, sign g'>`` and ``asymmetric``
            ``<g, sign g'>`` (Malladi et al., 2023), whose entries where a gradient is zero up to
            rounding (as for key biases) are as arbitrary as its sign.
        granularity: ``layer`` and ``kind`` return F's parts too.
        products: of whole gradients: ``exact`` in ``dtype``, or faster ``tf32`` (CUDA) and
            ``bfloat16``, whose error on a few texts is returned.
        dtype: float32 or float64, of everything up to the products of single chunks; sums are
            float64 always.
        max_length: of a text in tokens (default: the tokenizer's).
        memory: bytes that the process (on CUDA: this device) may take in all, such as ``"6GB"``.
        cache_dir: folder where finished pieces are kept: a call that was interrupted goes on there.
        check_entries: how many random entries are computed again by plain autograd.

    Returns:
        P (N x M) and F (N x C x M x C), float64, with a certificate and a record of the plan.

    Raises:
        InputError: a text is empty, the model is no classifier with a linear head (or one for
            several labels or regression), the memory is too small, an option does not exist, or a
            piece in ``cache_dir`` is damaged or of another kernel.
    """
    _check_choice("parameters", parameters, Literal["all", "trainable"])
    options = Options(
        method=method,
        kernel=kernel,
        granularity=(granularity,) if isinstance(granularity, str) else tuple(granularity),  # type: ignore[arg-type]
        products=products,
        dtype=dtype,
        memory=memory,
        cache_dir=cache_dir,
        device=device,
        check_entries=check_entries,
    )
    check_options(options)
    groups = [listed_texts(texts) for texts in ([a] if b is None else [a, b])]
    block = (0, 0) if b is None else (0, 1)
    with computed_in(dtype):
        subject = open_subject(model, tokenizer, max_length)
        request = request_of(subject, trainable=parameters == "trainable")
        return KernelJob(subject, {"ntk": request}, groups, (block,), options).run()["ntk"][block]


def request_of(subject: Subject, *, trainable: bool) -> KernelRequest:
    """The kernel of the subject's own head, over all parameters or those that require gradients."""
    names = [
        name
        for name, parameter in subject.classifier.encoder.named_parameters()
        if parameter.requires_grad or not trainable
    ]
    head = subject.head
    return KernelRequest(
        weight=head.weight.detach(),
        parameters=frozenset(names),
        head_trains=head.weight.requires_grad or not trainable,
        bias_trains=head.bias is not None and (head.bias.requires_grad or not trainable),
    )


class KernelJob:
    """Kernels of one encoder for several heads and sets of parameters, in one pass.

    Args:
        requests: by name.
        groups: lists of texts; the first is that of the rows in training.
        blocks: pairs (i, j) of groups: kernels with rows from group i and columns from group j.
    """

    def __init__(
        self,
        subject: Subject,
        requests: Mapping[str, KernelRequest],
        groups: Sequence[Sequence[Text]],
        blocks: tuple[Pair, ...],
        options: Options,
    ) -> None:
        check_options(options)
        self._options = options
        self._device = resolve_device(options.device)
        if options.products == "tf32" and self._device.type != "cuda":
            raise InputError("products tf32 need a CUDA device: use exact or bfloat16 here")
        self._subject = subject.on(self._device, options.dtype)
        self._requests = dict(requests)
        self._blocks = blocks
        self._texts = [text for group in groups for text in group]
        if len({isinstance(group[0], tuple) for group in groups if group}) > 1:
            raise InputError("some lists hold single texts and others pairs: give one kind")
        self._tokens = joined([self._subject.tokens(group) for group in groups])
        self._groups = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._inner = self._inner_requests()
        self.plan = self._make_plan()

    def run(self) -> dict[str, dict[Pair, EmpiricalNTK]]:
        """The kernels by name and block."""
        error = None if self._options.products == "exact" else self._products_error()
        return {
            name: {block: replace(kernel, products_error=error) for block, kernel in found.items()}
            for name, found in self._computed().items()
        }

    def _computed(self) -> dict[str, dict[Pair, EmpiricalNTK]]:
        started = perf_counter()
        store = None
        if self._options.cache_dir is not None:
            store = TileStore(Path(self._options.cache_dir), self._fingerprints())
            self.plan.layout.write(Path(self._options.cache_dir))
        swept = sweep(
            self._subject.classifier,
            self._tokens,
            self.plan,
            self._inner,
            granularity=self._options.granularity,
            products=self._options.products,
            dtype=self._options.dtype,
            store=store,
            folder=None if self._options.cache_dir is None else Path(self._options.cache_dir),
        )
        kernels = {
            name: {block: self._kernel(name, request, block, swept) for block in self._blocks}
            for name, request in self._requests.items()
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

    def _inner_requests(self) -> list[Request]:
        """The requests with their heads' row spaces; equal heads are one."""
        decompose: Callable[[Tensor], Any] = (
            (lambda weight: row_space(weight, self._options.dtype))
            if self._options.kernel == "sgd"
            else rows_as_they_are
        )
        heads: dict[bytes, Any] = {}
        inner = []
        for name, request in self._requests.items():
            key = request.weight.detach().cpu().double().numpy().tobytes()
            if key not in heads:
                heads[key] = decompose(request.weight)
            inner.append(Request(name, heads[key], request.parameters))
        return inner

    def _make_plan(self) -> Plan:
        heads = distinct_heads(self._inner)
        numbers = {id(head): number for number, head in enumerate(heads)}
        wanted = [
            name
            for name, _ in self._subject.classifier.encoder.named_parameters()
            if any(name in request.parameters for request in self._inner)
        ]
        demand = Demand(
            lengths=self._tokens.lengths,
            groups=self._groups,
            blocks=self._blocks,
            ranks=tuple(head.rank for head in heads),
            heads_of={
                name: tuple(
                    sorted({numbers[id(r.head)] for r in self._inner if name in r.parameters})
                )
                for name in wanted
            },
            kernel=self._options.kernel,
            method=_forced(self._options.method),
        )
        structure = examine(self._subject.classifier, self._tokens, wanted)
        memory = self._options.memory
        layout = None
        if self._options.cache_dir is not None:
            layout = Layout.read(Path(self._options.cache_dir))
        return make_plan(
            structure,
            demand,
            hidden_size=feature_size(self._subject.classifier.config.encoder_config),
            dtype=self._options.dtype,
            device=self._device,
            budget=default_budget(self._device) if memory is None else parse_size(memory),
            used=memory_in_use(self._device),
            accumulators=self._accumulator_bytes(structure.parts(self._options.granularity)),
            layout=layout,
        )

    def _accumulator_bytes(self, parts: int) -> int:
        counts = np.bincount(self._groups)
        entries = sum(int(counts[i]) * int(counts[j]) for i, j in self._blocks)
        return sum(8 * entries * (r.head.classes**2 + r.head.rank**2) for r in self._inner) * (
            2 + parts
        )

    def _kernel(
        self,
        name: str,
        request: KernelRequest,
        block: Pair,
        swept: Sweep,
    ) -> EmpiricalNTK:
        inner = next(r for r in self._inner if r.name == name)
        rows, columns = (np.flatnonzero(self._groups == group) for group in block)
        parts = {
            part: self._assemble(inner, sums, block)
            for (of_request, part), sums in swept.sums.items()
            if of_request == name
        }
        classes = request.weight.shape[0]
        total = parts.pop(TOTAL, None)
        if total is None:
            total = torch.zeros(len(rows), classes, len(columns), classes, dtype=torch.float64)
        features = swept.features[rows], swept.features[columns]
        symmetric = block[0] == block[1] and self._options.kernel != "asymmetric"
        by_name = dict(self._subject.classifier.encoder.named_parameters())
        wanted = [by_name[n] for n in by_name if n in inner.parameters]
        weight = request.weight.to(self._device, self._options.dtype)
        return EmpiricalNTK(
            pretrain_effective=self._pretrain_effective(request, *features),
            ft_effective=total,
            row_features=features[0],
            column_features=features[1],
            symmetric=symmetric,
            layers=_named(parts, "layer:"),
            kinds=_named(parts, "kind:"),
            checked_entries=check_entries(
                self._subject.classifier,
                weight,
                wanted,
                (self._tokens, rows.tolist(), columns.tolist()),
                total,
                kernel=self._options.kernel,
                count=self._options.check_entries,
            ),
            record={
                "head_rank": inner.head.rank,
                "parameters": sum(parameter.numel() for parameter in wanted),
            },
        )

    def _assemble(self, inner: Request, sums: Mapping[Pair, Tensor], block: Pair) -> Tensor:
        """F of one block, N x C x M x C, from the sums of its pairs of tiles."""
        places = np.empty(len(self._groups), dtype=np.int64)
        counts = np.bincount(self._groups)
        for group, count in enumerate(counts):
            places[self._groups == group] = np.arange(count)
        rank = inner.head.rank
        whole = torch.zeros(
            rank, int(counts[block[0]]), rank, int(counts[block[1]]), dtype=torch.float64
        )
        seeds = torch.arange(rank)
        mirrored = self._options.kernel != "asymmetric"
        for (i, j), values in sums.items():
            left, right = self.plan.tiles[i], self.plan.tiles[j]
            if (left.group, right.group) != block:
                continue
            rows, columns = (torch.from_numpy(places[tile.rows]) for tile in (left, right))
            tile_values = values.view(rank, len(rows), rank, len(columns))
            place = torch.meshgrid(seeds, rows, seeds, columns, indexing="ij")
            whole[place] = tile_values
            if mirrored and i != j and left.group == right.group:
                place = torch.meshgrid(seeds, columns, seeds, rows, indexing="ij")
                whole[place] = tile_values.permute(2, 3, 0, 1)
        mixing = inner.head.mixing
        return torch.einsum("cp,pnqm,dq->ncmd", mixing, whole, mixing)

    def _pretrain_effective(self, request: KernelRequest, rows: Tensor, columns: Tensor) -> Tensor:
        if self._options.kernel == "signgd":
            rows = rows.sign()
        if self._options.kernel != "sgd":
            columns = columns.sign()
        inner = rows @ columns.T if request.head_trains else rows.new_zeros(len(rows), len(columns))
        return inner + 1 if request.bias_trains else inner

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
        tiling = sha256()
        for tile in self.plan.tiles:
            for _, rows in tile.batches:
                tiling.update(np.asarray([tile.group, *rows]).tobytes())
        tiling.update(str(self.plan.layout).encode())
        heads = sha256()
        wanted = sha256()
        for request in self._inner:
            heads.update(request.name.encode() + request.head.seeds.numpy().tobytes())
            heads.update(request.head.mixing.numpy().tobytes())
            wanted.update(" ".join([request.name, *sorted(request.parameters)]).encode())
        options = self._options
        return {
            "kernels": f"{options.kernel} {self._blocks} {options.granularity}",
            "methods": options.method,
            "precision": f"{options.dtype} {options.products} {self._device.type}",
            "weights": encoder_fingerprint(self._subject.classifier),
            "texts": f"{self._tokens.fingerprint()} {sha256(self._groups.tobytes()).hexdigest()}",
            "heads": heads.hexdigest(),
            "parameters": wanted.hexdigest(),
            "tiles": tiling.hexdigest(),
            "versions": f"torch {torch.__version__}",
        }


def check_options(options: Options) -> None:
    """Refuse what does not exist or does not go together.

    Raises:
        InputError: the message names the option and what is expected.
    """
    _check_choice("method", options.method, LinearMethod)
    _check_choice("kernel", options.kernel, KernelKind)
    _check_choice("products", options.products, Products)
    _check_choice("device", options.device, Device)
    for part in options.granularity:
        _check_choice("granularity", part, Granularity)
    if options.kernel != "sgd" and options.method not in ("auto", "materialize"):
        raise InputError(
            f"the kernel {options.kernel} takes signs of whole gradients: the method must be auto "
            "or materialize"
        )
    if options.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the dtype {options.dtype} is not supported: expected torch.float32 or torch.float64"
        )
    if not isinstance(options.check_entries, int) or options.check_entries < 0:
        raise InputError(f"check_entries={options.check_entries!r}: expected a count, 0 or more")
    if not isinstance(options.cache_dir, str | Path | None):
        raise InputError(f"cache_dir={options.cache_dir!r}: expected the path of a folder")
    if options.memory is not None:
        parse_size(options.memory)


def _check_choice(name: str, given: object, choices: Any) -> None:
    if given not in get_args(choices):
        expected = ", ".join(get_args(choices))
        raise InputError(f"{name}={given!r} is unknown: expected one of {expected}")


def _forced(method: LinearMethod) -> Method | None:
    return None if method == "auto" else method


def _relative_difference(found: Tensor, exact: Tensor) -> float:
    scale = float(exact.norm())
    return float((found - exact).norm()) / scale if scale > 0 else 0.0


def _named(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        part.removeprefix(prefix): values
        for part, values in parts.items()
        if part.startswith(prefix)
    }
