"""Prompts: the tokens of a template around every text, label words, and the language model's head.

The template becomes the tokenizer's own way to add special tokens to a text. So whatever reads
texts with it reads them in the template, a saved tokenizer keeps it, and truncation cuts the text.

A masked language model predicts a word by ``W t(h) + c``, with the state h at the mask, a transform
t (dense layer, activation, layer norm), and a row of W and c for each token; a causal one by
``W h + c`` at the last token. The rows of one word per class are a linear head, whose logits are
the language model's own for these words.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, processors
from torch import Tensor, nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.activations import ACT2FN

from lpft.data.examples import Label
from lpft.errors import InputError, named
from lpft.settings import Pooling
from lpft.settings.values import MASK, SECOND, TEXT, Template, read_template

logger = logging.getLogger(__name__)

_FILLERS = ("good", "movie", "it", "12", "x")
"""Words that stand at the placeholders while the template is read, so that its own are read in
their context; the next is taken where the tokenizer merges one with what is beside it."""

_WORD, _SPACE = "{word}", " "
_CHECKED_TOKENS = 6
_TOLERANCE = 1e-5
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function")
"""Where configurations name the activation of the head's transform; otherwise it is GELU."""


@dataclass(frozen=True)
class Prompt:
    """A template in tokens: ``parts`` are token ids, ``{text}`` and ``{text_b}``, in their order.

    ``mask`` is the id of the blank's token, None where the word follows at the end. ``space`` is
    whether texts are read as after a space, as they stand in the template.
    """

    template: str
    parts: tuple[str | list[int], ...]
    mask: int | None
    space: bool

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Prompt":
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"parts": tuple(fields["parts"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"parts": list(self.parts)}


def read_in_prompt(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    head: "LanguageHead",
    classes: Sequence[Label],
    label_words: Mapping[str, str] | None = None,
    *,
    first_token: bool = False,
    paired: bool = False,
    causal: bool,
) -> tuple[PreTrainedTokenizerBase, dict[str, Any], nn.Linear | None]:
    """A tokenizer that reads every text in a template, its description, and the label words' rows.

    Raises:
        InputError: as :func:`read_prompt` and :func:`word_tokens`; the template is for pairs and
            the data is not, or the other way round; a class has no word, or a word no class.
    """
    template = read_template(source)
    _check_pairs(template, paired)
    words = None if label_words is None else _by_class(label_words, classes)
    prompt = read_prompt(tokenizer, template, causal=causal)
    description, rows = prompt.as_json(), None
    if words is not None:
        ids = word_tokens(tokenizer, template, words, first_token=first_token)
        names = dict(zip(ids, tokenizer.convert_ids_to_tokens(list(ids.values())), strict=True))
        rows = head.rows(ids.values())
        description |= {"words": words, "tokens": names}
        logger.info(
            "label words: %s",
            ", ".join(
                f"{label} '{word}' (token {names[label]}, {ids[label]})"
                for label, word in words.items()
            ),
        )
    return with_prompt(tokenizer, prompt), description, rows


def pooling_of_prompt(pooling: Pooling | None, *, causal: bool) -> Pooling:
    """``last`` of causal models, the ``mask`` of others; another ``pooling`` is refused."""
    own: Pooling = "last" if causal else "mask"
    if pooling not in (None, own):
        raise InputError(
            f"{named('pooling')} {pooling} does not go with {named('prompt')}, which takes the "
            f"feature of this model at its {own} token: leave it out"
        )
    return own


def read_prompt(tokenizer: PreTrainedTokenizerBase, template: Template, *, causal: bool) -> Prompt:
    """The tokens of a template for a masked or a ``causal`` language model.

    Raises:
        InputError: the template has a blank that the model cannot fill, or none; the tokenizer is
            one in Python, does not know a part of the template, or merges it with the text.
    """
    _check_template(tokenizer, template, causal=causal)
    source, mask = template.source, tokenizer.mask_token_id
    before, after = _special_ids(tokenizer)
    pieces = list(template.pieces)
    if causal:
        # A tokenizer for generation may end texts with a token after which nothing is predicted.
        after = []
        if pieces[-1] not in (TEXT, SECOND):
            pieces[-1] = pieces[-1].rstrip(_SPACE)
    segments = _in_context(tokenizer, pieces)
    if segments is None:
        raise InputError(
            f"{named('prompt')} '{source}': the tokenizer merges the text with what stands beside "
            "it: put a space between them"
        )
    parts: list[str | list[int]] = [before]
    for piece, ids in zip(pieces, segments, strict=True):
        if piece in (TEXT, SECOND):
            parts.append(piece)
            continue
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            raise InputError(
                f"{named('prompt')} '{source}': the tokenizer does not know all of '{piece}': use "
                "other words"
            )
        ids_of_piece = [mask] if piece == MASK else ids
        if isinstance(parts[-1], list):
            parts[-1] = [*parts[-1], *ids_of_piece]
        else:
            parts.append(ids_of_piece)
    parts = [part for part in [*parts, after] if part]
    preceded = any(
        piece in (TEXT, SECOND) and left.endswith(_SPACE) for left, piece in pairwise(pieces)
    )
    backend = tokenizer.backend_tokenizer
    inside, alone = (backend.encode(text, add_special_tokens=False).ids for text in (" x", "x"))
    return Prompt(source, tuple(parts), None if causal else mask, preceded and inside != alone)


def _check_template(
    tokenizer: PreTrainedTokenizerBase, template: Template, *, causal: bool
) -> None:
    """Refuse a template whose blank the model cannot fill, and a tokenizer that has no such form.

    Raises:
        InputError: see above.
    """
    source = template.source
    if causal and template.masked:
        raise InputError(
            f"{named('prompt')} '{source}' has a blank, and this model is causal: it predicts the "
            "word after the template; leave the blank out and end where the word follows"
        )
    if not causal and not template.masked:
        raise InputError(
            f"{named('prompt')} '{source}' has no blank, at which this masked language model would "
            "predict the word: put [MASK] there"
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"{named('prompt')} needs a tokenizer of the tokenizers library, and this model's is a "
            f"{type(tokenizer).__name__}: name another model"
        )
    if not causal and tokenizer.mask_token_id is None:
        raise InputError(
            f"the tokenizer has no mask token, which {named('prompt')} '{source}' needs: use the "
            "tokenizer of the masked language model"
        )


def with_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> PreTrainedTokenizerBase:
    """The tokenizer, changed to read every text in the template.

    Names of special tokens in a text, such as ``[MASK]``, are then read as plain text. The result
    is of Transformers' general class: those of families add their own special tokens on loading.
    """
    backend = tokenizer.backend_tokenizer
    names = {TEXT: "$A:0", SECOND: "$B:0"}
    pieces, literals = [], []
    for number, part in enumerate(prompt.parts):
        if isinstance(part, str):
            pieces.append(names[part])
            continue
        name = f"<prompt-{number}>"
        pieces.append(f"{name}:0")
        tokens = [backend.id_to_token(index) for index in part]
        literals.append({"id": name, "ids": part, "tokens": tokens})
    # The library wants both forms, of single texts and of pairs; only one of them is read.
    both = {names[TEXT]: [names[TEXT], names[SECOND]]} if SECOND not in prompt.parts else {}
    pair = [part for piece in pieces for part in both.get(piece, [piece])]
    single = [piece for piece in pieces if piece != names[SECOND]]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=literals
    )
    backend.encode_special_tokens = True
    steps: list[normalizers.Normalizer] = []
    if prompt.space:
        steps += [normalizers.Strip(left=True, right=False), normalizers.Prepend(_SPACE)]
    if prompt.mask is not None:
        # Unigram models know the mask as a piece of text, too.
        mask = str(tokenizer.mask_token)
        steps.append(normalizers.Replace(mask, mask.strip("<>[]")))
    _normalize(backend, steps)
    same = ("model_max_length", "padding_side", "truncation_side", "model_input_names")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        split_special_tokens=True,
        **{name: getattr(tokenizer, name) for name in same},
        **tokenizer.special_tokens_map,
    )


def _normalize(backend: Tokenizer, steps: Sequence[normalizers.Normalizer]) -> None:
    """Append ``steps`` to the normalisation, unless a saved tokenizer already ends with them."""
    state = json.loads(backend.to_str())["normalizer"] or {}
    added = [json.loads(step.__getstate__()) for step in steps]
    if added and state.get("normalizers", [])[-len(added) :] != added:
        existing = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*existing, *steps])


def word_tokens(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    words: Mapping[str, str],
    *,
    first_token: bool = False,
) -> dict[str, int]:
    """The token id of each class's word, as it stands at the blank of ``template``.

    To be asked before :func:`with_prompt`.

    Args:
        words: by class.
        first_token: take the first of several tokens.

    Raises:
        InputError: a word is empty, unknown, several tokens, or has the token of another class.
    """
    pieces = list(template.pieces)
    if not template.masked:
        end = pieces[-1].rstrip(_SPACE)
        pieces[-1] = end
        # After a line break the word begins its line; anywhere else it follows a space.
        pieces += [_WORD] if end[-1:].isspace() else [_SPACE, _WORD]
    blank = MASK if template.masked else _WORD
    classes: dict[int, str] = {}
    tokens: dict[str, int] = {}
    for label, text in words.items():
        word = text.strip()
        where = f"{named('label_words')}: the word '{text}' of class '{label}'"
        segments = _in_context(tokenizer, pieces, {blank: word})
        ids = [] if segments is None else segments[pieces.index(blank)]
        if not word or not ids:
            raise InputError(f"{where} has no token of its own at the blank: choose another word")
        if tokenizer.unk_token_id in ids:
            raise InputError(f"{where} is not known to the tokenizer: choose another word")
        if len(ids) > 1 and not first_token:
            pieces_of_word = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
            raise InputError(
                f"{where} is {len(ids)} tokens ({pieces_of_word}): choose a word of one token, or "
                f"give {named('first_token=True')} to take the first"
            )
        if ids[0] in classes:
            token = tokenizer.convert_ids_to_tokens(ids[0])
            raise InputError(
                f"{named('label_words')}: the classes '{classes[ids[0]]}' and '{label}' have the "
                f"same token {token}: choose words that differ in it"
            )
        classes[ids[0]] = label
        tokens[label] = ids[0]
    return tokens


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a single text."""
    encoded = tokenizer.backend_tokenizer.encode(_FILLERS[0])
    added = list(encoded.special_tokens_mask)
    first = added.index(0) if 0 in added else len(added)
    last = len(added) - added[::-1].index(0) if 0 in added else len(added)
    return encoded.ids[:first], encoded.ids[last:]


def _in_context(
    tokenizer: PreTrainedTokenizerBase,
    pieces: Sequence[str],
    fill: Mapping[str, str] | None = None,
) -> list[list[int]] | None:
    """:func:`_segments` with the first filler that is not merged with its neighbours."""
    attempts = (_segments(tokenizer, pieces, filler, fill or {}) for filler in _FILLERS)
    return next((segments for segments in attempts if segments is not None), None)


def _segments(
    tokenizer: PreTrainedTokenizerBase,
    pieces: Sequence[str],
    filler: str,
    fill: Mapping[str, str],
) -> list[list[int]] | None:
    """The token ids of each piece of a template, read as one text with words at its placeholders.

    ``fill`` are words for some of them, ``filler`` stands at the others. None where a token reaches
    from one piece into another. A space before a placeholder is part of what stands there.
    """
    words = dict.fromkeys((TEXT, SECOND, MASK), filler) | dict(fill)
    ends, text = [], ""
    for piece in pieces:
        text += words.get(piece, piece)
        ends.append(len(text))
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    segments: list[list[int]] = [[] for _ in pieces]
    for index, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        # Byte-level tokens include the space before a word; the token counts from behind it.
        first, last = start, end
        while first < last and text[first] == _SPACE:
            first += 1
        if first == last:  # a space alone, which belongs to the placeholder that it comes before
            first = start
            following = next((n for n, e in enumerate(ends) if last < e), len(pieces) - 1)
            if pieces[following] in words and last == (ends[following - 1] if following else 0):
                segments[following].append(index)
                continue
        # The piece in which the token begins; it must end there too.
        owner = next((number for number, e in enumerate(ends) if first < e), len(pieces) - 1)
        while last > first and text[last - 1] == _SPACE:
            last -= 1
        if last > ends[owner]:
            return None
        segments[owner].append(index)
    return segments


@dataclass(frozen=True)
class TransformShape:
    """From ``inputs`` to ``outputs`` numbers; ``norm`` is the epsilon of a layer norm, if any."""

    inputs: int
    outputs: int
    activation: str
    bias: bool = True
    norm: float | None = None
    norm_bias: bool = True


class LanguageTransform(nn.Module):
    """t: the dense layer, activation and layer norm between a state and the output embedding."""

    def __init__(self, shape: TransformShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
        self.activation = ACT2FN[shape.activation]
        self.norm: nn.Module = nn.Identity()
        if shape.norm is not None:
            self.norm = nn.LayerNorm(shape.outputs, eps=shape.norm, bias=shape.norm_bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(states)))


@dataclass(frozen=True)
class LanguageHead:
    """The transform t of a language model, None where there is none, and W and c of its words."""

    transform: LanguageTransform | None
    shape: TransformShape | None
    output: nn.Linear

    @property
    def width(self) -> int:
        return self.output.in_features

    def shape_json(self) -> dict[str, Any] | None:
        return None if self.shape is None else asdict(self.shape)

    @torch.no_grad()
    def rows(self, tokens: Iterable[int]) -> nn.Linear:
        """A copy of the rows of ``tokens``: V (C x h) and b (C, zeros where there is no c).

        They train apart from the word embeddings, to which W is tied in most models.
        """
        indices = list(tokens)
        rows = nn.Linear(self.width, len(indices))
        rows.weight.copy_(self.output.weight[indices])
        rows.bias.zero_()
        if self.output.bias is not None:
            rows.bias.copy_(self.output.bias[indices])
        return rows


def attach_transform(encoder: nn.Module, description: Mapping[str, Any] | None) -> None:
    """Add a transform of the described shape to an encoder's modules."""
    if description is not None:
        encoder.language_transform = LanguageTransform(TransformShape(**description))


def transformed(encoder: nn.Module, features: Tensor) -> Tensor:
    """t of pooled states (N x h), by the transform of :func:`attach_transform` if there is one."""
    transform = getattr(encoder, "language_transform", None)
    if transform is None:
        return features
    return transform(features.to(transform.dense.weight.dtype))


@torch.no_grad()
def find_language_head(model: PreTrainedModel, source: str) -> LanguageHead:
    """The transform and the output embedding of a language model, checked against its logits.

    Raises:
        InputError: its logits are not ``W t(h) + c``.
    """
    unknown = InputError(
        f"the language model head of '{source}' ({type(model).__name__}) is not an output "
        "embedding after at most a dense layer, an activation and a layer norm, so "
        f"{named('prompt')} has no effect: name another model"
    )
    encoder, output = model.base_model, model.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise unknown
    called, states, inputs = _layers_between(model, encoder, output)
    if states is None or inputs is None:
        raise unknown
    if states.shape == inputs.shape and torch.equal(states, inputs):
        return LanguageHead(None, None, output)
    layers = [module for module in called if isinstance(module, nn.Linear)]
    norms = [module for module in called if isinstance(module, nn.LayerNorm)]
    if len(layers) != 1 or len(norms) > 1 or len(layers) + len(norms) < len(called):
        raise unknown
    layer, norm = layers[0], norms[0] if norms else None
    # Functions have no hooks, so each activation is tried until the layers give the same again.
    for activation in _activations(model.config):
        shape = TransformShape(
            layer.in_features,
            layer.out_features,
            activation,
            layer.bias is not None,
            None if norm is None else norm.eps,
            norm is None or norm.bias is not None,
        )
        transform = LanguageTransform(shape).to(model.device, model.dtype)
        transform.dense.load_state_dict(layer.state_dict())
        if norm is not None:
            transform.norm.load_state_dict(norm.state_dict())
        if _alike(transform(states), inputs):
            return LanguageHead(transform, shape, output)
    raise unknown


def _layers_between(
    model: PreTrainedModel, encoder: nn.Module, output: nn.Linear
) -> tuple[list[nn.Module], Tensor | None, Tensor | None]:
    """The layers with weights between encoder and output embedding, by passing a few tokens.

    With them the states that the encoder gives and what the output embedding is given: None where
    there is not one of each, or where the logits are not the output embedding's.
    """
    inside = {id(module) for module in encoder.modules()} | {id(output)}
    called: list[nn.Module] = []
    states: list[Tensor] = []
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, _, __: called.append(module))
        for module in model.modules()
        if id(module) not in inside
        and not list(module.children())
        and any(True for _ in module.parameters(recurse=False))
    ]
    hooks.append(encoder.register_forward_hook(lambda _, __, result: states.append(result[0])))
    hooks.append(output.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0])))
    ids = torch.arange(1, _CHECKED_TOKENS + 1, device=model.device)[None]
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != 1 or len(inputs) != 1 or not _alike(logits, output(inputs[0])):
        return called, None, None
    return called, states[0], inputs[0]


def _activations(config: PreTrainedConfig) -> list[str]:
    """Names of activations that the head may have."""
    named_ones = [getattr(config, name, None) for name in _ACTIVATIONS]
    names = [name for name in named_ones if isinstance(name, str) and name in ACT2FN]
    return list(dict.fromkeys([*names, "gelu"]))


def _alike(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=_TOLERANCE, atol=_TOLERANCE * expected.abs().mean().item()
    )


@torch.no_grad()
def start_at_words(head: nn.Linear, words: nn.Linear | None) -> None:
    """Start a head at the label words: copy their rows and biases."""
    assert words is not None, "settings must be resolved"
    head.weight.copy_(words.weight)
    if head.bias is not None:
        head.bias.copy_(words.bias)


def _check_pairs(template: Template, paired: bool) -> None:
    if template.paired and not paired:
        raise InputError(
            f"{named('prompt')} '{template.source}' is for pairs, and the data has single texts: "
            "leave {text_b} out"
        )
    if paired and not template.paired:
        raise InputError(
            f"{named('prompt')} '{template.source}' has no {{text_b}}, and the data has pairs of "
            "texts: expected {text} and {text_b} in it"
        )


def _by_class(words: Mapping[str, str], classes: Sequence[Label]) -> dict[str, str]:
    """The word of each class, in the order of the classes.

    Raises:
        InputError: a class has no word, or a word is of no class.
    """
    names = [str(label) for label in classes]
    listed = ", ".join(names)
    for name in names:
        if name not in words:
            raise InputError(
                f"{named('label_words')} has no word for class '{name}': expected one for each of "
                f"{listed}"
            )
    for name in words:
        if name not in names:
            raise InputError(
                f"{named('label_words')} has a word for '{name}', which is no class of the data: "
                f"expected one for each of {listed}"
            )
    return {name: words[name] for name in names}
