"""The structure of a network: its parameters, and the cheapest passes that give their gradients.

Nothing here trusts a module's type: on two short texts, every parameter's share is compared with
plain autograd's gradient. Strategies are tried from the cheapest on:

1. the blocks of a chain one by one, several texts together,
2. the same with one text at a time,
3. and 4. the same two with the whole network at once,
5. everything by autograd alone, where no module can be watched.

Within each, parameters whose share comes out wrong are left to autograd, until all are right.
"""

import logging
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from lpft.data.tokens import Tokens
from lpft.errors import InputError, one_line, out_of_memory
from lpft.ntk.capture import (
    Modules,
    NotBatched,
    Outer,
    Rows,
    Rule,
    RuleFailed,
    Share,
    Tied,
    active_tokens,
    merge_uses,
    modules_with_rules,
    share_parts,
    transposed_weights,
)
from lpft.ntk.network import Inputs, Network, batch_to, device_and_dtype, sample_count
from lpft.ntk.outputs import Batch
from lpft.ntk.passes import (
    Chain,
    OtherPath,
    Passes,
    find_chain,
    modules_of,
    only_these_require_gradients,
    parameter_chunks,
    plain_gradients,
)
from lpft.ntk.storage import ActivationStore
from lpft.settings.kernels import Granularity

logger = logging.getLogger(__name__)

Kind = Literal["embeddings", "attention", "feed-forward", "LayerNorm", "bias"]
Form = Literal["outer", "rows", "tied", "vector"]

_CHECKED_TOKENS = 12
_TOLERANCE = 1e4
"""Of a gradient's relative error, in units of the dtype's rounding."""
_CHECKED_AT_ONCE = 1 << 24
"""Numbers in the gradients that are compared at once, unless a single parameter has more."""
_EFFORT_ALONE = 2.5
"""The time of texts one by one, relative to texts together (measured: MiniLM, one core)."""
_LARGE = 1 << 15
"""Numbers of a vector that are contracted alone."""
_RANDOM_SEED = 20_240_516
FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    StopIteration,
)
"""What modules raise where a strategy does not suit them."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the kernel: where it acts, and the sizes of its share of one text.

    ``layer`` is "embeddings", "layer 3" or "final" (joined where a parameter is shared), ``kind``
    the part of a transformer that it belongs to: a LayerNorm's bias counts as "bias", an RMSNorm's
    weight as "LayerNorm". ``form`` is that of its share: "outer" (:class:`Outer`, a linear weight),
    "rows" (:class:`Rows`, an embedding), "tied" (:class:`Tied`, both) or "vector" (J itself). A
    linear weight has ``sizes``
    (a, b) and sees ``tokens_per_token`` of a text's tokens, or one token where ``pooled``; another
    has (0, d).
    """

    name: str
    positions: tuple[int, ...]
    layer: str
    kind: Kind
    form: Form
    sizes: tuple[int, int]
    tokens_per_token: float
    pooled: bool
    fallback: bool

    @property
    def linear(self) -> bool:
        """Whether hidden states are multiplied by it, and its rows not only looked up."""
        return self.form in ("outer", "tied")

    @property
    def large(self) -> bool:
        """Whether its J is too large to be copied beside that of others."""
        return self.sizes[1] > _LARGE

    def numbers_per_token(self, cotangents: int) -> int:
        """Numbers per token in the inputs, and all cotangents' gradients, of its uses."""
        a, b = self.sizes
        return 0 if self.form == "vector" else len(self.positions) * (a + cotangents * b)


@dataclass(frozen=True)
class Structure:
    """How a network is passed, and what each position of it holds.

    ``units`` are runs of positions that share no parameter with others, last first. ``direct``
    parameters get their gradient from autograd, one text at a time: where they act, texts that are
    passed together pass again one by one. They are tables that are used whole, as
    DeBERTa's relative positions are, and the ``fallback``, which no rule fits. ``unreached`` ones
    had no gradient on the texts of the check.

    ``widths`` are, per position, the numbers that one token leaves in inputs and in one
    cotangent's gradients; ``extras`` those that a batch leaves in one cotangent's gradients at the
    blocks' further arguments; ``forward_flops`` those of a forward pass per token. The module has
    ``layers`` layers with ``heads`` heads of attention (0 without any), and hidden states of
    ``hidden`` numbers per token. ``length`` is that of the longest sample of the check; a sample
    of tensors has as many tokens as its weights see at most.
    """

    chain: Chain | None
    batched: bool
    modules: Modules
    direct: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    unreached: tuple[str, ...]
    units: tuple[range, ...]
    widths: tuple[tuple[int, int], ...]
    extras: int
    forward_flops: float
    hidden: int
    heads: int
    layers: int
    length: int

    @property
    def fallback(self) -> tuple[str, ...]:
        """The parameters that no rule fits, for which autograd is the only way."""
        return tuple(parameter.name for parameter in self.parameters if parameter.fallback)

    def of_unit(self, unit: int) -> list[Parameter]:
        """The parameters that act in a unit."""
        return [p for p in self.parameters if p.positions[0] in self.units[unit]]

    def passes_of_unit(self, unit: int) -> int:
        """How often texts pass a unit: again one by one where autograd treats parameters in it."""
        return 2 if self.left_to_autograd(unit) and self.batched else 1

    def left_to_autograd(self, unit: int) -> bool:
        """Whether autograd treats parameters of a unit."""
        return any(parameter.name in self.direct for parameter in self.of_unit(unit))

    def parts(self, granularity: Sequence[Granularity]) -> int:
        """How many parts a kernel is split into beside its total."""
        return sum(len({getattr(p, by) for p in self.parameters}) for by in granularity)


def detect_structure(
    network: Network,
    inputs: Inputs,
    names: Sequence[str],
    *,
    shortened: bool = True,
    by_autograd: bool = False,
) -> Structure:
    """Find the cheapest way to pass ``network`` that gives autograd's gradients.

    Blocks one by one come before everything at once, batches of several texts before single ones.
    Parameters that come out wrong, or have no rule, are left to autograd, one text at a time.

    Args:
        names: the parameters of the network that count for some kernel.
        shortened: whether the texts of the check are cut; or else they are the two longest.
        by_autograd: whether everything is left to autograd, as inputs take different ways.

    Raises:
        InputError: plain autograd does not pass the network, or disagrees with itself.
    """
    by_name = network.named_parameters()
    batches, side = _check_batches(network, inputs, shortened=shortened)
    try:
        # All parameters require gradients, so that arguments which depend on some are recognised.
        with only_these_require_gradients(network.root, list(by_name.values())):
            chain = find_chain(network.module, lambda: network.features(batches[0]))
    except FAILURES as error:
        raise InputError(cannot_pass(error)) from error
    parameters = {name: by_name[name] for name in names}
    detector = _Detector(network, parameters, batches, shortened=shortened)
    best: _Strategy | None = None
    candidates = () if by_autograd else dict.fromkeys((chain, None))
    # Texts of several lengths pass together only where the model ignores padding on that side.
    can_pad = side is None or network.safe_padding in ("both", side)
    for candidate in candidates:
        for batched in (True, False) if can_pad else (False,):
            strategy = detector.find_strategy(candidate, batched=batched)
            if strategy is not None and (best is None or strategy.preferred_to(best)):
                best = strategy
            if best is not None and best.is_cheapest(detector.direct):
                break
        # What a chain gets right, everything at once does no better.
        if best is not None and not best.wrong:
            break
    if best is None:
        best = detector.check(None, names, batched=False)
    best = detector.require_strategy(best)
    if best.wrong:
        raise InputError(
            f"the gradient of {best.wrong[0]} is not finite, or differs from one pass to the next: "
            "expected a model whose features follow from the input alone in evaluation mode"
        )
    return detector.build_structure(detector.with_small_convolutions_formed(best))


def _check_batches(
    network: Network, inputs: Inputs, *, shortened: bool
) -> tuple[list[Batch], str | None]:
    """Two batches of one sample each, and the side on which they would be padded to one length.

    Of texts the shortest and the longest, both shortened, so that their lengths differ; or the two
    longest as they are.
    """
    device, dtype = device_and_dtype(network.module)
    if not isinstance(inputs, Tokens):
        ends = (0, len(inputs) - 1)
        return [batch_to(inputs.batch([row]), device, dtype) for row in ends], None
    # Different lengths, so that padding is checked too; short, so that the check costs little.
    order = np.argsort(inputs.lengths, kind="stable")
    rows: Sequence[tuple[int, int | None]]
    rows = ((order[0], _CHECKED_TOKENS - 3), (order[-1], _CHECKED_TOKENS))
    if not shortened:
        rows = ((order[-2:][0], None), (order[-1], None))
    batches = [
        {name: ids[:, :limit].to(device) for name, ids in inputs.batch([int(row)]).items()}
        for row, limit in rows
    ]
    return batches, inputs.padding_side


def are_shortened(inputs: Inputs) -> bool:
    """Whether the check reads some texts only in part."""
    return inputs.lengths is not None and int(inputs.lengths.max()) > _CHECKED_TOKENS


@contextmanager
def reading(
    network: Network,
    inputs: Inputs,
    rows: Sequence[int] | NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
) -> Iterator[None]:
    """Within this context the network reads inputs; what it cannot read is named.

    ``groups`` are those of all inputs, 0 for those of the rows (default: one group).

    Raises:
        InputError: the module fails on one of these inputs, or on all of them together.
    """
    try:
        yield
    except (InputError, NotBatched, RuleFailed, OtherPath):
        raise
    except Exception as error:  # whatever other people's modules raise
        if out_of_memory(error):
            raise
        which, cause = "some inputs cannot be read together", error
        for row in rows:
            batch = batch_to(inputs.batch([row]), *device_and_dtype(network.root))
            try:
                with torch.no_grad():
                    network.features(batch)
            except Exception as alone:
                group = 0 if groups is None else groups[row]
                number = row if groups is None else row - int(np.argmax(groups == group))
                of_others = " of the other inputs" if group else ""
                which, cause = f"input {number}{of_others} (from 0) cannot be read", alone
                break
        raise InputError(
            f"{which} ({type(cause).__name__}: {one_line(cause)}): expected inputs that the model "
            "reads"
        ) from cause


def cannot_pass(error: Exception | None) -> str:
    """The line for a model that autograd does not pass."""
    if isinstance(error, InputError):  # which says itself what is wrong
        return str(error)
    lines = str(error).splitlines() or [type(error).__name__]
    return (
        f"the model cannot be differentiated ({lines[0]}): expected one that plain autograd "
        "passes in evaluation mode and in this dtype; name another model, or another dtype"
    )


@dataclass
class _Strategy:
    """One way to pass the network, and its result on short texts.

    The blocks of ``chain`` one by one, or everything at once; several texts together where
    ``batched``; shares by the rules of ``modules``, but from autograd for parameters in ``direct``.

    ``wrong`` are the parameters whose share differs from autograd's gradient, ``unseen`` those in
    ``direct`` of which no call was seen; ``shares`` are by group of texts that passed together,
    position and name; ``extras`` and ``hidden`` are as in :class:`Passes`.
    """

    chain: Chain | None
    batched: bool
    modules: Modules
    direct: tuple[str, ...]
    shares: list[list[dict[str, Share]]] = field(default_factory=list)
    wrong: tuple[str, ...] = ()
    unseen: frozenset[str] = frozenset()
    extras: int = 0
    hidden: int = 0

    @property
    def effort(self) -> float:
        """The time of its passes, relative to those of several texts together.

        Where autograd treats parameters, texts that pass together pass again one by one.
        """
        if not self.batched:
            return _EFFORT_ALONE
        # The names that have shares at each position, over all groups of texts.
        positions = [set().union(*at) for at in zip(*self.shares, strict=True)]
        again = sum(not names.isdisjoint(self.direct) for names in positions)
        return 1 + _EFFORT_ALONE * again / len(positions)

    def preferred_to(self, other: "_Strategy") -> bool:
        """Whether it is right where the other is wrong, leaves less to autograd, or is cheaper."""
        mine, theirs = ((len(s.wrong), len(s.direct), s.effort) for s in (self, other))
        return mine < theirs

    def is_cheapest(self, unruled: Collection[str]) -> bool:
        """Whether it is right and no other can be better; ``unruled`` parameters have no rule."""
        return not self.wrong and set(self.direct) <= set(unruled) and self.effort <= _EFFORT_ALONE


class _Detector:
    """Compares ways to pass one network with autograd on short texts.

    ``direct`` are the parameters that autograd must treat: those without a rule, and those whose
    rule did not fit a call.
    """

    def __init__(
        self,
        network: Network,
        parameters: dict[str, nn.Parameter],
        batches: Sequence[Batch],
        *,
        shortened: bool,
    ) -> None:
        self._network = network
        self._parameters = parameters
        self._batches = batches
        self._shortened = shortened
        self._modules, unruled = modules_with_rules(network.module, list(parameters))
        self._transposed = transposed_weights(self._modules)
        self._failure: Exception | None = None
        self.direct: dict[str, None] = dict.fromkeys(unruled)

    def find_strategy(self, chain: Chain | None, *, batched: bool) -> _Strategy | None:
        """A strategy that leaves to autograd each parameter whose share is wrong otherwise.

        None where the network cannot be passed so.
        """
        direct: dict[str, None] = {}
        unseen: set[str] = set()
        # Each round leaves the parameters that came out wrong to autograd. It ends when all are
        # right, or when those that are wrong are autograd's own and nothing is left to try.
        while True:
            strategy = self.check(chain, direct, batched=batched)
            if strategy is None:
                return None
            if set(strategy.wrong) <= direct.keys():
                return replace(strategy, unseen=frozenset(unseen))
            seen = {name for group in strategy.shares for shares in group for name in shares}
            unseen |= set(strategy.wrong) - seen
            direct |= dict.fromkeys(strategy.wrong)

    def with_small_convolutions_formed(self, strategy: _Strategy) -> _Strategy:
        """The same with convolutions' gradients formed at once where these are small.

        That is where a sample's patches and one gradient at its result are larger.
        """
        convolutions = {
            name
            for module, rules in strategy.modules.values()
            for name, rule in rules.items()
            if rule is Rule.OUTER and isinstance(module, nn.Conv2d | nn.Conv3d)
        }
        small = {
            name
            for group in strategy.shares
            for shares in group
            for name, share in shares.items()
            if name in convolutions and isinstance(share, Outer) and _gradient_is_smaller(share)
        }
        if not small:
            return strategy
        self._modules = {
            owner: (
                module,
                {n: Rule.FORMED if n in small else rule for n, rule in rules.items()},
            )
            for owner, (module, rules) in self._modules.items()
        }
        checked = self.check(
            strategy.chain, dict.fromkeys(strategy.direct), batched=strategy.batched
        )
        return self.require_strategy(
            checked if checked is None else replace(checked, unseen=strategy.unseen)
        )

    def check(
        self, chain: Chain | None, direct: Iterable[str] = (), *, batched: bool
    ) -> _Strategy | None:
        """A strategy with its result, right or wrong; None where the network cannot be passed so.

        ``direct`` are parameters to leave to autograd beside those without a rule.
        """
        # Repeated where a rule does not fit its module at all: the parameters join ``self.direct``.
        while True:
            by_autograd = dict.fromkeys((*self.direct, *direct))
            modules = modules_of(self._modules, self._parameters.keys() - by_autograd.keys())
            strategy = _Strategy(chain, batched, modules, tuple(by_autograd))
            try:
                wrong: set[str] = set()
                if batched and self._shortened and all(map(_is_tokens, self._batches)):
                    # As many tokens as texts: where a module has the tokens first, shapes cannot
                    # tell the two axes apart, but this comparison can.
                    count = len(self._batches)
                    square = [{n: ids[:, :count] for n, ids in b.items()} for b in self._batches]
                    wrong |= self._compare(strategy, square)
                wrong |= self._compare(strategy, self._batches)
            except RuleFailed as failed:
                self.direct.update(dict.fromkeys(failed.args))
                continue
            except NotBatched:
                return None
            except FAILURES as error:
                logger.debug("passing %s failed: %s", chain, error)
                self._failure = error
                return None
            strategy.wrong = tuple(name for name in self._parameters if name in wrong)
            return strategy

    def require_strategy(self, strategy: _Strategy | None) -> _Strategy:
        """The strategy, if there is one; otherwise the network is refused."""
        if strategy is None:
            raise InputError(cannot_pass(self._failure)) from self._failure
        return strategy

    def _compare(self, strategy: _Strategy, batches: Sequence[Batch]) -> set[str]:
        """Pass the texts, together or one by one; return the parameters whose share is wrong."""
        groups = [_joined_batch(batches)] if strategy.batched else batches
        eps = torch.finfo(device_and_dtype(self._network.module)[1]).eps
        if strategy.batched:
            self._refuse_dependence(groups[0], batches, _TOLERANCE * eps)
        strategy.shares = [self._pass(strategy, group) for group in groups]
        wrong: set[str] = set()
        for sample, batch in enumerate(batches):
            group, row = (0, sample) if strategy.batched else (sample, 0)
            by_name: dict[str, list[Share]] = {}
            # A parameter's gradient is the sum of its shares at all positions.
            for at_position in strategy.shares[group]:
                for name, share in at_position.items():
                    by_name.setdefault(name, []).append(share)
            norms, errors = self._errors(batch, by_name, row)
            # Gradients that are zero up to rounding are compared with the largest of all.
            least = 1e-3 * max(norms.values(), default=0.0)
            wrong |= {
                name
                for name, error in errors.items()
                if not error <= _TOLERANCE * eps * max(norms[name], least)
            }
        return wrong

    @torch.no_grad()
    def _refuse_dependence(self, joined: Batch, batches: Sequence[Batch], tolerance: float) -> None:
        """Refuse to pass texts together whose features then are others than alone.

        Raises:
            NotBatched: they are.
        """
        with only_these_require_gradients(self._network.root, []):
            together = self._network.features(joined)
            alone = torch.cat([self._network.features(batch) for batch in batches])
        if not float((together - alone).detach().norm()) <= tolerance * float(
            alone.detach().norm()
        ):
            raise NotBatched("the features")

    def _errors(
        self, batch: Batch, shares: dict[str, list[Share]], row: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Per parameter the norm of autograd's gradient of one text, and that of the difference.

        The gradients are formed a few at a time: an allocator seldom gives back what it took once.
        """
        norms, errors = {}, {}
        cotangent = _cotangent(self._network)
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for chunk in parameter_chunks(list(self._parameters.values()), _CHECKED_AT_ONCE):
            # In the loop's head, so that a chunk's gradients are freed before the next one's.
            for parameter, gradient in zip(
                chunk, plain_gradients(self._network, batch, cotangent, chunk), strict=True
            ):
                name = names[id(parameter)]
                norms[name] = float(gradient.norm())
                # A clone: two gradients may share memory, where one parameter is a part of another.
                difference = gradient.clone()
                shapes_fit = [
                    _subtract(difference, share, row, transposed=name in self._transposed)
                    for share in shares.get(name, ())
                ]
                errors[name] = float(difference.norm()) if all(shapes_fit) else math.inf
        return norms, errors

    def _pass(self, strategy: _Strategy, batch: Batch) -> list[dict[str, Share]]:
        """The shares of every position, from the first to the last."""
        direct = {name: self._parameters[name] for name in strategy.direct}
        cotangent, store = _cotangent(self._network), ActivationStore("memory")
        with only_these_require_gradients(self._network.root, list(direct.values())):
            passes = Passes(
                self._network, strategy.chain, strategy.modules, direct, cotangent, store
            )
            passes.forward(0, batch)
            # From the last position to the first, as gradients are handed down; then reversed.
            shares = [passes.backward(p, 0, batch) for p in reversed(range(passes.positions))]
        strategy.extras, strategy.hidden = passes.extras, passes.hidden
        return shares[::-1]

    def build_structure(self, strategy: _Strategy) -> Structure:
        """The structure of the network as it was passed."""
        # A table in which no id is looked up is used whole: autograd is its way, not a fallback.
        modules = self._network.module.named_modules()
        tables = {f"{n}.weight" for n, module in modules if isinstance(module, nn.Embedding)}
        fallback = set(strategy.direct) - (tables & strategy.unseen)
        by_position = max(strategy.shares, key=_tokens_held)
        outers = _outers(by_position)
        most_tokens = max((outer.inputs.shape[1] for outer in outers), default=1)
        lengths = [_tokens(batch, most_tokens) for batch in self._batches]
        length = max(lengths)
        positions: dict[str, list[int]] = {}
        if not strategy.modules and strategy.chain is None:
            # Others may reach a parameter that these texts do not: autograd takes it as it comes.
            zeros = {n: p.new_zeros(1, 1, p.numel()) for n, p in self._parameters.items()}
            by_position = [zeros | by_position[0]]
        for position, shares in enumerate(by_position):
            for name in shares:
                positions.setdefault(name, []).append(position)
        return Structure(
            chain=strategy.chain,
            batched=strategy.batched,
            modules=strategy.modules,
            direct=strategy.direct,
            parameters=tuple(
                self._parameter(strategy, name, at, by_position, length, fallback=name in fallback)
                for name, at in positions.items()
            ),
            unreached=tuple(name for name in self._parameters if name not in positions),
            units=_units(len(by_position), positions.values()),
            widths=tuple(_widths(shares) for shares in by_position),
            extras=strategy.extras,
            forward_flops=_forward_flops(self._network, self._batches[0]) / lengths[0],
            hidden=strategy.hidden,
            heads=_attention_heads(self._network.module),
            layers=_config_number(self._network.module, "num_hidden_layers", default=1),
            length=length,
        )

    def _parameter(
        self,
        strategy: _Strategy,
        name: str,
        positions: Sequence[int],
        shares: Sequence[dict[str, Share]],
        length: int,
        *,
        fallback: bool,
    ) -> Parameter:
        """A parameter that has shares at ``positions``; ``length`` is that of the longest text."""
        form: Form = "vector"
        sizes, ratio, pooled = (0, self._parameters[name].numel()), 1.0, False
        share = merge_uses([shares[position][name] for position in positions])
        if isinstance(share, Outer | Tied):
            form = "outer" if isinstance(share, Outer) else "tied"
            outer = share if isinstance(share, Outer) else share.outer
            sizes = (outer.inputs.shape[-1], outer.gradients[0].shape[-1])
            # How many of a text's tokens have a gradient: one, above the last attention of a model
            # that is read at its first token.
            active = active_tokens(outer)
            seen = 0 if active is None else active.inputs.shape[1]
            pooled = seen == 1 < length
            ratio = seen / length
        elif isinstance(share, Rows):
            form, sizes = "rows", (0, share.vectors.shape[-1])
        if strategy.chain is None:
            layer = "encoder" if self._network.part else name.partition(".")[0]
        else:
            layer = _layer(positions, len(shares))
        rule = next((rules[name] for _, rules in strategy.modules.values() if name in rules), None)
        kind = _kind(name, form, rule, before_blocks=layer == "embeddings")
        return Parameter(name, tuple(positions), layer, kind, form, sizes, ratio, pooled, fallback)


def _joined_batch(batches: Sequence[Batch]) -> Batch:
    """One batch, texts padded on the right; zero in the mask means padding."""
    if not all(_is_tokens(batch) for batch in batches):
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    return {
        name: torch.cat(
            [pad(batch[name], (0, longest - batch[name].shape[1])) for batch in batches]
        )
        for name in batches[0]
    }


def _is_tokens(batch: Batch) -> bool:
    """Whether every tensor of the batch is n x T, as token ids and masks are."""
    return {tensor.ndim for tensor in batch.values()} == {2} and "input_ids" in batch


def _tokens(batch: Batch, seen: int) -> int:
    """Tokens of a sample: those of its text, or else the most that one of its weights sees."""
    ids = batch.get("input_ids")
    return seen if ids is None or ids.ndim < 2 else ids.shape[1]


def _cotangent(network: Network) -> Tensor:
    """A random gradient at the features, 1 x h: the same at every call."""
    generator = torch.Generator().manual_seed(_RANDOM_SEED)
    device, dtype = device_and_dtype(network.module)
    return torch.randn(1, network.width, generator=generator).to(device, dtype)


def _config_number(module: nn.Module, name: str, *, default: int) -> int:
    """A number of the configuration of the module, or of the part whose attention it describes.

    The largest, where stages of the module have numbers of their own.
    """
    configs = (getattr(part, "config", None) for part in module.modules())
    config = next((c for c in configs if hasattr(c, "num_attention_heads")), None)
    value = getattr(config, name, default)
    return max(value, default=default) if isinstance(value, list | tuple) else value


def _attention_heads(module: nn.Module) -> int:
    head_counts = [
        part.num_heads for part in module.modules() if isinstance(part, nn.MultiheadAttention)
    ]
    return _config_number(module, "num_attention_heads", default=max(head_counts, default=0))


def _subtract(difference: Tensor, share: Share, sample: int, *, transposed: bool) -> bool:
    """Subtract one sample's share (of the first cotangent); whether its shape fits."""
    if isinstance(share, Tied):
        parts = (share.outer, share.rows)
        return all(_subtract(difference, part, sample, transposed=transposed) for part in parts)
    if isinstance(share, Rows):
        of_sample = share.samples == sample
        difference.index_add_(0, share.ids[of_sample], share.vectors[0, of_sample], alpha=-1)
        return True
    if isinstance(share, Outer):
        product = share.gradients[0][sample].T @ share.inputs[sample]
        product = product.T if transposed else product
    else:
        product = share[0, sample]
    if product.numel() != difference.numel():
        return False
    difference -= product.reshape(difference.shape)
    return True


def _layer(positions: Sequence[int], count: int) -> str:
    """The name of the layer, or of the first and last one; the chain has ``count`` positions."""

    def name(position: int) -> str:
        if position == 0:
            return "embeddings"
        return "final" if position == count - 1 else f"layer {position - 1}"

    if len(positions) == 1:
        return name(positions[0])
    return f"{name(positions[0])} to {name(positions[-1]).removeprefix('layer ')}"


def _kind(name: str, form: Form, rule: Rule | None, *, before_blocks: bool) -> Kind:
    """The part of a transformer that a parameter belongs to, by the usual names of modules."""
    if name.endswith("bias"):
        return "bias"
    if form == "rows" or (before_blocks and rule is not Rule.SCALE):
        return "embeddings"
    if rule is Rule.SCALE:
        return "LayerNorm"
    return "attention" if "att" in name.lower() else "feed-forward"


def _units(count: int, positions_of_parameters: Iterable[Sequence[int]]) -> tuple[range, ...]:
    """Runs of ``count`` positions, last first, cut wherever no parameter acts on both sides.

    A parameter's share at all of its positions must be complete before it is contracted, for
    ``(a + b)(a' + b')`` has cross terms: so a unit holds all uses of its parameters.
    """
    spans = [(min(positions), max(positions)) for positions in positions_of_parameters]
    cuts = [cut for cut in range(1, count) if not any(low < cut <= high for low, high in spans)]
    return tuple(range(start, stop) for start, stop in pairwise([0, *cuts, count]))[::-1]


def _outers(shares: Sequence[dict[str, Share]]) -> list[Outer]:
    """The shares of linear weights, also of those that are embeddings as well."""
    parts = [part for at in shares for share in at.values() for part in share_parts(share)]
    return [part for part in parts if isinstance(part, Outer)]


def _tokens_held(shares: Sequence[dict[str, Share]]) -> int:
    return sum(outer.inputs.shape[1] for outer in _outers(shares))


def _gradient_is_smaller(outer: Outer) -> bool:
    """Whether a linear weight's gradient takes less room than what it is the product of."""
    (_, tokens, a), b = outer.inputs.shape, outer.gradients[0].shape[-1]
    return tokens * (a + b) >= a * b


def _widths(shares: dict[str, Share]) -> tuple[int, int]:
    """Numbers per token in the distinct inputs, and in the gradients of one cotangent."""
    outers = _outers([shares])
    inputs = {outer.inputs.data_ptr(): outer.inputs.shape[-1] for outer in outers}
    parts = [part for share in shares.values() for part in share_parts(share)]
    rows = [part.vectors.shape[-1] for part in parts if isinstance(part, Rows)]
    return sum(inputs.values()), sum(o.gradients[0].shape[-1] for o in outers) + sum(rows)


def _forward_flops(network: Network, batch: Batch) -> float:
    """Flops of a forward pass of a sample."""
    try:
        with (
            only_these_require_gradients(network.root, []),
            torch.no_grad(),
            warnings.catch_warnings(),
            FlopCounterMode(display=False) as counter,
        ):
            warnings.simplefilter("ignore")  # a compiled module warns of the counter's hooks
            network.features(batch)
    except FAILURES:  # it cannot follow a module that calls autograd itself
        return 2.0 * sum(parameter.numel() for parameter in network.root.parameters())
    return counter.get_total_flops() / sample_count(batch)
