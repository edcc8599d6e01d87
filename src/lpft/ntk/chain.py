"""The chain of equal blocks inside an encoder, found by watching a forward pass.

Rebuilding one block at a time bounds the memory of the backward pass by one block's activations.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Key = int | str
"""Place of an argument: its position, or its keyword."""


@dataclass(frozen=True)
class BlockCall:
    """A call of a block as it was seen: arguments, and whether its result is a tuple."""

    name: str
    module: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any

    @property
    def hidden(self) -> Any:
        """The hidden states that come out: the result, or the first entry of a tuple."""
        return self.result[0] if isinstance(self.result, tuple) else self.result

    def argument(self, key: Key) -> Any:
        return self.arguments[key] if isinstance(key, int) else self.keywords.get(key)

    def tensors(self) -> dict[Key, Tensor]:
        """The arguments that are tensors themselves."""
        given: dict[Key, Any] = dict(enumerate(self.arguments))
        given.update(self.keywords)
        return {key: value for key, value in given.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Chain:
    """L calls in which each block's hidden states are the next one's.

    ``hidden`` is where they are given; ``extras`` are further arguments that carry gradients,
    such as DeBERTa's relative positions, the same tensors for every block.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    hidden: Key
    extras: tuple[Key, ...]
    tuples: tuple[int, ...]
    """Length of each block's result where it is a tuple, 0 where it is the hidden states."""

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def distinct(self) -> tuple[nn.Module, ...]:
        """The modules without repetition, in order."""
        return tuple(dict.fromkeys(self.modules))


def find_chain(encoder: nn.Module, forward: Callable[[], Tensor]) -> Chain | None:
    """The longest chain of blocks of one ``nn.ModuleList``, or None where there is none of two.

    ``forward`` passes a small batch; every parameter must require gradients meanwhile, so that
    arguments which depend on parameters are seen.
    """
    best: list[BlockCall] = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList):
            run = _longest_run(_watch(name, module, forward))
            if len(run) > len(best):
                best = run
    if len(best) < 2:
        return None
    hidden = next(key for key, value in best[1].tensors().items() if value is best[0].hidden)
    extras = tuple(
        key
        for key, value in best[0].tensors().items()
        if key != hidden and value.requires_grad and value.is_floating_point()
    )
    for call in best:
        carrying = {
            key for key, value in call.tensors().items() if value.requires_grad and key != hidden
        }
        if carrying != set(extras) or any(
            call.argument(key) is not best[0].argument(key) for key in extras
        ):
            return None
        nested = [
            leaf
            for value in (*call.arguments, *call.keywords.values())
            if not isinstance(value, Tensor)
            for leaf in tree_leaves(value)
        ]
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in nested):
            return None
    return Chain(
        names=tuple(call.name for call in best),
        modules=tuple(call.module for call in best),
        hidden=hidden,
        extras=extras,
        tuples=tuple(len(c.result) if isinstance(c.result, tuple) else 0 for c in best),
    )


@contextmanager
def replaced_blocks(chain: Chain, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Within this context the blocks do not run: ``stand_in(number, arguments, keywords)`` does.

    ``number`` counts the chain's calls; the value becomes the block's hidden states.
    """
    numbers = iter(range(len(chain)))

    def forward(*arguments: Any, **keywords: Any) -> Any:
        number = next(numbers)
        hidden = stand_in(number, arguments, keywords)
        length = chain.tuples[number]
        return (hidden, *[None] * (length - 1)) if length else hidden

    with _own_forwards(chain.distinct, lambda _module: forward):
        yield


@contextmanager
def watched_blocks(chain: Chain, watch: Callable[[int, Any, Any], None]) -> Iterator[None]:
    """Within this context ``watch(number, arguments, keywords)`` sees every call of the chain."""
    numbers = iter(range(len(chain)))

    def wrap(module: nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*arguments: Any, **keywords: Any) -> Any:
            watch(next(numbers), arguments, keywords)
            return original(*arguments, **keywords)

        return forward

    with _own_forwards(chain.distinct, wrap):
        yield


@contextmanager
def _own_forwards(
    modules: tuple[nn.Module, ...], wrap: Callable[[nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    """Give each module another ``forward`` for a while."""
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            object.__setattr__(module, "forward", wrap(module))
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                object.__setattr__(module, "forward", forward)


def _watch(name: str, blocks: nn.ModuleList, forward: Callable[[], Tensor]) -> list[BlockCall]:
    calls: list[BlockCall] = []
    handles = []
    for child_name, block in blocks.named_children():

        def keep(
            module: nn.Module,
            arguments: tuple[Any, ...],
            keywords: dict[str, Any],
            result: Any,
            full_name: str = f"{name}.{child_name}",
        ) -> None:
            calls.append(BlockCall(full_name, module, arguments, keywords, result))

        handles.append(block.register_forward_hook(keep, with_kwargs=True))
    try:
        with torch.enable_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _longest_run(calls: list[BlockCall]) -> list[BlockCall]:
    """The longest run of calls that hand their hidden states on as the same argument."""
    best: list[BlockCall] = []
    run: list[BlockCall] = []
    place: Key | None = None
    for call in calls:
        found = None
        if run:
            found = next(
                (k for k, value in call.tensors().items() if value is run[-1].hidden), None
            )
        if found is None or (place is not None and found != place):
            run, place = [call], None
        else:
            run, place = [*run, call], found
        if len(run) > len(best):
            best = run
    return best if all(isinstance(call.hidden, Tensor) for call in best) else []
