"""The empirical NTK of a classifier's logits: in one call, or several kernels in one pass."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lpft import __version__
from lpft.data.examples import Text
from lpft.data.texts import text_list
from lpft.data.tokens import Tokens, tokenize
from lpft.errors import InputError
from lpft.model.adapters import adapter_settings, plain_classifier, trained_head
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import check_finite, position_limit
from lpft.model.inference import encoder_fingerprint
from lpft.ntk.memory import default_budget, kernel_device, make_plan, memory_in_use, parse_size
from lpft.ntk.passes import computed_in, parameter_chunks
from lpft.ntk.plan import Head, Plan, Request, Workload
from lpft.ntk.result import (
    CHECKED_AT_ONCE,
    EmpiricalNTK,
    check_entries,
    ft_effective,
    pretrain_effective,
    refuse_wrong_entries,
)
from lpft.ntk.storage import Layout, Pair, TileStore
from lpft.ntk.structure import detect_structure
from lpft.ntk.sweep import TOTAL, Sweep, sweep
from lpft.settings import Device
from lpft.settings.kernels import Granularity, KernelKind, LinearMethod, Products

Kernels = dict[str, dict[Pair, EmpiricalNTK]]
"""By name of the request and block."""

_EXPECTED = (
    "expected a TextClassifier, or a LinearHeadClassifier (plain or with PEFT adapters) with "
    "tokenizer=..."
)
_SAMPLED_TEXTS = 6
"""Of each group, on which the error of faster products is measured."""
_SCHEMA = 3
"""Of the pieces on disk; a new number for every change of what they hold or how it is summed."""


def empirical_ntk(
    model: Any,
    a: Sequence[Text],
    b: Sequence[Text] | None = None,
    *,
    parameters: Literal["all", "trainable"] = "all",
    method: LinearMethod = "auto",
    kernel: KernelKind = "sgd",
    granularity: Granularity | Sequence[Granularity] = (),
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
        products: of whole gradients: ``exact`` in ``dtype``, or faster ``tf32`` (CUDA, float32)
            and ``bfloat16``, whose error on a few texts is returned. They speed up neither passes
            nor weights for which another method is cheaper.
        dtype: float32 or float64, of everything up to the products of single chunks; sums are
            float64 always.
        max_length: of a text in tokens (default: the tokenizer's).
        memory: bytes that the process (on CUDA: this device) may take in all, such as ``"6GB"``.
        cache_dir: folder where finished pieces are kept, so that an interrupted call can go on.
        check_entries: how many random entries are computed again by plain autograd.

    Returns:
        P (N x M) and F (N x C x M x C), float64, with a certificate and a record of the plan.

    Raises:
        InputError: a text is empty, the model is no classifier with a linear head (or one for
            several labels or regression), the memory is too small, an option does not exist, a
            piece in ``cache_dir`` is damaged or of another kernel or cannot be written, gradients
            are not finite, or the features do not follow from the text alone.
    """
    _check_choice("parameters", parameters, Literal["all", "trainable"])
    options = Options(
        method=method,
        kernel=kernel,
        granularity=(granularity,) if isinstance(granularity, str) else granularity,
        products=products,
        dtype=dtype,
        memory=memory,
        cache_dir=cache_dir,
        device=device,
        check_entries=check_entries,
    )
    groups = [text_list(texts) for texts in ([a] if b is None else [a, b])]
    block = (0, 0) if b is None else (0, 1)
    studied = studied_model(model, tokenizer, max_length)
    request = request_of(studied, trainable=parameters == "trainable")
    return KernelJob(studied, {"ntk": request}, groups, (block,), options).run()["ntk"][block]


@dataclass(frozen=True)
class Options:
    """How kernels are computed; see :func:`empirical_ntk`.

    Raises:
        InputError: a value does not exist, or two do not go together.
    """

    method: LinearMethod = "auto"
    kernel: KernelKind = "sgd"
    granularity: Sequence[Granularity] = ()
    products: Products = "exact"
    dtype: torch.dtype = torch.float32
    memory: str | int | None = None
    cache_dir: str | Path | None = None
    device: Device = "auto"
    check_entries: int = 2

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", LinearMethod),
            ("kernel", KernelKind),
            ("products", Products),
            ("device", Device),
        ):
            _check_choice(name, getattr(self, name), choices)
        parts = self.granularity
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            known = ", ".join(get_args(Granularity))
            raise InputError(f"granularity={parts!r}: expected some of {known} in a tuple")
        for part in parts:
            _check_choice("granularity", part, Granularity)
            if list(parts).count(part) > 1:
                raise InputError(f"granularity names {part} twice: name each part once")
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"the dtype {self.dtype} is not supported: expected torch.float32 or torch.float64"
            )
        if self.method not in ("auto", "materialize"):
            reasons = {
                f"the kernel {self.kernel} takes signs": self.kernel != "sgd",
                f"products {self.products} are": self.products != "exact",
            }
            wrong = [reason for reason, holds in reasons.items() if holds]
            if wrong:
                raise InputError(
                    f"{wrong[0]} of whole gradients, which the method {self.method} of linear "
                    "weights never forms: expected auto or materialize"
                )
        if self.products == "tf32" and self.dtype != torch.float32:
            raise InputError(
                f"products tf32 are of float32 gradients, not of {self.dtype}: use exact or float32"
            )
        count = self.check_entries
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InputError(f"check_entries={count!r}: expected a count, 0 or more")
        if not isinstance(self.cache_dir, str | Path | None):
            raise InputError(f"cache_dir={self.cache_dir!r}: expected the path of a folder")
        if self.memory is not None:
            parse_size(self.memory)


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
class StudiedModel:
    """A classifier with its head that trains, its tokenizer and maximum length."""

    classifier: LinearHeadClassifier
    head: nn.Linear
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def on(self, device: torch.device, dtype: torch.dtype) -> "StudiedModel":
        """The same on ``device`` in ``dtype``: itself where it is so already, else a copy."""
        parameters = [*self.classifier.encoder.parameters(), *self.head.parameters()]
        device = torch.empty(0, device=device).device  # a bare "cuda" with its number
        if all(p.device == device and p.dtype == dtype for p in parameters):
            return self
        classifier, head = copy.deepcopy((self.classifier, self.head))
        return StudiedModel(
            classifier.to(device, dtype), head.to(device, dtype), self.tokenizer, self.max_length
        )

    def tokens(self, texts: Sequence[Text]) -> Tokens:
        """Token ids of texts, or of pairs.

        Raises:
            InputError: there is no text, one is empty, texts and pairs are mixed, or the tokenizer
                has tokens that the model does not know.
        """
        tokens = tokenize(self.tokenizer, texts, self.max_length)
        known = self.classifier.encoder.get_input_embeddings().num_embeddings
        largest = max(max(ids) for ids in tokens.columns["input_ids"])
        if largest >= known:
            raise InputError(
                f"the tokenizer gives the token {largest}, the model has {known} tokens: expected "
                "the tokenizer that belongs to the model"
            )
        return tokens


def studied_model(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> StudiedModel:
    """Read a TextClassifier, a classifier with its tokenizer, or one with adapters.

    Raises:
        InputError: it is none of these, is not fitted, has no tokenizer or no linear head, is not
            finite, or is made for several labels per text or for regression.
    """
    if hasattr(model, "get_params") and not hasattr(model, "model_"):
        raise InputError(
            "the classifier has no model yet: fit it, or take TextClassifier.untrained(...)"
        )
    network = getattr(model, "model_", model)
    tokenizer = getattr(model, "tokenizer_", None) if tokenizer is None else tokenizer
    if not isinstance(network, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}: {_EXPECTED}")
    classifier = plain_classifier(network)
    if not isinstance(classifier, LinearHeadClassifier):
        raise InputError(f"the model is a {type(network).__name__}: {_EXPECTED}")
    if classifier.virtual_tokens is not None:
        raise InputError(
            f"the model reads {classifier.virtual_tokens.number} virtual tokens before every text "
            "(prefix or prompt tuning), of which kernels are not supported: give a model of "
            "another method"
        )
    kind = classifier.config.problem_type
    if kind not in (None, "single_label_classification"):
        raise InputError(
            f"the model is made for {kind.replace('_', ' ')}: its kernel is not supported, only "
            "that of one class per text"
        )
    if tokenizer is None:
        raise InputError("the model has no tokenizer: give it by tokenizer=...")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer={tokenizer!r}: expected a tokenizer object of transformers, not its name"
        )
    check_finite(classifier, "the given model")
    if max_length is not None and not isinstance(max_length, int):
        raise InputError(
            f"max_length={max_length!r} is not a whole number: expected tokens per text"
        )
    limit, least = position_limit(classifier.encoder), tokenizer.num_special_tokens_to_add() + 1
    if max_length is None:
        # Tokenizers that know no limit say so by a huge number.
        max_length = min(n for n in (limit, tokenizer.model_max_length) if n is not None)
    if max_length < least or (limit is not None and max_length > limit):
        reach = f"at least {least}" if limit is None else f"{least} to {limit}"
        raise InputError(
            f"max_length {max_length} does not fit the model, which reads {reach} tokens"
        )
    return StudiedModel(classifier, trained_head(network), tokenizer, max_length)


def request_of(model: StudiedModel, *, trainable: bool) -> KernelRequest:
    """The kernel of the model's own head, over all parameters or those that require gradients."""
    named = model.classifier.encoder.named_parameters()
    head = model.head
    return KernelRequest(
        weight=head.weight.detach(),
        parameters=frozenset(name for name, p in named if p.requires_grad or not trainable),
        head_trains=head.weight.requires_grad or not trainable,
        bias_trains=head.bias is not None and (head.bias.requires_grad or not trainable),
    )


class KernelJob:
    """Kernels of one encoder for several heads and sets of parameters, in one pass.

    ``plan`` says how they will be computed; a job that was begun in ``cache_dir`` goes on with its
    own layout. The caller's precision and gradient modes do not matter.

    Args:
        requests: by name.
        groups: lists of texts; the first is that of the rows in training.
        blocks: pairs (i, j) of groups: kernels with rows from group i and columns from group j.
        detailed: the blocks that are split into parts and whose entries are checked (default: all).

    Raises:
        InputError: as :func:`empirical_ntk`, or a request that the encoder cannot meet.
    """

    def __init__(
        self,
        model: StudiedModel,
        requests: Mapping[str, KernelRequest],
        groups: Sequence[Sequence[Text]],
        blocks: tuple[Pair, ...],
        options: Options,
        *,
        detailed: Sequence[Pair] | None = None,
    ) -> None:
        _check_requests(model, requests, len(groups), blocks)
        self._options = options
        self._device = kernel_device(options.device)
        if options.products == "tf32" and self._device.type != "cuda":
            raise InputError("products tf32 need a CUDA device: use exact or bfloat16 here")
        if len({isinstance(group[0], tuple) for group in groups if group}) > 1:
            raise InputError("some lists hold single texts and others pairs: give one kind")
        self._requests = dict(requests)
        self._texts = groups
        with computed_in(options.dtype):
            self._model = model.on(self._device, options.dtype)
            self._tokens = _joined([self._model.tokens(group) for group in groups])
            self._workload = self._make_workload(blocks, blocks if detailed is None else detailed)
            self._structure = detect_structure(
                self._model.classifier, self._tokens, list(self._parameters(*self._requests))
            )
            self.plan = self._make_plan(None)

    def run(self) -> Kernels:
        """The kernels by name and block.

        Raises:
            InputError: as :func:`empirical_ntk`.
        """
        if self._options.products == "exact":
            return self._compute()
        # The error of faster products: F of a few texts of each group, evenly spread, both ways.
        sampled = [
            np.unique(np.linspace(0, len(group) - 1, _SAMPLED_TEXTS).round().astype(np.int64))
            for group in self._texts
        ]
        few = [[group[n] for n in of] for group, of in zip(self._texts, sampled, strict=True)]
        options = replace(
            self._options, products="exact", cache_dir=None, granularity=(), check_entries=0
        )
        exact = KernelJob(self._model, self._requests, few, self._workload.blocks, options).run()
        kernels = self._compute()
        errors = [0.0]
        for name, blocks in kernels.items():
            for (i, j), kernel in blocks.items():
                expected = exact[name][i, j].ft_effective
                difference = kernel.ft_effective[sampled[i]][:, :, sampled[j]] - expected
                if expected.any():
                    errors.append(float(difference.norm() / expected.norm()))
        return {
            name: {
                block: replace(kernel, products_error=max(errors)) for block, kernel in of.items()
            }
            for name, of in kernels.items()
        }

    def _compute(self) -> Kernels:
        started = perf_counter()
        cache_dir = self._options.cache_dir
        with computed_in(self._options.dtype):
            store = self._open_store()
            swept = sweep(
                self._model.classifier,
                self._tokens,
                self.plan,
                products=self._options.products,
                store=store,
                folder=None if cache_dir is None else Path(cache_dir),
            )
            record = {"plan": self.plan.as_record(), "seconds": swept.seconds}
            kernels = {
                request.name: {
                    block: self._kernel(request, block, swept, record)
                    for block in self._workload.blocks
                }
                for request in self._workload.requests
            }
        swept.seconds["total"] = perf_counter() - started  # in the record of every kernel
        return kernels

    def _open_store(self) -> TileStore | None:
        """The store of finished pieces; an unfinished kernel continues in its own layout."""
        if self._options.cache_dir is None:
            return None
        folder = Path(self._options.cache_dir)
        begun = Layout.read(folder)
        if begun is not None and begun != self.plan.layout:
            self.plan = self._make_plan(begun)
        fingerprints = _fingerprints(self._model.classifier, self._tokens, self.plan, self._options)
        return TileStore(folder, self.plan.layout, fingerprints)

    def _make_workload(self, blocks: tuple[Pair, ...], detailed: Sequence[Pair]) -> Workload:
        """The requests with their heads' row spaces; equal heads are one."""
        options = self._options
        numbers: dict[bytes, int] = {}
        heads: list[Head] = []
        requests = []
        for name, request in self._requests.items():
            weight = request.weight.detach().cpu().double()
            key = f"{weight.shape}".encode() + weight.numpy().tobytes()
            if key not in numbers:
                numbers[key] = len(heads)
                heads.append(Head.of(weight, options.kernel, options.dtype))
            requests.append(Request(name, numbers[key], request.parameters))
        counts = [len(group) for group in self._texts]
        return Workload(
            lengths=self._tokens.lengths,
            groups=np.repeat(np.arange(len(counts)), counts),
            blocks=blocks,
            heads=tuple(heads),
            requests=tuple(requests),
            kernel=options.kernel,
            method=None if options.method == "auto" else options.method,
            granularity=tuple(options.granularity),
            detailed=frozenset(detailed),
        )

    def _make_plan(self, layout: Layout | None) -> Plan:
        options, device = self._options, self._device
        checked = 0
        if options.check_entries:
            wanted = list(self._parameters(*self._requests).values())
            chunks = parameter_chunks(wanted, CHECKED_AT_ONCE)
            checked = max((sum(p.numel() for p in chunk) for chunk in chunks), default=0)
        return make_plan(
            self._structure,
            self._workload,
            device=device,
            dtype=options.dtype,
            budget=default_budget(device) if options.memory is None else parse_size(options.memory),
            used=memory_in_use(device),
            checked=checked,
            layout=layout,
        )

    def _parameters(self, *names: str) -> dict[str, nn.Parameter]:
        """The encoder's parameters that any of these requests asks for, in the encoder's order."""
        requested = frozenset().union(*(self._requests[name].parameters for name in names))
        named = self._model.classifier.encoder.named_parameters()
        return {name: parameter for name, parameter in named if name in requested}

    def _kernel(
        self, inner: Request, block: Pair, swept: Sweep, record: Mapping[str, Any]
    ) -> EmpiricalNTK:
        """One kernel in the order of its texts, checked; ``record`` is what all have in common."""
        options, workload = self._options, self._workload
        request, head = self._requests[inner.name], workload.heads[inner.head]
        rows, columns = (np.flatnonzero(workload.groups == group) for group in block)
        parts = {
            part: ft_effective(head, sums, self.plan, block)
            for part, sums in swept.of_request(inner.name).items()
            if part == TOTAL or block in workload.detailed
        }
        shape = (len(rows), head.classes, len(columns), head.classes)
        total = parts.pop(TOTAL, torch.zeros(shape, dtype=torch.float64))
        if not torch.isfinite(total).all():
            raise InputError(
                f"the kernel is not finite in {options.dtype}: the model's gradients are too large "
                "for it; compute in torch.float64, or name an intact model"
            )
        row_features, column_features = swept.features[rows], swept.features[columns]
        parameters = list(self._parameters(inner.name).values())
        entries = check_entries(
            self._model.classifier,
            request.weight.to(self._device, options.dtype),
            parameters,
            (self._tokens, rows.tolist(), columns.tolist()),
            total,
            kernel=options.kernel,
            count=options.check_entries if block in workload.detailed else 0,
        )
        if options.kernel == "sgd" and options.products == "exact":
            refuse_wrong_entries(entries, options.dtype)
        by_layer, by_kind = (
            {part.removeprefix(by): f for part, f in parts.items() if part.startswith(by)}
            for by in ("layer:", "kind:")
        )
        return EmpiricalNTK(
            pretrain_effective=pretrain_effective(
                row_features,
                column_features,
                options.kernel,
                head_trains=request.head_trains,
                bias_trains=request.bias_trains,
            ),
            ft_effective=total,
            row_features=row_features,
            column_features=column_features,
            symmetric=block[0] == block[1] and options.kernel != "asymmetric",
            layers=by_layer,
            kinds=by_kind,
            checked_entries=entries,
            record={
                **record,
                "head_rank": head.rank,
                "parameters": sum(parameter.numel() for parameter in parameters),
            },
        )


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of several lists of texts as those of one."""
    return Tokens(
        {name: [ids for part in parts for ids in part.columns[name]] for name in parts[0].columns},
        parts[0].pad_values,
        parts[0].padding_side,
    )


def _check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s."""
    if value not in get_args(choices):
        expected = ", ".join(get_args(choices))
        raise InputError(f"{name}={value!r} is unknown: expected one of {expected}")


def _check_requests(
    model: StudiedModel,
    requests: Mapping[str, KernelRequest],
    groups: int,
    blocks: Sequence[Pair],
) -> None:
    """Refuse requests that the encoder cannot meet, and blocks of groups that do not exist."""
    if not requests or not blocks:
        raise InputError("no kernel is requested: expected at least one request and one block")
    for block in blocks:
        if not all(0 <= group < groups for group in block):
            raise InputError(f"block {block}: expected two of {groups} groups of texts, from 0 on")
    known = {name for name, _ in model.classifier.encoder.named_parameters()}
    width = model.head.in_features
    for name, request in requests.items():
        unknown = sorted(request.parameters - known)
        if unknown:
            raise InputError(
                f"request '{name}': the encoder has no parameter {unknown[0]}; expected names as "
                "its named_parameters() gives them"
            )
        shape = tuple(request.weight.shape)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
            raise InputError(f"request '{name}': expected a head C x {width}, found {shape}")
        if not torch.isfinite(request.weight).all():
            raise InputError(
                f"request '{name}': its head is not finite (NaN or infinity); give an intact one"
            )


def _fingerprints(
    classifier: LinearHeadClassifier, tokens: Tokens, plan: Plan, options: Options
) -> dict[str, str]:
    """What pieces on disk must agree in, by the word that an error message uses.

    So no piece of another kernel is ever taken for this one's.
    """
    workload, structure = plan.workload, plan.structure
    layout = ", ".join(f"{name}={value!r}" for name, value in plan.layout.as_record().items())
    tiles = sha256(f"Layout({layout})".encode())
    for tile in plan.tiles:
        for _, rows in tile.batches:
            tiles.update(np.asarray([tile.group, *rows]).tobytes())
    heads, parameters = sha256(), sha256()
    for request in workload.requests:
        head = workload.heads[request.head]
        heads.update(request.name.encode() + head.cotangents.numpy().tobytes())
        heads.update(head.mixing.numpy().tobytes())
        parameters.update(" ".join([request.name, *sorted(request.parameters)]).encode())
    # How the encoder is passed: what a unit stands for, and what decides how its sums round.
    chain = structure.chain
    passes = [
        structure.batched,
        [(unit.start, unit.stop) for unit in structure.units],
        structure.direct,
        None if chain is None else (chain.names, chain.hidden, chain.extras, chain.tuples),
    ]
    adapters = json.dumps(adapter_settings(classifier.encoder), sort_keys=True)
    return {
        "kernels": f"{workload.kernel} {workload.blocks} {workload.granularity} "
        f"{sorted(workload.detailed)}",
        "methods": options.method,
        "precision": f"{options.dtype} {options.products} {plan.device.type}",
        "weights": f"{encoder_fingerprint(classifier)} {adapters}",
        "texts": f"{tokens.fingerprint()} {sha256(workload.groups.tobytes()).hexdigest()}",
        "heads": heads.hexdigest(),
        "parameters": parameters.hexdigest(),
        "passes": sha256(repr(passes).encode()).hexdigest(),
        "tiles": tiles.hexdigest(),
        "versions": f"pieces {_SCHEMA} lpft {__version__} torch {torch.__version__} transformers "
        f"{transformers.__version__} peft {version('peft')}",
    }
