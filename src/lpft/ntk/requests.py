"""Which kernels of an encoder are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lpft.errors import InputError
from lpft.ntk.inputs import Subject
from lpft.ntk.layout import Pair


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


def check_requests(
    subject: Subject,
    requests: Mapping[str, KernelRequest],
    groups: int,
    blocks: Sequence[Pair],
) -> None:
    """Refuse requests that the encoder cannot meet, and blocks of groups that do not exist.

    Raises:
        InputError: the message names the request and what is expected.
    """
    if not requests or not blocks:
        raise InputError("no kernel is asked for: expected at least one request and one block")
    wrong = [block for block in blocks if not all(0 <= group < groups for group in block)]
    if wrong:
        raise InputError(f"block {wrong[0]}: expected two of {groups} groups of texts, from 0 on")
    known = {name for name, _ in subject.classifier.encoder.named_parameters()}
    width = subject.head.in_features
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
