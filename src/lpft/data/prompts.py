"""Prompts by a tokenizer: the tokens of a template around every text, and those of label words.

The template becomes the tokenizer's own way to add special tokens to a text. So whatever reads
texts with it reads them in the template, a saved tokenizer keeps it, and truncation cuts the text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lpft.errors import InputError, named
from lpft.settings.prompts import MASK, SECOND, TEXT, Template

_FILLERS = ("good", "movie", "it", "12", "x")
"""Words that stand at the placeholders while the template is read, so that its own are read in
their context; the next is taken where the tokenizer merges one with what is beside it."""

_WORD, _SPACE = "{word}", " "


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
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"parts": tuple(own["parts"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"parts": list(self.parts)}


def read_prompt(tokenizer: PreTrainedTokenizerBase, template: Template, *, causal: bool) -> Prompt:
    """The tokens of a template for a masked or a ``causal`` language model.

    Raises:
        InputError: the template has a blank that the model cannot fill, or none; the tokenizer is
            one in Python, does not know a part of the template, or merges it with the text.
    """
    source, mask = template.source, tokenizer.mask_token_id
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
    if not causal and mask is None:
        raise InputError(
            f"the tokenizer has no mask token, which {named('prompt')} '{source}' needs: use the "
            "tokenizer of the masked language model"
        )
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
        own = [mask] if piece == MASK else ids
        if isinstance(parts[-1], list):
            parts[-1] = [*parts[-1], *own]
        else:
            parts.append(own)
    parts = [part for part in [*parts, after] if part]
    preceded = any(
        piece in (TEXT, SECOND) and left.endswith(_SPACE) for left, piece in pairwise(pieces)
    )
    backend = tokenizer.backend_tokenizer
    inside, alone = (backend.encode(text, add_special_tokens=False).ids for text in (" x", "x"))
    return Prompt(source, tuple(parts), None if causal else mask, preceded and inside != alone)


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
    pair = [each for piece in pieces for each in _whole(piece, paired=SECOND in prompt.parts)]
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
    """Let texts go through ``steps`` last, unless they do so already, as of a saved tokenizer."""
    known = json.loads(backend.to_str())["normalizer"] or {}
    added = [json.loads(step.__getstate__()) for step in steps]
    if added and known.get("normalizers", [])[-len(added) :] != added:
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*own, *steps])


def _whole(piece: str, *, paired: bool) -> list[str]:
    return [piece, "$B:0"] if piece == "$A:0" and not paired else [piece]


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
    for label, written in words.items():
        word = written.strip()
        where = f"{named('label_words')}: the word '{written}' of class '{label}'"
        segments = _in_context(tokenizer, pieces, {blank: word})
        ids = [] if segments is None else segments[pieces.index(blank)]
        if not word or not ids:
            raise InputError(f"{where} has no token of its own at the blank: choose another word")
        if tokenizer.unk_token_id in ids:
            raise InputError(f"{where} is not known to the tokenizer: choose another word")
        if len(ids) > 1 and not first_token:
            listed = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
            raise InputError(
                f"{where} is {len(ids)} tokens ({listed}): choose a word of one token, or give "
                f"{named('first_token=True')} to take the first"
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
    """:func:`_segments` with the first of the fillers that is not merged with what is beside it."""
    read = (_segments(tokenizer, pieces, filler, fill or {}) for filler in _FILLERS)
    return next((segments for segments in read if segments is not None), None)


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
        first, last = start, end
        while first < last and text[first] == _SPACE:
            first += 1
        if first == last:  # a space alone
            first = start
            following = next((n for n, e in enumerate(ends) if last < e), len(pieces) - 1)
            if pieces[following] in words and last == (ends[following - 1] if following else 0):
                segments[following].append(index)
                continue
        owner = next((number for number, e in enumerate(ends) if first < e), len(pieces) - 1)
        while last > first and text[last - 1] == _SPACE:
            last -= 1
        if last > ends[owner]:
            return None
        segments[owner].append(index)
    return segments
