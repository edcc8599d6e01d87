"""The empirical NTK of a module's outputs in one call, and those of several heads in one pass."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lpft.data.texts import text_list
from lpft.errors import InputError
from lpft.model.inference import resolve_dtype
from lpft.ntk.job import KernelJob
from lpft.ntk.options import Options
from lpft.ntk.outputs import Outputs
from lpft.ntk.passes import undisturbed
from lpft.ntk.result import EmpiricalNTK, sum_kernels
from lpft.ntk.storage import Pair
from lpft.ntk.studied import (
    KernelRequest,
    Parameters,
    Select,
    Studied,
    is_tensors,
    request_of,
    studied,
    trace_requests,
)
from lpft.settings.kernels import Granularity, KernelKind, LinearMethod, Products


@undisturbed()
def empirical_ntk(
    model: Any,
    inputs: Any,
    other_inputs: Any = None,
    *,
    outputs: Outputs | None = None,
    head: str | None = None,
    parameters: Parameters = "all",
    select: Select = "all",
    contraction: LinearMethod = "auto",
    update: KernelKind = "sgd",
    granularity: Granularity | Sequence[Granularity] = (),
    products: Products = "exact",
    dtype: torch.dtype | str = torch.float32,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    memory: str | int | None = None,
    cache_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    check_entries: int = 2,
    check_products: int = 1,
    executor: str = "local",
    workers: int = 1,
    method: LinearMethod | None = None,
    kernel: KernelKind | None = None,
) -> EmpiricalNTK:
    """The exact empirical NTK of a PyTorch module's outputs f: ``J_f(x) J_f(x')^T``, N x K x M x K.

    Of a classifier with a linear head, ``f = V phi(x) + b``, it is split into P and F:
    ``Theta(x, x') = P(x, x') I_C + F(x, x')`` with ``P = <phi(x), phi(x')> + 1`` from the head's
    parameters and ``F = V J_phi(x) J_phi(x')^T V^T`` from all others. Any other module has that
    split where ``head`` names its last linear layer; without, F is the whole kernel and P is None.
    Evaluation mode: no dropout. A classifier's temperature is not in it. The model is not changed:
    everything runs on copies of it. Source: Tomihari and Sato (2024), Proposition 4.1.

    Args:
        model: a ``TextClassifier``, a ``LinearHeadClassifier`` (with PEFT adapters or without), or
            any ``nn.Module``.
        inputs: N texts, or pairs as tuples of two; or a tensor (N x ...), a dict of tensors
            that the module takes by name, or a list (no tuple) of such batches.
        other_inputs: M inputs for the columns; None means ``inputs``, and half of the work.
        outputs: ``outputs(module, batch)`` gives the n x K outputs of a batch, each row a function
            of its sample alone. Default: the logits; :mod:`lpft.ntk.outputs` has others. ``batch``
            is a dict of tensors, with inputs that are one tensor as ``batch["inputs"]``;
            ``labels`` in it are not given to the module.
        head: name of the module's last linear layer, whose share then is P.
        parameters: ``all``, the ``trainable`` ones, which require gradients, or names and patterns
            such as ``("*.attention.*", "head.*")``.
        select: ``all`` outputs, one of them by its number, or their ``sum``, whose kernel over K is
            the pseudo-NTK (Mohamadi et al., 2023); or the ``trace``, ``sum_k Theta[:, k, :, k]``,
            at 1/K of the products. All but the first give N x 1 x M x 1. For a random head with
            independent rows of mean 0 the kernel of the sum is the trace in expectation.
        contraction: for linear weights; ``auto`` takes the one of fewest flops for each.
        update: ``sgd`` is the NTK; ``signgd`` has ``<sign g, sign g'>`` and ``asymmetric``
            ``<g, sign g'>`` (Malladi et al., 2023), whose entries where a gradient is zero up to
            rounding (as for key biases) are as arbitrary as its sign.
        granularity: ``layer`` and ``kind`` return F's parts too.
        products: of whole gradients: ``exact`` in ``dtype``, or faster ``tf32`` (CUDA, float32)
            and ``bfloat16``, whose error on a few samples is returned. They speed up neither
            passes nor weights for which another contraction is cheaper.
        dtype: float32 or float64, of everything up to the products of single chunks; sums are
            float64 always.
        tokenizer: for texts, unless the model is a ``TextClassifier``.
        max_length: of a text in tokens (default: the tokenizer's).
        memory: bytes that the process (on CUDA: this device) may take in all, such as ``"6GB"``.
        device: ``auto``, ``cpu``, ``cuda``, one of several such as ``cuda:1``, or a torch.device.
        cache_dir: folder where finished pieces are kept, so that an interrupted call can go on.
        check_entries: how many entries are computed again by plain autograd.
        check_products: how many products ``u^T F v`` with random vectors, in which every entry
            counts, are computed again by plain autograd; each takes one pass over all inputs. Of
            ``sgd`` alone: the others are no products of Jacobians.
        executor: where ``workers`` compute: ``local``, in processes of this machine, or ``ray``, on
            the cluster that ``RAY_ADDRESS`` names.
        workers: processes that share the pairs of tiles, each on a GPU of its own where there are
            as many. They need ``cache_dir``, on a disk that all of them see, and ``memory`` is that
            of each (default: an equal share). The kernel is the same to the last bit as in one
            process of the same layout and as many threads. Local workers start new processes, so
            programs need ``if __name__ == "__main__"``.
        method: former name of ``contraction``.
        kernel: former name of ``update``.

    Returns:
        P (N x M, or None) and F (N x K x M x K), float64, with a certificate and a record of the
        plan.

    Raises:
        InputError: a text is empty, the inputs or outputs do not fit the module, a classifier is
            for several labels or regression, the memory is too small, an option does not exist, a
            piece in ``cache_dir`` is damaged or of another kernel or cannot be written, gradients
            are not finite, the features do not follow from the sample alone, or plain autograd
            contradicts the kernel.
    """
    # Options and inputs are checked before the model is read, which may take long.
    options = Options(
        contraction=_from_former_name("method", method, "contraction", contraction),
        update=_from_former_name("kernel", kernel, "update", update),
        granularity=granularity,
        products=products,
        dtype=resolve_dtype(dtype),
        memory=memory,
        cache_dir=cache_dir,
        device=device,
        check_entries=check_entries,
        check_products=check_products,
        executor=executor,
        workers=workers,
    )
    groups, block = input_groups(inputs, other_inputs)
    subject = studied(
        model, groups[0], outputs=outputs, head=head, tokenizer=tokenizer, max_length=max_length
    )
    requests = {"ntk": request_of(subject, parameters, select)}
    return _kernels(subject, requests, select, groups, block, options)["ntk"]


@undisturbed()
def empirical_ntks(
    model: Any,
    heads: Mapping[str, Tensor | nn.Linear | KernelRequest],
    inputs: Any,
    other_inputs: Any = None,
    *,
    outputs: Outputs | None = None,
    head: str | None = None,
    parameters: Parameters = "all",
    select: Select = "all",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    **options: Any,
) -> dict[str, EmpiricalNTK]:
    """The kernels of several heads on the same features, in one pass.

    FT and LP-FT start from one encoder and differ in their head alone: one forward pass and the
    backward passes of both heads give both kernels.

    Args:
        heads: by name of the kernel V (C x h), a linear layer, or a :class:`KernelRequest` with
            parameters and outputs of its own. Instead of the module's own head, which must be a
            classifier's or named by ``head``. P has the 1 of a bias where a linear layer has one;
            for V alone, where the module's own head has one.
        options: as for :func:`empirical_ntk`.

    Raises:
        InputError: as :func:`empirical_ntk`, or a head does not fit the features.
    """
    option_names = [option.name for option in fields(Options)]
    unknown = [name for name in options if name not in option_names]
    if unknown:
        expected = ", ".join(option_names)
        raise InputError(f"there is no option {unknown[0]}: expected one of {expected}")
    if not isinstance(heads, Mapping):
        raise InputError(f"the heads are a {type(heads).__name__}: expected a dict, by name")
    shared_options = Options(**options)
    groups, block = input_groups(inputs, other_inputs)
    subject = studied(
        model, groups[0], outputs=outputs, head=head, tokenizer=tokenizer, max_length=max_length
    )
    if subject.head is None:
        raise InputError(
            "the module has no head to put others in its place: name its last linear layer by head="
        )
    requests = {}
    for name, entry in heads.items():
        if isinstance(entry, KernelRequest):
            if select != "all":
                raise InputError(
                    f"select={select!r}: the request '{name}' has outputs of its own; give a head"
                )
            requests[name] = entry
            continue
        weight = entry.weight.detach() if isinstance(entry, nn.Linear) else entry
        if not isinstance(weight, Tensor):
            raise InputError(
                f"the head '{name}' is a {type(entry).__name__}: expected a tensor C x h, an "
                "nn.Linear or a KernelRequest"
            )
        request = request_of(subject, parameters, select, weight)
        if isinstance(entry, nn.Linear):
            # ``parameters`` selects by the names of the module's own head. If that has no bias, the
            # bias of another head trains where the weight does.
            trains = request.head_trains if subject.head.bias is None else request.bias_trains
            request = replace(request, bias_trains=entry.bias is not None and trains)
        requests[name] = request
    return _kernels(subject, requests, select, groups, block, shared_options)


def _kernels(
    subject: Studied,
    requests: Mapping[str, KernelRequest],
    select: Select,
    groups: list[Any],
    block: Pair,
    options: Options,
) -> dict[str, EmpiricalNTK]:
    """The kernels of a block by name; traces as sums of kernels of one output each."""
    if select != "trace":
        kernels = KernelJob(subject, requests, groups, (block,), options).run()
        return {name: kernels[name][block] for name in requests}
    parts = {name: trace_requests(request, options.update) for name, request in requests.items()}
    single_outputs = {
        f"{name} {part}": request
        for name, by_output in parts.items()
        for part, request in by_output.items()
    }
    kernels = KernelJob(subject, single_outputs, groups, (block,), options).run()
    return {
        name: sum_kernels([kernels[f"{name} {part}"][block] for part in by_output])
        for name, by_output in parts.items()
    }


def input_groups(inputs: Any, other_inputs: Any) -> tuple[list[Any], Pair]:
    """The groups of inputs, and the block of the kernel among them."""
    groups = []
    for group in [inputs] if other_inputs is None else [inputs, other_inputs]:
        if isinstance(group, Dataset):
            raise InputError(
                f"the inputs are a {type(group).__name__}: expected its tensors, or a loader of "
                "it, DataLoader(dataset, batch_size=64)"
            )
        # A loader of batches is read once, and may be a generator; tables and arrays of texts are
        # iterable too, but can be indexed.
        if isinstance(group, Iterable) and not hasattr(group, "__getitem__"):
            group = list(group)
        groups.append(group if is_tensors(group) else text_list(group))
    return groups, (0, 0) if other_inputs is None else (0, 1)


def _from_former_name(former: str, former_value: Any, name: str, value: Any) -> Any:
    """The value of an option that may have been given by its former name."""
    if former_value is None:
        return value
    warnings.warn(f"{former}= is now {name}=: use that", FutureWarning, stacklevel=3)
    return former_value
