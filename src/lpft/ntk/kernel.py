"""The empirical NTK of a classifier's logits, in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from lpft.data.examples import Text, text_list
from lpft.ntk.inputs import open_subject
from lpft.ntk.job import KernelJob
from lpft.ntk.options import Options, check_choice, check_options
from lpft.ntk.requests import request_of
from lpft.ntk.result import EmpiricalNTK
from lpft.settings import Device, Granularity, KernelKind, LinearMethod, Products


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
            and ``bfloat16``, whose error on a few texts is returned. Forward and backward passes
            are not made faster by them, nor are weights that another method is cheaper for.
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
            several labels or regression), the memory is too small, an option does not exist, a
            piece in ``cache_dir`` is damaged or of another kernel or cannot be written, gradients
            are not finite, or the features do not follow from the text alone.
    """
    check_choice("parameters", parameters, Literal["all", "trainable"])
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
    check_options(options)
    groups = [text_list(texts) for texts in ([a] if b is None else [a, b])]
    block = (0, 0) if b is None else (0, 1)
    subject = open_subject(model, tokenizer, max_length)
    request = request_of(subject, trainable=parameters == "trainable")
    return KernelJob(subject, {"ntk": request}, groups, (block,), options).run()["ntk"][block]
