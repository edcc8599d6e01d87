"""A job of several kernels in one pass, as options.py says how.

A job examines the network (structure.py), plans the order and the memory (plan.py, memory.py),
sweeps down the network once (sweep.py), puts the kernels together (result.py) and has plain
autograd check them (certificate.py).

Several workers each compute a part of the pieces, into a folder that they all see. This process
then joins the pieces just as it would resume an interrupted kernel from them: to the same bits.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import cloudpickle
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from lpft import __version__
from lpft.data.tokens import Tokens
from lpft.errors import InputError, explain, named, one_line
from lpft.executors import get_executor, visible_gpus
from lpft.ntk.certificate import (
    CHECKED_AT_ONCE,
    Contradicted,
    KernelToCheck,
    Room,
    check_entries,
    check_products,
    longest_features,
    refuse_changed_features,
    refuse_wrong,
    refuse_wrong_split,
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
from lpft.ntk.network import Network, TensorInputs, sample_lengths
from lpft.ntk.options import Options
from lpft.ntk.passes import computed_in, parameter_chunks
from lpft.ntk.plan import Head, Plan, PlannedKernel, RemainingWork, Workload
from lpft.ntk.result import EmpiricalNTK, ft_effective, pretrain_effective
from lpft.ntk.storage import Layout, Pair, TileStore
from lpft.ntk.structure import (
    FAILURES,
    Structure,
    are_shortened,
    cannot_pass,
    detect_structure,
)
from lpft.ntk.studied import KernelRequest, Studied, StudiedModule, check_requests
from lpft.ntk.sweep import TOTAL, PathsDiffer, Sweep, finished_pieces, sweep
from lpft.ntk.tiles import Step
from lpft.progress import timed

Kernels = dict[str, dict[Pair, EmpiricalNTK]]
"""By name of the request and block."""

logger = logging.getLogger(__name__)

_SAMPLES_COMPARED = 6
"""Inputs of each group on which the error of faster products is measured."""
_SCHEMA = 3
"""Version of the pieces on disk; raised when what they hold, or how it is summed, changes."""


class KernelJob:
    """Kernels of one network for several heads and sets of parameters, in one pass.

    Making a job passes two short texts, to find how the network can be passed (a gradient check),
    and plans the work: ``plan`` says how :meth:`run` will compute the kernels. A job that was begun
    in ``cache_dir`` goes on with its own layout. The caller's precision and gradient modes do not
    matter, and its model is copied.

    Args:
        requests: by name.
        groups: lists of texts, or other inputs; the first is that of the training rows.
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
        check_requests(model, requests, len(groups), blocks)
        self._options = options
        self._device = kernel_device(options.device)
        if options.products == "tf32" and self._device.type != "cuda":
            raise InputError("products tf32 need a CUDA device: use exact or bfloat16 here")
        lists = [group for group in groups if isinstance(group, list) and group]
        if len({isinstance(group[0], tuple) for group in lists}) > 1:
            raise InputError("some lists hold single texts and others pairs: give one kind")
        self._requests = dict(requests)
        self._model = model
        # Before texts are read: a kernel of too many entries is refused in milliseconds.
        refuse_large_kernels(
            [len(group) if hasattr(group, "__len__") else 1 for group in groups],
            blocks,
            [len(request.weight) for request in requests.values()],
            budget=self._budget(),
            used=memory_in_use(self._device),
        )
        self._groups = [model.read(group) for group in groups]
        self._inputs = join_inputs(self._groups)
        # The examination passes two short texts. From here on the caller's modes do not matter.
        with computed_in(options.dtype):
            self._blocks = blocks, blocks if detailed is None else detailed
            self._examine()

    def _examine(self, *, by_autograd: bool = False) -> None:
        """Find out how the network is passed, and plan the passes."""
        names = list(self._parameters(self._model.network))
        self._network, self._structure = examine_network(
            self._copy, self._inputs, names, by_autograd=by_autograd
        )
        self._workload = self._make_workload(*self._blocks)
        self.plan = self._make_plan(None)

    def _copy(self) -> Network:
        """A fresh copy of the network on the device, which has read nothing yet."""
        return self._model.network.copy(self._device, self._options.dtype)

    def run(self) -> Kernels:
        """The kernels by name and block.

        Raises:
            InputError: as :func:`empirical_ntk`.
        """
        if self._options.products == "exact":
            return self._compute_with_fallback()
        # The error of faster products: F of a few inputs of each group, evenly spread, both ways.
        sampled_rows = [
            np.unique(np.linspace(0, len(group) - 1, _SAMPLES_COMPARED).round().astype(np.int64))
            for group in self._groups
        ]
        samples = [
            group.select(rows) for group, rows in zip(self._groups, sampled_rows, strict=True)
        ]
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
        exact = KernelJob(
            self._model, self._requests, samples, self._workload.blocks, options
        ).run()
        kernels = self._compute_with_fallback()
        errors = [0.0]
        for name, blocks in kernels.items():
            for (i, j), kernel in blocks.items():
                expected = exact[name][i, j].ft_effective
                of_samples = kernel.ft_effective[sampled_rows[i]][:, :, sampled_rows[j]]
                difference = of_samples - expected
                if expected.any():
                    errors.append(float(difference.norm() / expected.norm()))
        return {
            name: {
                block: replace(kernel, products_error=max(errors))
                for block, kernel in by_block.items()
            }
            for name, by_block in kernels.items()
        }

    def _compute_with_fallback(self) -> Kernels:
        """As planned; where no rule holds for all inputs, all parameters by autograd."""
        try:
            return self._compute_as_planned()
        except (PathsDiffer, Contradicted) as error:
            # A mixture of experts, or one that stops early; or a part that treats some inputs
            # unlike those on which its rules were checked. The latter is an error in a classifier.
            of_any_module = isinstance(self._model, StudiedModule)
            if isinstance(error, Contradicted) and not of_any_module:
                raise
            if self._options.cache_dir is not None:  # its pieces come from passes by rules
                raise
            logger.warning(
                "no rule holds for all inputs (%s): all parameters are left to autograd, one input "
                "at a time",
                error.reason if isinstance(error, PathsDiffer) else str(error).partition(";")[0],
            )
        with computed_in(self._options.dtype):
            self._examine(by_autograd=True)
        return self._compute_as_planned()

    def _compute_as_planned(self) -> Kernels:
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
                # Inputs may have changed the engine's copy; this one has read none yet.
                pristine = self._copy()
                refuse_changed_features(pristine, self._inputs, swept.features)
                refuse_wrong_split(
                    pristine, self._inputs, swept.features, self._room_for_autograd()
                )
                for block in self._workload.blocks:
                    for name, kernel in self._block(block, swept, record, pristine).items():
                        kernels[name][block] = kernel
        swept.seconds["total"] = perf_counter() - started  # in the record of every kernel
        return kernels

    def _share_out(self, store: TileStore) -> None:
        """Let the workers compute the pieces that are not finished, a run of steps each.

        This process then does what a worker that died left undone.

        Raises:
            InputError: the model cannot be sent to other processes, or a worker cannot go on.
        """
        options = self._options
        remaining = RemainingWork(self.plan, finished_pieces(RemainingWork(self.plan), store))
        steps = remaining.steps_of_any_unit
        if not steps:
            return  # all pieces are there: this process joins them
        parts = self.plan.divide(steps)
        if len(parts) < options.workers:
            logger.info(
                "%d of %d workers have work: %d steps are left, of %d tiles",
                *(len(parts), options.workers, len(steps), len(self.plan.tiling)),
            )
        if len(parts) == 1 and options.executor == "local":
            return  # one share is computed just as well by this process
        # A worker rebuilds this job from these options, in the layout that is planned already.
        worker_options = replace(
            options,
            memory=LARGEST,
            device=self._device.type,
            cache_dir=Path(options.cache_dir or "").resolve(),
            executor="local",
            workers=1,
        )
        blocks, detailed = self._workload.blocks, tuple(self._workload.detailed)
        arguments = (self._model, self._requests, self._groups, blocks, worker_options)
        session = store.begin_session()
        try:
            sent = cloudpickle.dumps((arguments, detailed, self.plan.layout, session))
        except Exception as error:  # a user's module may raise anything
            raise InputError(
                f"the model cannot be sent to other processes ({one_line(error)}): leave "
                f"{named('workers')} and {named('executor')} out"
            ) from error
        execute = get_executor(options.executor, options.workers)
        with closing(execute(_compute_share, [(sent, part) for part in parts])) as outcomes:
            for number, (_, failure) in enumerate(outcomes, start=1):
                if failure is None:
                    logger.warning(
                        "a worker died, as it does where memory runs out: this process does what "
                        "it left undone"
                    )
                elif failure:
                    raise InputError(failure)
                logger.info("%d of %d shares of the kernel ended", number, len(parts))

    def compute_share(self, assigned: tuple[Step, ...], layout: Layout, session: str) -> None:
        """Compute the unfinished pieces of a worker's steps."""
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
                assigned=assigned,
            )

    def _open_store(self, session: str | None = None) -> TileStore | None:
        """The store of finished pieces; an unfinished kernel continues in its own layout.

        Tiles and workspace decide the order in which sums are rounded, so that a kernel that is
        resumed in another layout would differ in its last bits.
        """
        if self._options.cache_dir is None:
            return None
        folder = Path(self._options.cache_dir)
        previous = Layout.read(folder)
        if previous is not None and previous != self.plan.layout:
            self.plan = self._make_plan(previous)
        fingerprints = _fingerprints(self._network, self._inputs, self.plan, self._options)
        return TileStore(folder, self.plan.layout, fingerprints, session)

    def _make_workload(self, blocks: tuple[Pair, ...], detailed: Sequence[Pair]) -> Workload:
        """The requests with their heads' row spaces; equal heads are one."""
        options = self._options
        number_of_head: dict[bytes, int] = {}
        heads: list[Head] = []
        requests = []
        for name, request in self._requests.items():
            weight = request.weight.detach().cpu().double()
            contents = f"{weight.shape}".encode() + weight.numpy().tobytes()
            if contents not in number_of_head:
                number_of_head[contents] = len(heads)
                heads.append(Head.of(weight, options.update, options.dtype))
            requests.append(PlannedKernel(name, number_of_head[contents], request.parameters))
        counts = [len(group) for group in self._groups]
        return Workload(
            lengths=sample_lengths(self._inputs, self._structure.length),
            groups=np.repeat(np.arange(len(counts)), counts),
            blocks=blocks,
            heads=tuple(heads),
            requests=tuple(requests),
            update=options.update,
            method=None if options.contraction == "auto" else options.contraction,
            granularity=options.parts,
            detailed=frozenset(detailed),
        )

    def _make_plan(self, layout: Layout | None) -> Plan:
        options, device = self._options, self._device
        checked = 0
        if options.check_entries or options.check_products:
            parameters = list(self._parameters(self._network).values())
            chunks = parameter_chunks(parameters, CHECKED_AT_ONCE)
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
        """Bytes that the process may take; with several workers, each of them on this machine."""
        options = self._options
        if options.memory is not None:
            return parse_size(options.memory)
        workers_on_device = options.workers
        if self._device.type == "cuda":
            workers_on_device = math.ceil(workers_on_device / len(visible_gpus()))
        return default_budget(self._device, workers_on_device)

    def _parameters(self, network: Network, *names: str) -> dict[str, nn.Parameter]:
        """The network's parameters in any request of these names (default: in any request)."""
        requests = [self._requests[name] for name in names] or self._requests.values()
        requested = frozenset().union(*(request.parameters for request in requests))
        named = network.named_parameters()
        return {name: parameter for name, parameter in named.items() if name in requested}

    def _block(
        self, block: Pair, swept: Sweep, record: Mapping[str, Any], pristine: Network
    ) -> dict[str, EmpiricalNTK]:
        """The kernels of a block by name, in the order of its inputs, checked on ``pristine``."""
        options, workload = self._options, self._workload
        rows, columns = (np.flatnonzero(workload.groups == group) for group in block)
        kernels = {
            request.name: self._kernel(request, block, rows, columns, swept, record)
            for request in workload.requests
        }
        if block not in workload.detailed:
            return kernels
        room = self._room_for_autograd()
        to_check = {
            name: KernelToCheck(
                kernel.ft_effective,
                self._requests[name].weight.to(self._device, options.dtype),
                list(self._parameters(pristine, name).values()),
                rows,
                columns,
            )
            for name, kernel in kernels.items()
        }
        products = check_products(
            pristine,
            self._inputs,
            swept.features,
            to_check if options.update == "sgd" else {},
            room=room,
            count=options.check_products,
        )
        for name, kernel in to_check.items():
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
        """How much of the free memory plain autograd of whole batches may take."""
        give_back_free_memory()
        spare = self.plan.budget - memory_in_use(self._device)
        return Room.within(
            max(0, spare) // self._options.dtype.itemsize,
            activations_per_token(self._structure, int(self._workload.lengths.max())),
            1 if isinstance(self._inputs, Tokens) else self._structure.length,
            batched=self._structure.batched,
        )

    def _kernel(
        self,
        request: PlannedKernel,
        block: Pair,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        swept: Sweep,
        record: Mapping[str, Any],
    ) -> EmpiricalNTK:
        """One kernel between the inputs ``rows`` and ``columns``; ``record`` is what all share."""
        options, workload = self._options, self._workload
        head = workload.heads[request.head]
        parts = {
            part: ft_effective(head, sums, self.plan, block)
            for part, sums in swept.of_request(request.name).items()
            if part == TOTAL or block in workload.detailed
        }
        shape = (len(rows), head.classes, len(columns), head.classes)
        # No total is left where no parameter of the request has a gradient.
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
            kernel_request = self._requests[request.name]
            pretrain = kernel_request.pretrain_scale * pretrain_effective(
                row_features,
                column_features,
                options.update,
                head_trains=kernel_request.head_trains,
                bias_trains=kernel_request.bias_trains,
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
                    for parameter in self._parameters(self._network, request.name).values()
                ),
            },
        )


def _compute_share(task: tuple[bytes, tuple[Step, ...]]) -> str:
    """Compute one worker's steps in this process; return a known error's message, or nothing."""
    sent, assigned = task
    try:
        arguments, detailed, layout, session = cloudpickle.loads(sent)
        KernelJob(*arguments, detailed=detailed).compute_share(assigned, layout, session)
    except Exception as error:
        known_error = explain(error)
        if known_error is None:
            raise
        return str(known_error.args[0])
    return ""


def examine_network(
    copy: Callable[[], Network],
    inputs: Tokens | TensorInputs,
    names: Sequence[str],
    *,
    by_autograd: bool = False,
) -> tuple[Network, Structure]:
    """A copy of a network, and how it is passed for the parameters of these names.

    Short texts may change a model for good: BigBird then attends in full. Or they lack what the
    outputs are read at, such as a mask at their end. Such a model is examined by its longest texts.
    """
    # The longest text's features before and after the examination show whether it changed anything.
    for shortened in (True, False):
        network = copy()
        try:
            features = longest_features(network, inputs)
        except InputError:
            raise
        except FAILURES as error:
            raise InputError(cannot_pass(error)) from error
        try:
            structure = detect_structure(
                network, inputs, names, shortened=shortened, by_autograd=by_autograd
            )
        except InputError:
            if not shortened or not are_shortened(inputs):
                raise
            continue
        if torch.equal(longest_features(network, inputs), features):
            break
    return network, structure


def join_inputs(groups: Sequence[Tokens | TensorInputs]) -> Tokens | TensorInputs:
    """Several groups of inputs as one.

    Raises:
        InputError: some are texts and others tensors, or the tensors differ in names or shapes.
    """
    tensors = [group for group in groups if isinstance(group, TensorInputs)]
    if len(tensors) == len(groups):
        return TensorInputs.read([group.tensors for group in tensors])
    if tensors:
        raise InputError("some inputs are texts and others tensors: give one kind")
    texts = [group for group in groups if isinstance(group, Tokens)]
    return Tokens.concatenate(texts)


def _fingerprints(
    network: Network, inputs: Tokens | TensorInputs, plan: Plan, options: Options
) -> dict[str, str]:
    """Everything that pieces on disk must agree on, by the word that an error message uses.

    So no piece of another kernel is ever mistaken for one of this.
    """
    workload, structure = plan.workload, plan.structure
    layout = ", ".join(f"{name}={value!r}" for name, value in plan.layout.as_record().items())
    # Which texts are in which tile and batch determines what a piece holds.
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
        "kernels": f"{workload.update} {workload.blocks} {workload.granularity} "
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
