"""How kernels are computed: options, and a job of several kernels in one pass.

Several workers each compute a share of the pieces, into a folder that they all see; this process
joins the pieces, as a kernel that was interrupted goes on from them: so to the same bits.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import cloudpickle
import numpy as np
import torch
import transformers
from torch import nn

from lpft import __version__
from lpft.data.tokens import Tokens
from lpft.errors import InputError, explain, named, one_line
from lpft.executors import get_executor, visible_gpus
from lpft.model.inference import resolve_device, resolve_dtype
from lpft.ntk.certificate import (
    CHECKED_AT_ONCE,
    Kernel,
    Room,
    check_entries,
    check_products,
    longest_features,
    refuse_changed_features,
    refuse_wrong,
)
from lpft.ntk.memory import (
    LARGEST,
    activations_per_token,
    default_budget,
    give_back_free_memory,
    kernel_device,
    make_plan,
    memory_in_use,
    parse_size,
    refuse_large_kernels,
)
from lpft.ntk.network import Network, TensorInputs, length_of
from lpft.ntk.passes import computed_in, parameter_chunks
from lpft.ntk.plan import Head, Plan, RemainingWork, Request, Workload
from lpft.ntk.result import EmpiricalNTK, ft_effective, pretrain_effective
from lpft.ntk.storage import Layout, Pair, TileStore
from lpft.ntk.structure import (
    FAILURES,
    Structure,
    are_shortened,
    cannot_pass,
    detect_structure,
)
from lpft.ntk.studied import KernelRequest, Studied
from lpft.ntk.sweep import TOTAL, Sweep, finished_pieces, sweep
from lpft.ntk.tiles import Step
from lpft.progress import timed
from lpft.settings.kernels import Granularity, KernelKind, LinearMethod, Products

Kernels = dict[str, dict[Pair, EmpiricalNTK]]
"""By name of the request and block."""

logger = logging.getLogger(__name__)

_SAMPLED = 6
"""Inputs of each group on which the error of faster products is measured."""
_SCHEMA = 3
"""Of the pieces on disk; a new number for every change of what they hold or how it is summed."""


@dataclass(frozen=True)
class Options:
    """How kernels are computed; see :func:`empirical_ntk`.

    Raises:
        InputError: a value does not exist, or two do not go together.
    """

    contraction: LinearMethod = "auto"
    update: KernelKind = "sgd"
    granularity: Granularity | Sequence[Granularity] = ()
    products: Products = "exact"
    dtype: torch.dtype = torch.float32
    memory: str | int | None = None
    cache_dir: str | Path | None = None
    device: str | torch.device = "auto"
    check_entries: int = 2
    check_products: int = 1
    executor: str = "local"
    workers: int = 1

    def __post_init__(self) -> None:
        for name, choices in (
            ("contraction", LinearMethod),
            ("update", KernelKind),
            ("products", Products),
        ):
            _check_choice(name, getattr(self, name), choices)
        if not isinstance(self.granularity, Sequence):
            known = ", ".join(get_args(Granularity))
            raise InputError(
                f"granularity={self.granularity!r}: expected some of {known} in a tuple"
            )
        for part in self.parts:
            _check_choice("granularity", part, Granularity)
            if self.parts.count(part) > 1:
                raise InputError(f"granularity names {part} twice: name each part once")
        object.__setattr__(self, "dtype", resolve_dtype(self.dtype))
        resolve_device(self.device)
        if self.contraction not in ("auto", "materialize"):
            reasons = {
                f"the update {self.update} takes signs": self.update != "sgd",
                f"products {self.products} are": self.products != "exact",
            }
            wrong = [reason for reason, holds in reasons.items() if holds]
            if wrong:
                raise InputError(
                    f"{wrong[0]} of whole gradients, which the contraction {self.contraction} of "
                    "linear weights never forms: expected auto or materialize"
                )
        if self.products == "tf32" and self.dtype != torch.float32:
            raise InputError(
                f"products tf32 are of float32 gradients, not of {self.dtype}: use exact or float32"
            )
        for name in ("check_entries", "check_products"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise InputError(f"{name}={count!r}: expected a count, 0 or more")
        if not isinstance(self.cache_dir, str | Path | None):
            raise InputError(f"cache_dir={self.cache_dir!r}: expected the path of a folder")
        if self.memory is not None:
            parse_size(self.memory)
        self._check_workers()

    def _check_workers(self) -> None:
        count = self.workers
        if not isinstance(count, int) or isinstance(count, bool):
            raise InputError(f"workers={count!r}: expected a count, 1 or more")
        get_executor(self.executor, count)
        if not self.shared:
            return
        if self.cache_dir is None:
            raise InputError(
                f"{named('workers')} {count} with {named('executor')} {self.executor} leave their "
                "pieces in a folder that all of them see: name one by cache_dir"
            )
        if torch.device(resolve_device(self.device)).index is not None:
            raise InputError(
                f"device {self.device} is one for all workers: give cuda, and each has its own"
            )

    @property
    def shared(self) -> bool:
        """Whether other processes compute the pieces."""
        return self.workers > 1 or self.executor != "local"

    @property
    def parts(self) -> tuple[Granularity, ...]:
        """By what the kernel is split, of one or several."""
        of = self.granularity
        return (of,) if isinstance(of, str) else tuple(of)


class KernelJob:
    """Kernels of one network for several heads and sets of parameters, in one pass.

    ``plan`` says how they will be computed; a job that was begun in ``cache_dir`` goes on with its
    own layout. The caller's precision and gradient modes do not matter, and its model is copied.

    Args:
        requests: by name.
        groups: lists of texts, or other inputs; the first is that of the rows in training.
        blocks: pairs (i, j) of groups: kernels with rows from group i and columns from group j.
        detailed: the blocks that are split into parts and checked by autograd (default: all).

    Raises:
        InputError: as :func:`empirical_ntk`, or a request that the encoder cannot meet.
    """

    def __init__(
        self,
        model: Studied,
        requests: Mapping[str, KernelRequest],
        groups: Sequence[Any],
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
        lists = [group for group in groups if isinstance(group, list) and group]
        if len({isinstance(group[0], tuple) for group in lists}) > 1:
            raise InputError("some lists hold single texts and others pairs: give one kind")
        self._requests = dict(requests)
        self._model = model
        refuse_large_kernels(
            [len(group) if hasattr(group, "__len__") else 1 for group in groups],
            blocks,
            [len(request.weight) for request in requests.values()],
            budget=self._budget(),
            used=memory_in_use(self._device),
        )
        self._groups = [model.read(group) for group in groups]
        self._inputs = joined(self._groups)
        with computed_in(options.dtype):
            names = list(self._parameters(self._model.network))
            self._network, self._structure = examined(self._copy, self._inputs, names)
            self._workload = self._make_workload(blocks, blocks if detailed is None else detailed)
            self.plan = self._make_plan(None)

    def _copy(self) -> Network:
        """A network of its own on the device, which has read nothing yet."""
        return self._model.network.copy(self._device, self._options.dtype)

    def run(self) -> Kernels:
        """The kernels by name and block.

        Raises:
            InputError: as :func:`empirical_ntk`.
        """
        if self._options.products == "exact":
            return self._compute()
        # The error of faster products: F of a few inputs of each group, evenly spread, both ways.
        sampled = [
            np.unique(np.linspace(0, len(group) - 1, _SAMPLED).round().astype(np.int64))
            for group in self._groups
        ]
        few = [group.select(of) for group, of in zip(self._groups, sampled, strict=True)]
        options = replace(
            self._options,
            products="exact",
            cache_dir=None,
            granularity=(),
            check_entries=0,
            check_products=0,
            executor="local",
            workers=1,
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
            if self._options.shared:
                assert store is not None, "workers need a folder"
                self._share_out(store)
            swept = sweep(
                self._network,
                self._inputs,
                self.plan,
                products=self._options.products,
                store=store,
                folder=None if cache_dir is None else Path(cache_dir),
            )
            record = {"plan": self.plan.as_record(), "seconds": swept.seconds}
            kernels: Kernels = {request.name: {} for request in self._workload.requests}
            with timed(swept.seconds, "certificate"):
                pristine = self._copy()
                refuse_changed_features(pristine, self._inputs, swept.features)
                for block in self._workload.blocks:
                    for name, kernel in self._block(block, swept, record, pristine).items():
                        kernels[name][block] = kernel
        swept.seconds["total"] = perf_counter() - started  # in the record of every kernel
        return kernels

    def _share_out(self, store: TileStore) -> None:
        """Let the workers compute the pieces that are not finished, a share each.

        What a worker that died leaves undone is left to this process.

        Raises:
            InputError: the model cannot be sent to other processes, or a worker cannot go on.
        """
        options = self._options
        remaining = RemainingWork(self.plan, finished_pieces(RemainingWork(self.plan), store))
        steps = remaining.steps_of_any_unit
        if not steps:
            return
        shares = self.plan.shares(steps)
        if len(shares) < options.workers:
            logger.info(
                "%d of %d workers have work: %d steps are left, of %d tiles",
                *(len(shares), options.workers, len(steps), len(self.plan.tiling)),
            )
        if len(shares) == 1 and options.executor == "local":
            return  # this process does it as well
        work = _Work(
            self._model,
            self._requests,
            self._groups,
            self._workload.blocks,
            tuple(self._workload.detailed),
            replace(
                options,
                memory=LARGEST,  # it is planned already
                device=self._device.type,
                cache_dir=Path(options.cache_dir or "").resolve(),
                executor="local",
                workers=1,
            ),
            self.plan.layout,
            store.begin_session(),
        )
        try:
            sent = cloudpickle.dumps(work)
        except Exception as error:  # whatever the parts of other people's modules raise
            raise InputError(
                f"the model cannot be sent to other processes ({one_line(error)}): leave "
                f"{named('workers')} and {named('executor')} out"
            ) from error
        execute = get_executor(options.executor, options.workers)
        with closing(execute(_compute_share, [(sent, share) for share in shares])) as ends:
            for number, (_, ended) in enumerate(ends, start=1):
                if ended is None:
                    logger.warning(
                        "a worker died, as it does where memory runs out: this process does what "
                        "it left undone"
                    )
                elif ended.reason is not None:
                    raise InputError(ended.reason)
                logger.info("%d of %d shares of the kernel ended", number, len(shares))

    def compute_share(self, share: tuple[Step, ...], layout: Layout, session: str) -> None:
        """Compute a worker's share of the pieces, as far as they are not finished."""
        options = self._options
        with computed_in(options.dtype):
            self.plan = self._make_plan(layout)
            store = self._open_store(session)
            assert store is not None, "workers have a folder"
            sweep(
                self._network,
                self._inputs,
                self.plan,
                products=options.products,
                store=store,
                folder=Path(options.cache_dir or ""),
                share=share,
            )

    def _open_store(self, session: str | None = None) -> TileStore | None:
        """The store of finished pieces; an unfinished kernel continues in its own layout."""
        if self._options.cache_dir is None:
            return None
        folder = Path(self._options.cache_dir)
        begun = Layout.read(folder)
        if begun is not None and begun != self.plan.layout:
            self.plan = self._make_plan(begun)
        fingerprints = _fingerprints(self._network, self._inputs, self.plan, self._options)
        return TileStore(folder, self.plan.layout, fingerprints, session)

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
                heads.append(Head.of(weight, options.update, options.dtype))
            requests.append(Request(name, numbers[key], request.parameters))
        counts = [len(group) for group in self._groups]
        return Workload(
            lengths=length_of(self._inputs, self._structure.length),
            groups=np.repeat(np.arange(len(counts)), counts),
            blocks=blocks,
            heads=tuple(heads),
            requests=tuple(requests),
            kernel=options.update,
            method=None if options.contraction == "auto" else options.contraction,
            granularity=options.parts,
            detailed=frozenset(detailed),
        )

    def _make_plan(self, layout: Layout | None) -> Plan:
        options, device = self._options, self._device
        checked = 0
        if options.check_entries or options.check_products:
            wanted = list(self._parameters(self._network).values())
            chunks = parameter_chunks(wanted, CHECKED_AT_ONCE)
            checked = max((sum(p.numel() for p in chunk) for chunk in chunks), default=0)
        return make_plan(
            self._structure,
            self._workload,
            device=device,
            dtype=options.dtype,
            budget=self._budget(),
            used=memory_in_use(device),
            checked=checked,
            copied=sum(p.numel() for p in self._network.root.parameters()),
            layout=layout,
            workers=options.workers,
        )

    def _budget(self) -> int:
        """What the process may take, in bytes; with workers each of them, on this machine."""
        options = self._options
        if options.memory is not None:
            return parse_size(options.memory)
        on_device = options.workers
        if self._device.type == "cuda":
            on_device = math.ceil(on_device / len(visible_gpus()))
        return default_budget(self._device, on_device)

    def _parameters(self, network: Network, *names: str) -> dict[str, nn.Parameter]:
        """The network's parameters that any of these requests asks for, by default all requests."""
        requests = [self._requests[name] for name in names] or self._requests.values()
        requested = frozenset().union(*(request.parameters for request in requests))
        named = network.named_parameters()
        return {name: parameter for name, parameter in named.items() if name in requested}

    def _block(
        self, block: Pair, swept: Sweep, record: Mapping[str, Any], pristine: Network
    ) -> dict[str, EmpiricalNTK]:
        """The kernels of a block by name, in the order of its inputs, checked on ``pristine``."""
        options, workload = self._options, self._workload
        detailed = block in workload.detailed
        rows, columns = (np.flatnonzero(workload.groups == group) for group in block)
        kernels, of_network = {}, {}
        for inner in workload.requests:
            kernels[inner.name] = self._kernel(inner, block, swept, record)
            of_network[inner.name] = Kernel(
                kernels[inner.name].ft_effective,
                self._requests[inner.name].weight.to(self._device, options.dtype),
                list(self._parameters(pristine, inner.name).values()),
                rows,
                columns,
            )
        if not detailed:
            return kernels
        room = self._room_for_autograd()
        products = check_products(
            pristine,
            self._inputs,
            swept.features,
            of_network if options.update == "sgd" else {},
            room=room,
            count=options.check_products,
        )
        for name, kernel in of_network.items():
            entries = check_entries(
                pristine,
                self._inputs,
                kernel,
                update=options.update,
                room=room,
                count=options.check_entries,
            )
            kernels[name] = replace(
                kernels[name], checked_entries=entries, checked_products=products.get(name, ())
            )
            if options.update == "sgd" and options.products == "exact":
                refuse_wrong(entries, products.get(name, ()), options.dtype)
        return kernels

    def _room_for_autograd(self) -> Room:
        """What plain autograd of whole batches may take of what the plan left."""
        give_back_free_memory()
        spare = self.plan.budget - memory_in_use(self._device)
        return Room.within(
            max(0, spare) // self._options.dtype.itemsize,
            activations_per_token(self._structure, int(self._workload.lengths.max())),
            1 if isinstance(self._inputs, Tokens) else self._structure.length,
            batched=self._structure.batched,
        )

    def _kernel(
        self, inner: Request, block: Pair, swept: Sweep, record: Mapping[str, Any]
    ) -> EmpiricalNTK:
        """One kernel in the order of its inputs; ``record`` is what all have in common."""
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
        by_layer, by_kind = (
            {part.removeprefix(by): f for part, f in parts.items() if part.startswith(by)}
            for by in ("layer:", "kind:")
        )
        pretrain = None
        if self._model.head is not None:
            pretrain = request.pretrain_scale * pretrain_effective(
                row_features,
                column_features,
                options.update,
                head_trains=request.head_trains,
                bias_trains=request.bias_trains,
            )
        return EmpiricalNTK(
            pretrain_effective=pretrain,
            ft_effective=total,
            row_features=row_features,
            column_features=column_features,
            symmetric=block[0] == block[1] and options.update != "asymmetric",
            layers=by_layer,
            kinds=by_kind,
            record={
                **record,
                "head_rank": head.rank,
                "parameters": sum(
                    parameter.numel()
                    for parameter in self._parameters(self._network, inner.name).values()
                ),
            },
        )


@dataclass(frozen=True)
class _Work:
    """What workers need to compute pieces: a job in the layout that was planned for it."""

    model: Studied
    requests: dict[str, KernelRequest]
    groups: list[Any]
    blocks: tuple[Pair, ...]
    detailed: tuple[Pair, ...]
    options: Options
    layout: Layout
    session: str


@dataclass(frozen=True)
class _Ended:
    """How a share ended; ``reason`` is None where it is finished."""

    reason: str | None = None


def _compute_share(task: tuple[bytes, tuple[Step, ...]]) -> _Ended:
    """Compute a share of :class:`_Work` in this process; a known error becomes a reason."""
    sent, share = task
    try:
        work = cloudpickle.loads(sent)
        job = KernelJob(
            work.model,
            work.requests,
            work.groups,
            work.blocks,
            work.options,
            detailed=work.detailed,
        )
        job.compute_share(share, work.layout, work.session)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        return _Ended(known.args[0])
    return _Ended()


def examined(
    copy: Callable[[], Network], inputs: Tokens | TensorInputs, names: Sequence[str]
) -> tuple[Network, Structure]:
    """A copy of a network, and how it is passed for the parameters of these names.

    Short texts may change a model for good: BigBird then attends in full. Or they lack what the
    outputs are read at, such as a mask at their end. Such a model is examined by its longest texts.
    """
    for shortened in (True, False):
        network = copy()
        try:
            before = longest_features(network, inputs)
        except FAILURES as error:
            raise InputError(cannot_pass(error)) from error
        try:
            structure = detect_structure(network, inputs, names, shortened=shortened)
        except InputError:
            if not shortened or not are_shortened(inputs):
                raise
            continue
        if torch.equal(longest_features(network, inputs), before):
            break
    return network, structure


def joined(parts: Sequence[Tokens | TensorInputs]) -> Tokens | TensorInputs:
    """Several groups of inputs as one.

    Raises:
        InputError: some are texts and others tensors, or the tensors differ in names or shapes.
    """
    tensors = [part for part in parts if isinstance(part, TensorInputs)]
    if len(tensors) == len(parts):
        return TensorInputs.read([part.tensors for part in tensors])
    if tensors:
        raise InputError("some inputs are texts and others tensors: give one kind")
    texts = [part for part in parts if isinstance(part, Tokens)]
    return Tokens.concatenate(texts)


def _check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s."""
    if value not in get_args(choices):
        expected = ", ".join(get_args(choices))
        raise InputError(f"{name}={value!r} is unknown: expected one of {expected}")


def _check_requests(
    model: Studied,
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
    known, width = set(model.network.named_parameters()), model.network.width
    for name, request in requests.items():
        unknown = sorted(request.parameters - known)
        if unknown:
            raise InputError(
                f"request '{name}': the model has no parameter {unknown[0]}; expected names as "
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
    network: Network, inputs: Tokens | TensorInputs, plan: Plan, options: Options
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
    # How the network is passed: what a unit stands for, and what decides how its sums round.
    chain = structure.chain
    passes = [
        structure.batched,
        [(unit.start, unit.stop) for unit in structure.units],
        structure.direct,
        None if chain is None else (chain.names, chain.hidden, chain.extras, chain.tuples),
    ]
    return {
        "kernels": f"{workload.kernel} {workload.blocks} {workload.granularity} "
        f"{sorted(workload.detailed)}",
        "methods": options.contraction,
        "precision": f"{options.dtype} {options.products} {plan.device.type}",
        "weights": network.fingerprint(),
        "texts": f"{inputs.fingerprint()} {sha256(workload.groups.tobytes()).hexdigest()}",
        "heads": heads.hexdigest(),
        "parameters": parameters.hexdigest(),
        "passes": sha256(repr(passes).encode()).hexdigest(),
        "tiles": tiles.hexdigest(),
        "versions": f"pieces {_SCHEMA} lpft {__version__} torch {torch.__version__} transformers "
        f"{transformers.__version__} peft {version('peft')}",
    }
