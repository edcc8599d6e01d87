"""The alternatives that the NTK engine is timed against: three ways to F, in plain torch.

All of them compute ``F[n, c, m, d] = <d f_c(x_n), d f_d(x_m)>`` over the encoder's parameters, for
``f = V phi`` of a :class:`lpft.model.LinearHeadClassifier` in evaluation mode. What one text costs
does not depend on N, and neither does the rate of the products, so a benchmark times
:func:`grad_loop_jacobian` or :func:`jacrev_jacobian` on a few texts that share one buffer, and
:func:`contract` on NC rows of a few columns: it need not hold the Jacobian of all N texts, and the
alternatives are spared what their bounded memory would cost them in repeated passes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft.data.tokens import Tokens
from lpft.model import LinearHeadClassifier

Batch = dict[str, Tensor]
WriteJacobian = Callable[[LinearHeadClassifier, Batch, Tensor], None]

REFERENCE_WIDTH = 128
COLUMNS = 65536
_ATTENTION = (
    "attention",
    "attn",
    "self_attn",
    "attn_norm",
    "input_layernorm",
    "ln_1",
    "sa_layer_norm",
)


def reference_algorithm(
    model: LinearHeadClassifier,
    left: Tokens,
    right: Tokens | None = None,
    *,
    groups: Sequence[str] | None = None,
    width: int = REFERENCE_WIDTH,
    chunk_size: int | None = None,
) -> Tensor:
    """F (N x C x M x C) as the published code of Tomihari and Sato (2024) finds it, exactly.

    For each group of parameters and each text, alone and padded to ``width`` tokens: the Jacobian
    of all h features (7 GB for one text and one attention group of RoBERTa-base), moved to the CPU
    and only there contracted with V. It leaves out the original's sampling of word embeddings,
    which makes its kernel inexact.

    Args:
        groups: keys of :func:`parameter_groups`; all of them where None.
        chunk_size: rows of the Jacobian that are found, moved and contracted at a time, batched
            by ``vmap``; None, as in the original, takes all h at once; 1 is a plain loop.
    """
    members = parameter_groups(model)
    shares = []
    for group in members if groups is None else groups:
        find = partial(
            _contracted_features, model, names=members[group], width=width, chunk_size=chunk_size
        )
        first = find(left)
        shares.append(contract(first, first if right is None else find(right)))
    return torch.stack(shares).sum(0)


def parameter_groups(model: LinearHeadClassifier) -> dict[str, list[str]]:
    """The encoder's parameters in the groups of the published code: 25 for 12 layers.

    ``embeddings`` are all parameters outside the layers; ``layer i attention`` are those of layer
    i's attention and of the normalisation that goes with it; ``layer i feed-forward`` its others.
    """
    groups: dict[str, list[str]] = {"embeddings": []}
    for name, _ in model.encoder.named_parameters():
        parts = name.split(".")
        places = [place for place, part in enumerate(parts) if part.isdigit()]
        if not places:
            groups["embeddings"].append(name)
            continue
        kind = "attention" if parts[places[-1] + 1] in _ATTENTION else "feed-forward"
        groups.setdefault(f"layer {parts[places[-1]]} {kind}", []).append(name)
    return groups


def jacrev_ntk(
    model: LinearHeadClassifier,
    left: Tokens,
    right: Tokens | None = None,
    *,
    tile: int = 8,
    chunk_size: int | None = None,
    columns: int = COLUMNS,
) -> Tensor:
    """F (N x C x M x C) from :func:`jacrev_jacobian`; memory holds 2 ``tile`` Jacobians."""
    find = partial(jacrev_jacobian, chunk_size=chunk_size)
    return _tiled_kernel(find, model, left, right, tile, columns)


def grad_loop_ntk(
    model: LinearHeadClassifier,
    left: Tokens,
    right: Tokens | None = None,
    *,
    tile: int = 8,
    columns: int = COLUMNS,
) -> Tensor:
    """F (N x C x M x C) from :func:`grad_loop_jacobian`; memory holds 2 ``tile`` Jacobians."""
    return _tiled_kernel(grad_loop_jacobian, model, left, right, tile, columns)


def jacrev_jacobian(
    model: LinearHeadClassifier, batch: Batch, out: Tensor, *, chunk_size: int | None = None
) -> None:
    """Write the Jacobian of one text's logits (C x P) by ``torch.func``.

    What ``jacrev`` of the logits does: one ``vjp`` of the features, its backward passes seeded
    with the head's rows, ``chunk_size`` of them batched by ``vmap`` (None: all C; 1: a loop). Only
    backward passes are batched, since transformers' masks do not survive ``vmap`` of the forward
    pass; attention is the unfused one, for which ``vmap`` has a rule.
    """
    parameters = {name: value.detach() for name, value in model.encoder.named_parameters()}
    write_vjps = _forward(model, batch, parameters)
    write_vjps(model.head.weight.detach(), out, chunk_size)


def grad_loop_jacobian(model: LinearHeadClassifier, batch: Batch, out: Tensor) -> None:
    """Write the Jacobian of one text's logits (C x P) by one backward pass for each logit.

    Each parameter's gradient goes into ``out`` as soon as autograd has it and is freed at once, so
    that the next one is formed in memory that is warm; a dictionary of all gradients, as
    ``autograd.grad`` returns it, is written to fresh memory on every pass.
    """
    parameters = list(model.encoder.parameters())
    row = 0

    def keep(parameter: Tensor, place: slice) -> None:
        assert parameter.grad is not None
        out[row, place].view_as(parameter).copy_(parameter.grad)
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(keep, place=place))
        for parameter, place in zip(parameters, _places(parameters), strict=True)
    ]
    try:
        features = model.features(**batch)
        for row, seed in enumerate(model.head.weight.detach()):
            last = row + 1 == model.head.out_features
            torch.autograd.backward(
                features, seed.unsqueeze(0), retain_graph=not last, inputs=parameters
            )
    finally:
        for handle in handles:
            handle.remove()


def contract(left: Tensor, right: Tensor, *, columns: int = COLUMNS) -> Tensor:
    """``left right^T`` over ``columns`` parameters at a time.

    Jacobians N x C x P and M x C x P give N x C x M x C in float64: each product in the Jacobians'
    precision, the sum of all in float64. Of one with itself, the CPU computes half: NumPy calls the
    symmetric routine of its BLAS, which PyTorch does not have.
    """
    rows, others = left.flatten(0, 1), right.flatten(0, 1)
    halved = left is right and rows.device.type == "cpu"
    kernel = rows.new_zeros(len(rows), len(others), dtype=torch.float64)
    for start in range(0, rows.shape[1], columns):
        first, second = (part[:, start : start + columns] for part in (rows, others))
        if halved:
            kernel += torch.from_numpy(np.dot(first.numpy(), first.numpy().T))
        else:
            kernel += first @ second.T
    return kernel.unflatten(1, right.shape[:2]).unflatten(0, left.shape[:2])


def _tiled_kernel(
    write: WriteJacobian,
    model: LinearHeadClassifier,
    left: Tokens,
    right: Tokens | None,
    tile: int,
    columns: int,
) -> Tensor:
    """F by tiles of texts; a Jacobian that does not fit beside another is found again."""
    others = left if right is None else right
    classes = model.head.out_features
    kernel = torch.empty(len(left), classes, len(others), classes, dtype=torch.float64)
    for rows in _tiles(len(left), tile):
        first = _jacobians(write, model, left, rows)
        for places in _tiles(len(others), tile):
            if right is None and places.start < rows.start:
                kernel[rows, :, places] = kernel[places, :, rows].permute(2, 3, 0, 1)
                continue
            same = right is None and places == rows
            second = first if same else _jacobians(write, model, others, places)
            kernel[rows, :, places] = contract(first, second, columns=columns).cpu()
    return kernel


def _jacobians(
    write: WriteJacobian, model: LinearHeadClassifier, tokens: Tokens, rows: slice
) -> Tensor:
    head = model.head.weight
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    numbers = range(len(tokens))[rows]
    jacobians = torch.empty(len(numbers), len(head), size, device=head.device)
    for row, out in zip(numbers, jacobians, strict=True):
        write(model, _batch_of_one(tokens, row, head.device), out)
    return jacobians


def _contracted_features(
    model: LinearHeadClassifier,
    tokens: Tokens,
    *,
    names: list[str],
    width: int,
    chunk_size: int | None,
) -> Tensor:
    """``V J_phi`` of a group of parameters (N x C x P), from all h rows of J_phi."""
    parameters = {name: model.encoder.get_parameter(name).detach() for name in names}
    size = sum(value.numel() for value in parameters.values())
    head = model.head.weight.detach()
    outputs = torch.eye(model.head.in_features, device=head.device)
    size_of_chunk = len(outputs) if chunk_size is None else chunk_size
    rows = torch.empty(size_of_chunk, size, device=head.device)
    contracted = torch.zeros(len(tokens), len(head), size)
    for text, sums in enumerate(contracted):
        write_vjps = _forward(model, _batch_of_one(tokens, text, head.device, width), parameters)
        for start in range(0, len(outputs), size_of_chunk):
            seeds = outputs[start : start + size_of_chunk]
            found = rows[: len(seeds)]
            write_vjps(seeds, found, None)
            sums += head[:, start : start + size_of_chunk].cpu() @ found.cpu()
    return contracted


def _forward(
    model: LinearHeadClassifier, batch: Batch, parameters: dict[str, Tensor]
) -> Callable[[Tensor, Tensor, int | None], None]:
    """Pass one text forward; the result writes the vjps of seeds (S x h) into S x P."""

    def features(values: dict[str, Tensor]) -> Tensor:
        named = {f"encoder.{name}": value for name, value in values.items()}
        return functional_call(model, named, kwargs=batch).features[0]

    # vjp records in spite of no_grad, which keeps a second graph from being recorded around it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        pull_back = vjp(features, parameters)[1]

    @torch.no_grad()
    def write_vjps(seeds: Tensor, out: Tensor, chunk_size: int | None) -> None:
        size = len(seeds) if chunk_size is None else chunk_size
        for some, rows in zip(seeds.split(size), out.split(size), strict=True):
            (pulled,) = vmap(pull_back)(some) if len(some) > 1 else pull_back(some[0])
            gradients = list(pulled.values())
            for gradient, place in zip(gradients, _places(parameters.values()), strict=True):
                rows[:, place].copy_(gradient.reshape(len(some), -1))

    return write_vjps


def _batch_of_one(
    tokens: Tokens, row: int, device: torch.device, width: int | None = None
) -> Batch:
    return {name: ids.to(device) for name, ids in tokens.batch([row], width).items()}


def _places(parameters: Iterable[Tensor]) -> Iterator[slice]:
    """The columns of each parameter in the Jacobian."""
    start = 0
    for parameter in parameters:
        yield slice(start, start + parameter.numel())
        start += parameter.numel()


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
