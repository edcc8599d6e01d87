"""How an encoder is passed: forward once, then backward one block at a time.

Positions of an encoder with a chain of L blocks are 0 (all before the first block), 1 to L (the
blocks) and L + 1 (all after the last, down to the pooled feature); without a chain everything is
position 0. The forward pass stores the hidden states at every block's input. Going down from the
last position, each is rebuilt alone from its stored input, what its modules leave is recorded, and
the gradient at its input is stored for the next. So memory holds the activations of one block.

    tokens -> [0: embeddings] -h_0-> [1: block] -h_1-> ... -h_L-> [L + 1: pooling] -> phi (n x h)
              <------------ gradients g_0, g_1, ... of the S cotangents go the other way ----------
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lpft.ntk.capture import (
    Gradients,
    Modules,
    NotBatched,
    Recorder,
    Share,
    call_shares,
    merge_uses,
    pull_back,
)
from lpft.ntk.network import Network, evaluating, replaced_forward, sample_count
from lpft.ntk.outputs import Batch
from lpft.ntk.storage import ActivationStore
from lpft.settings.kernels import Products

Key = int | str
"""Place of an argument: its position, or its keyword."""
Arguments = dict[Key, Any]

_BACKENDS = ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")
"""Where PyTorch keeps the precision of float32 products, below ``torch.backends``."""


class Passes:
    """The passes of numbered batches through one network for S cotangents (S x h) at the features.

    ``modules`` own the wanted parameters; ``direct`` are parameters left to autograd itself. Where
    these act, the samples of a batch pass one by one a second time.
    """

    def __init__(
        self,
        network: Network,
        chain: "Chain | None",
        modules: Modules,
        direct: Mapping[str, Tensor],
        cotangents: Tensor,
        store: ActivationStore,
    ) -> None:
        self._network = network
        self._chain = chain
        self._modules = modules
        self._direct = dict(direct)
        self._cotangents = cotangents
        self._store = store
        # By batch: the arguments of every block's call, without the hidden states, which the store
        # has. Masks and the like are small, and the same tensors for all blocks.
        self._arguments: dict[int, list[Arguments]] = {}
        # (position, batch) pairs whose gradients at the extras are in the running sums already.
        self._extras_from: set[tuple[int, int]] = set()
        self.extras = 0
        """Numbers in the blocks' further arguments that carry gradients, of the last batch."""
        self.hidden = network.width
        """Numbers in the hidden states between the blocks, or in the features, of a batch's last
        axis."""

    @property
    def positions(self) -> int:
        return 1 if self._chain is None else len(self._chain) + 2

    @torch.no_grad()
    def forward(self, number: int, batch: Batch) -> Tensor:
        """The features (n x h) of batch ``number``; stores what the backward passes need."""
        chain = self._chain
        if chain is None:
            return self._network.features(batch).detach()
        block_arguments: list[Arguments] = []
        last_hidden: list[Tensor] = []
        called: list[nn.Module] = []

        def store_input(
            module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
        ) -> None:
            called.append(module)
            arguments = _arguments(positional, named)
            # The hidden states' key counts the blocks: ("hidden", k) is what block k reads.
            self._store.put(("hidden", len(block_arguments), number), [arguments[chain.hidden]])
            block_arguments.append({**arguments, chain.hidden: None})

        def keep_output(_module: nn.Module, _positional: tuple[Any, ...], result: Any) -> None:
            # Overwritten at every call: of a block that is called several times the last counts.
            last_hidden[:] = [_hidden_states(result)]

        blocks = dict.fromkeys(chain.modules)  # ALBERT calls the same one again and again
        handles = [
            block.register_forward_pre_hook(store_input, with_kwargs=True) for block in blocks
        ]
        handles.append(chain.modules[-1].register_forward_hook(keep_output))
        try:
            features = self._network.features(batch)
        finally:
            for handle in handles:
                handle.remove()
        if called != list(chain.modules):
            raise OtherPath("the inputs do not pass the same blocks")
        self._store.put(("hidden", len(chain), number), last_hidden)
        self._arguments[number] = block_arguments
        self.hidden = last_hidden[0].shape[-1]
        self.extras = sum(block_arguments[0][key].numel() for key in chain.extras)
        return features.detach()

    def backward(
        self,
        position: int,
        number: int,
        batch: Batch,
        *,
        only: Collection[str] | None = None,
    ) -> dict[str, Share]:
        """The share of ``position`` in each wanted parameter, or in those ``only``, for one batch.

        The gradient at the position's input is stored for ``position - 1``. So positions go from
        the last to the first; one may be repeated, for other parameters, before it is finished.
        """
        samples = sample_count(batch)
        modules, direct = self._modules, self._direct
        if only is not None:
            modules = modules_of(modules, only)
            direct = {name: tensor for name, tensor in direct.items() if name in only}
        # Autograd sums a parameter's gradient over the batch. Where it is the only way, each sample
        # of the batch passes this position once more by itself.
        alone: dict[str, Tensor] = {}
        if direct and samples > 1:
            alone, direct = self._one_by_one(position, number, batch, direct), {}
        with torch.enable_grad(), Recorder(modules, samples) as recorder:
            results, cotangents, inputs = self._rebuild(position, number, batch, recorder)
            # Checkpointed parts run, and call the hooks, a second time in the backward pass.
            calls = list(recorder.calls)
            at_inputs, at_calls, jacobians = pull_back(results, cotangents, inputs, calls, direct)
            self._store_input_gradients(position, number, at_inputs)
            # A parameter may be used by several calls within the position: their shares are merged.
            uses: dict[str, list[Share]] = {}
            for call, gradients in zip(calls, at_calls, strict=True):
                for name, share in call_shares(call, gradients, samples).items():
                    uses.setdefault(name, []).append(share)
        return {name: merge_uses(of_name) for name, of_name in uses.items()} | jacobians | alone

    @torch.enable_grad()
    def _one_by_one(
        self, position: int, number: int, batch: Batch, direct: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """J (S x n x numel) of parameters that autograd treats, from each sample alone.

        What waits between the blocks is that of the whole batch: each takes its rows of it.
        """
        alone = []
        for row in range(sample_count(batch)):
            single = {name: tensor[row : row + 1] for name, tensor in batch.items()}
            results, cotangents, _ = self._rebuild(
                position, number, single, Recorder({}), row, sample_count(batch)
            )
            alone.append(pull_back(results, cotangents, [], [], dict(direct))[2])
        # A sample that does not reach a parameter, as of an expert that was not chosen, has J = 0.
        like = {name: jacobian for of_sample in alone for name, jacobian in of_sample.items()}
        return {
            name: torch.cat([of_sample.get(name, torch.zeros_like(j)) for of_sample in alone], 1)
            for name, j in like.items()
        }

    def finish(self, position: int, number: int) -> None:
        """Forget what only ``position`` needed of batch ``number``."""
        self._store.drop(("gradient", position, number))
        self._store.drop(("hidden", position - 1, number))
        if position == 0 and self._chain is not None:
            for extra in range(len(self._chain.extras)):
                self._store.drop(("extra", extra, number))

    def _rebuild(
        self,
        position: int,
        number: int,
        batch: Batch,
        recorder: Recorder,
        row: int = 0,
        samples: int = 1,
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        """Run a position forward under autograd: its results, their cotangents, and its inputs.

        Of a batch of several ``samples`` that ``row`` alone, which is then all of ``batch``. The
        recorder is enabled only once the position itself runs, not what comes before it.
        """
        chain = self._chain
        if chain is None:  # everything is one position, whose results are the features
            recorder.enabled = True
            return self._to_features(batch, [])
        if position == len(chain) + 1:  # after the last block: the cotangents are the heads' rows
            hidden = _rows_of_sample(self._hidden(position - 1, number), row, samples)
            return self._rebuild_end(chain, hidden, batch, recorder)

        def of_sample(gradients: Gradients) -> Gradients:
            return [None if g is None else _rows_of_sample(g, row, samples) for g in gradients]

        # What the position above stored: S gradients at this position's hidden states.
        stored = self._store.get(("gradient", position, number), self._cotangents.device)
        gradients = of_sample(stored)
        if position == 0:  # before the first block: results are h_0 and the extras
            results = self._rebuild_start(chain, batch, recorder)
            extras = [
                of_sample(self._extra_gradients(extra, number))
                for extra in range(len(chain.extras))
            ]
            # One list for each of the S cotangents: its gradients at h_0 and at every extra.
            cotangents = [
                [_or_zero(gradient, result) for gradient, result in zip(at, results, strict=True)]
                for at in zip(gradients, *extras, strict=True)
            ]
            return results, cotangents, []
        # A block: rebuilt from its stored hidden states, with the arguments that it had.
        if samples == 1:
            arguments = dict(self._arguments[number][position - 1])
        else:
            arguments = self._block_arguments(chain, position - 1, batch)
        arguments[chain.hidden] = _rows_of_sample(self._hidden(position - 1, number), row, samples)
        for key in chain.extras:  # leaves, so that their gradients stop here and are handed on
            arguments[key] = arguments[key].detach().requires_grad_()
        recorder.enabled = True
        result = _hidden_states(_call_module(chain.modules[position - 1], arguments))
        inputs = [arguments[key] for key in (chain.hidden, *chain.extras)]
        return [result], [[_or_zero(gradient, result)] for gradient in gradients], inputs

    @torch.no_grad()
    def _block_arguments(self, chain: "Chain", block: int, batch: Batch) -> Arguments:
        """The arguments of a block's call for this batch alone, by a pass that runs no block.

        Stored arguments, such as masks, are those of the whole batch.
        """
        seen: list[Arguments] = []

        def stand_in(number: int, arguments: Arguments) -> Tensor:
            if number == block:
                seen.append(arguments)
                raise _BlockReached
            return arguments[chain.hidden]  # an identity in the place of each earlier block

        with replaced_blocks(chain, stand_in), suppress(_BlockReached):
            self._network.features(batch)
        return dict(seen[0])

    def _rebuild_end(
        self, chain: "Chain", hidden: Tensor, batch: Batch, recorder: Recorder
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        """Run what follows the last block: identities stand in for the blocks, the last for h_L."""

        def stand_in(block: int, arguments: Arguments) -> Tensor:
            if block + 1 < len(chain):
                return arguments[chain.hidden]
            recorder.enabled = True
            return hidden

        with replaced_blocks(chain, stand_in):
            return self._to_features(batch, [hidden])

    def _rebuild_start(self, chain: "Chain", batch: Batch, recorder: Recorder) -> list[Tensor]:
        """Run what comes before the first block: hidden states and the blocks' further arguments.

        An exception stops the encoder at its first block.
        """

        def stop(_block: int, arguments: Arguments) -> Tensor:
            raise _BlockReached(*(arguments[key] for key in (chain.hidden, *chain.extras)))

        recorder.enabled = True
        try:
            with replaced_blocks(chain, stop):
                self._network.features(batch)
        except _BlockReached as reached:
            return list(reached.args)
        raise AssertionError("the encoder ran without its first block")

    def _to_features(
        self, batch: Batch, inputs: list[Tensor]
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        features = self._network.features(batch)
        cotangents = self._cotangents.to(features.dtype)
        return [features], [[cotangent.expand_as(features)] for cotangent in cotangents], inputs

    def _store_input_gradients(
        self, position: int, number: int, at_inputs: Sequence[Gradients]
    ) -> None:
        """Store the gradients at a position's inputs for the positions below it."""
        if self._chain is None or position == 0:
            return
        self._store.put(("gradient", position - 1, number), at_inputs[0])
        # Further arguments are the same tensors for every block, so their gradients add up. A
        # position that is passed again, for other parameters, adds nothing.
        if len(at_inputs) == 1 or (position, number) in self._extras_from:
            return
        self._extras_from.add((position, number))
        for extra, gradients in enumerate(at_inputs[1:]):
            before = self._extra_gradients(extra, number)
            sums = [_sum(*both) for both in zip(before, gradients, strict=True)]
            self._store.put(("extra", extra, number), sums)

    def _extra_gradients(self, extra: int, number: int) -> Gradients:
        """The sum so far of the gradients at one of the blocks' extras."""
        key = ("extra", extra, number)
        if key not in self._store:
            return [None] * len(self._cotangents)
        return self._store.get(key, self._cotangents.device)

    def _hidden(self, position: int, number: int) -> Tensor:
        (hidden,) = self._store.get(("hidden", position, number), self._cotangents.device)
        assert hidden is not None
        return hidden.detach().requires_grad_()


class OtherPath(RuntimeError):
    """A batch passes other blocks than those that were found when the network was examined."""


class _BlockReached(Exception):
    """Stops a forward pass; the arguments are the first block's hidden states and extras."""


def _rows_of_sample(states: Tensor, row: int, samples: int) -> Tensor:
    """One sample's part of a batch's states, which may have several rows for each sample.

    Raises:
        NotBatched: they have no sample axis.
    """
    if samples == 1:
        return states
    if states.shape[0] % samples:
        raise NotBatched("hidden states")
    rows = states.shape[0] // samples
    return states.detach()[row * rows : (row + 1) * rows].requires_grad_(states.requires_grad)


def modules_of(modules: Modules, names: Collection[str]) -> Modules:
    """The modules of these parameters alone."""
    owners = {
        owner: (module, {name: rule for name, rule in rules.items() if name in names})
        for owner, (module, rules) in modules.items()
    }
    return {owner: (module, rules) for owner, (module, rules) in owners.items() if rules}


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


@dataclass(frozen=True)
class Chain:
    """L calls of blocks, each of which reads the hidden states that the one before returned.

    ``hidden`` is the argument that takes them; ``extras`` are further arguments that carry
    gradients, such as DeBERTa's relative positions, the same tensors for every block. ``tuples``
    are the lengths of the results that are tuples, 0 for one that is the hidden states alone.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    hidden: Key
    extras: tuple[Key, ...]
    tuples: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.modules)


@dataclass(frozen=True)
class _BlockCall:
    """A recorded call of a block."""

    name: str
    module: nn.Module
    arguments: Arguments
    result: Any

    def tensors(self) -> dict[Key, Tensor]:
        """The arguments that are tensors themselves."""
        return {key: value for key, value in self.arguments.items() if isinstance(value, Tensor)}


def find_chain(encoder: nn.Module, forward: Callable[[], Tensor]) -> Chain | None:
    """The longest chain of blocks of one ``nn.ModuleList``, or None where there is none of two.

    ``forward`` passes a small batch; every parameter must require gradients meanwhile, so that
    arguments which depend on parameters are recognised.
    """
    # A model may have several lists, as an encoder-decoder has: take the one with the longest run.
    best: list[_BlockCall] = []
    for calls in _calls_by_list(encoder, forward):
        run = _longest_run(calls)
        if len(run) > len(best):
            best = run
    if len(best) < 2:
        return None
    # Tensors are recognised by identity: block 1 reads the very tensor that block 0 returned.
    hidden_states = _hidden_states(best[0].result)
    hidden = next(key for key, value in best[1].tensors().items() if value is hidden_states)
    extras = tuple(
        key
        for key, value in best[0].tensors().items()
        if key != hidden and value.requires_grad and value.is_floating_point()
    )
    if not _carries_all_gradients(best, hidden, extras):
        return None
    return Chain(
        names=tuple(call.name for call in best),
        modules=tuple(call.module for call in best),
        hidden=hidden,
        extras=extras,
        tuples=tuple(len(c.result) if isinstance(c.result, tuple) else 0 for c in best),
    )


def _carries_all_gradients(
    calls: Sequence[_BlockCall], hidden: Key, extras: Collection[Key]
) -> bool:
    """Whether every gradient between blocks goes through the hidden states or through extras.

    Only then can they be pulled back one by one; otherwise the encoder is passed as a whole.
    """
    first = calls[0].tensors()
    for call in calls:
        tensors = call.tensors()
        carrying = {key for key, value in tensors.items() if value.requires_grad and key != hidden}
        if carrying != set(extras) or any(tensors[key] is not first[key] for key in extras):
            return False
        # Tensors inside lists or caches could carry gradients unseen.
        nested = [value for value in call.arguments.values() if not isinstance(value, Tensor)]
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(nested)):
            return False
    return True


def _calls_by_list(encoder: nn.Module, forward: Callable[[], Tensor]) -> list[list[_BlockCall]]:
    """The calls of the children of every ``nn.ModuleList``, in one forward pass."""
    by_list: list[list[_BlockCall]] = []
    handles = []
    for list_name, blocks in encoder.named_modules():
        if isinstance(blocks, nn.ModuleList):
            by_list.append([])
            for name, block in blocks.named_children():
                keep = partial(_record_call, by_list[-1], f"{list_name}.{name}")
                handles.append(block.register_forward_hook(keep, with_kwargs=True))
    try:
        with torch.enable_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return by_list


def _record_call(
    calls: list[_BlockCall], name: str, module: nn.Module, positional: Any, named: Any, result: Any
) -> None:
    calls.append(_BlockCall(name, module, _arguments(positional, named), result))


def _longest_run(calls: Sequence[_BlockCall]) -> list[_BlockCall]:
    """The longest run of calls that hand their hidden states on as the same argument."""
    best: list[_BlockCall] = []
    run: list[_BlockCall] = []
    hidden: Key | None = None  # where the calls of the run take the hidden states
    for call in calls:
        key: Key | None = None
        if run:
            previous = _hidden_states(run[-1].result)
            key = next((k for k, value in call.tensors().items() if value is previous), None)
        if key is None or (hidden is not None and key != hidden):
            run, hidden = [call], None
        else:
            run, hidden = [*run, call], key
        if len(run) > len(best):
            best = run
    return best if all(isinstance(_hidden_states(call.result), Tensor) for call in best) else []


@contextmanager
def replaced_blocks(chain: Chain, stand_in: Callable[[int, Arguments], Tensor]) -> Iterator[None]:
    """Within this context the blocks do not run: ``stand_in(number, arguments)`` does.

    ``number`` counts the chain's calls; the value becomes the block's hidden states.
    """
    numbers = iter(range(len(chain)))

    def forward(*positional: Any, **named: Any) -> Any:
        number = next(numbers)
        hidden = stand_in(number, _arguments(positional, named))
        # Models unpack a block's tuple or index it: it must have its usual length.
        length = chain.tuples[number]
        return (hidden, *[None] * (length - 1)) if length else hidden

    with replaced_forward(chain.modules, forward):
        yield


def _arguments(positional: Sequence[Any], named: Mapping[str, Any]) -> Arguments:
    arguments: Arguments = dict(enumerate(positional))
    arguments.update(named)
    return arguments


def _call_module(module: nn.Module, arguments: Arguments) -> Any:
    return module(
        *(value for key, value in arguments.items() if isinstance(key, int)),
        **{key: value for key, value in arguments.items() if isinstance(key, str)},
    )


def _hidden_states(result: Any) -> Any:
    """A block's result is its hidden states, or a tuple of which they are the first entry."""
    return result[0] if isinstance(result, tuple) else result


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within this context other people's modules run as they are, and leave no trace.

    The caller's inference mode is off. Compiled modules run uncompiled, as their graphs would leave
    out the hooks of the engine. Random numbers are drawn from copies of the caller's generators.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices=()),
            torch.inference_mode(False),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def computed_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context everything is computed in ``dtype``.

    Attention is plain matrix products, float32 products are true float32 (no TF32), and nothing in
    a float64 model is rounded to float32. The caller's autocast is off.
    """
    with (
        undisturbed(),
        _float32_products("ieee"),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext(),
        sdpa_kernel([SDPBackend.MATH]),
        DoublePrecision() if dtype == torch.float64 else nullcontext(),
    ):
        yield


@contextmanager
def products_in(products: Products) -> Iterator[None]:
    """Within this context products of whole gradients are as fast as ``products`` allows.

    Products of bfloat16 numbers are summed in float32.
    """
    if products == "exact":
        yield
        return
    # cuBLAS may add up products of bfloat16 in bfloat16, at the cost of digits: not here.
    cuda = torch.backends.cuda.matmul
    previous = cuda.allow_bf16_reduced_precision_reduction
    try:
        cuda.allow_bf16_reduced_precision_reduction = False
        with _float32_products("tf32" if products == "tf32" else "bf16"):
            yield
    finally:
        cuda.allow_bf16_reduced_precision_reduction = previous


@contextmanager
def _float32_products(precision: Literal["ieee", "tf32", "bf16"]) -> Iterator[None]:
    """Within this context PyTorch multiplies float32 as float32, TF32 or (CPU only) bfloat16."""
    settings = [
        attrgetter(name)(torch.backends)
        for name in _BACKENDS
        if precision != "bf16" or name.startswith("mkldnn")
    ]
    previous_precisions = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, previous in zip(settings, previous_precisions, strict=True):
            setting.fp32_precision = previous


class DoublePrecision(TorchFunctionMode):
    """Within this context no float64 tensor is converted to float32.

    transformers' RMSNorm, rotary embeddings and attention softmax convert to float32 whatever the
    model's dtype. For a half-precision model that adds digits; a float64 model loses all beyond
    the seventh, and the rounding drowns the change of a small step. Other dtypes convert as usual.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(map(_double_for_float, args))
            kwargs = {name: _double_for_float(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _double_for_float(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


@contextmanager
def only_these_require_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Within this context the model evaluates, and only ``parameters`` require gradients."""
    # What is changed is recorded first, and put back.
    gradients_required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = set(map(id, parameters))
    with evaluating(model):
        try:
            for parameter, _ in gradients_required:
                parameter.requires_grad_(id(parameter) in chosen)
            yield
        finally:
            for parameter, previous in gradients_required:
                parameter.requires_grad_(previous)


def plain_gradients(
    network: Network,
    batch: Batch,
    cotangents: Tensor,
    parameters: Sequence[nn.Parameter],
) -> list[Tensor]:
    """The gradients of ``sum_n cotangents_n . phi_n`` over a batch (n x h), by plain autograd."""
    with only_these_require_gradients(network.root, parameters), torch.enable_grad():
        output = (network.features(batch) * cotangents).sum()
        if not output.requires_grad:  # none of these parameters reaches the features
            return [torch.zeros_like(parameter) for parameter in parameters]
        return list(
            torch.autograd.grad(output, parameters, allow_unused=True, materialize_grads=True)
        )


def parameter_chunks(parameters: Sequence[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """The parameters in order, in lists of at most ``most`` numbers or one single parameter."""
    chunks: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        if not chunks or size + parameter.numel() > most:
            chunks.append([])
            size = 0
        chunks[-1].append(parameter)
        size += parameter.numel()
    return chunks
