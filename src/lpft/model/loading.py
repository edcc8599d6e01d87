"""From a model's name or folder to a classifier with its tokenizer, and from a saved one back."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from lpft.data.examples import Label
from lpft.data.tokens import load_tokenizer
from lpft.errors import InputError
from lpft.model import packaged
from lpft.model.classifier import LinearHeadClassifier, LinearHeadConfig, attach_head
from lpft.model.encoder import (
    check_finite,
    default_pooling,
    load_config,
    load_encoder,
    position_limit,
)
from lpft.model.quiet import quiet_transformers
from lpft.settings import Pooling


@dataclass(frozen=True)
class Classifier:
    """A model with the tokenizer that feeds it and the length it truncates to."""

    model: LinearHeadClassifier
    tokenizer: PreTrainedTokenizerBase

    @property
    def max_length(self) -> int:
        return self.tokenizer.model_max_length


def model_source(name: str) -> str:
    """The folder or Hub id behind ``name``: ``minilm`` is the packaged model."""
    return str(packaged.packaged_minilm()) if name == packaged.NAME else name


def build_classifier(
    name: str,
    classes: tuple[Label, ...],
    *,
    seed: int,
    pooling: Pooling | None = None,
    head_bias: bool = True,
    max_length: int = 128,
    revision: str | None = None,
    paired: bool = False,
) -> Classifier:
    """A pre-trained encoder in float32 with a random head over ``classes``.

    Models that bring Python code of their own are refused: it is never run.

    Raises:
        InputError: the model cannot be loaded, does not fit, or cannot read ``max_length`` tokens.
    """
    source = model_source(name)
    if revision is not None and Path(source).is_dir():
        raise InputError(f"--revision has no effect with the folder '{name}': leave it out")
    config = load_config(source, revision=revision)
    if isinstance(config, LinearHeadConfig):
        saved = load_classifier(Path(source))
        encoder = saved.model.encoder
        pooling = saved.model.config.pooling if pooling is None else pooling
    else:
        encoder = load_encoder(source, config, revision=revision)
        pooling = default_pooling(source, config, revision) if pooling is None else pooling
    tokenizer = load_tokenizer(source, revision=revision)
    check_fit(encoder.get_input_embeddings().weight.shape[0], tokenizer, source)
    least, limit = tokenizer.num_special_tokens_to_add() + 1, position_limit(encoder)
    if max_length < least or (limit is not None and max_length > limit):
        reach = f"at least {least} tokens" if limit is None else f"{least} to {limit} tokens"
        raise InputError(f"--max-length {max_length} does not fit '{name}', which reads {reach}")
    tokenizer.model_max_length = max_length
    generator = torch.Generator().manual_seed(seed)
    model = attach_head(
        encoder,
        classes,
        pooling=pooling,
        head_bias=head_bias,
        generator=generator,
        paired=paired,
    )
    return Classifier(model, tokenizer)


def load_classifier(folder: Path) -> Classifier:
    """A classifier that :func:`save_classifier` wrote.

    Raises:
        InputError: the folder is missing, holds another kind of model, or is damaged.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"'{folder}' holds no trained classifier: expected a folder with config.json and "
            "model.safetensors, as lpft train writes it unless told --no-save-model"
        )
    config = load_config(str(folder))
    if not isinstance(config, LinearHeadConfig):
        raise InputError(
            f"'{folder}' holds a {config.model_type} model, not a classifier of lpft: train one "
            f"on it with lpft train --model {folder}"
        )
    try:
        with quiet_transformers():
            model, report = LinearHeadClassifier.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the weights in '{folder}' cannot be read ({reason}): the file is missing or damaged; "
            "train the run again"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"the weights in '{folder}' lack {len(report['missing_keys'])} parameters (for example "
            f"{min(report['missing_keys'])}): the file is damaged; train the run again"
        )
    check_finite(model, str(folder))
    return Classifier(model.eval(), load_tokenizer(str(folder)))


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Config, weights (safetensors) and tokenizer in Hugging Face form, labels by name."""
    with quiet_transformers():
        classifier.model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)


def check_fit(embeddings: int, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer that knows more tokens than the encoder has embeddings."""
    if len(tokenizer) > embeddings:
        raise InputError(
            f"the tokenizer of '{source}' has {len(tokenizer)} tokens but the model embeds "
            f"{embeddings}: they do not belong together; use both of the same model"
        )
