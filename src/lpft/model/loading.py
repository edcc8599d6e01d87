"""From a model's name or folder to a classifier with its tokenizer, and from a saved one back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lpft.data.examples import Label, Text, TextData
from lpft.data.labels import class_weights
from lpft.data.lengths import TokenCounter, require_minilm, training_texts
from lpft.data.tokens import counter_of, load_tokenizer
from lpft.errors import InputError, named, one_line
from lpft.files import DIGESTS, EXPORT_RECORD, damaged_file, write_digests
from lpft.model.classifier import LinearHeadClassifier, LinearHeadConfig, attach_head
from lpft.model.encoder import (
    LOAD_ERRORS,
    check_finite,
    is_causal,
    load_config,
    load_encoder,
    load_language_model,
    position_limit,
    quiet_transformers,
)
from lpft.model.padding import Reading, check_reading
from lpft.model.pooling import default_pooling
from lpft.model.prompts import (
    Prompt,
    find_language_head,
    pooling_of_prompt,
    read_in_prompt,
    start_at_words,
    with_prompt,
)
from lpft.settings import MINILM, Pooling, TrainingSettings
from lpft.settings.methods import get_method

_MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


@dataclass(frozen=True)
class Classifier:
    """A model with the tokenizer that feeds it and the length it truncates to.

    ``words`` has the rows of the label words in the language model's output embedding (V and b),
    where there are such words and the model has not been saved since. ``counter`` is what fitted
    the maximum length to the training texts, whose lengths it knows.
    """

    model: LinearHeadClassifier
    tokenizer: PreTrainedTokenizerBase
    words: nn.Linear | None = None
    counter: TokenCounter | None = field(default=None, repr=False, compare=False)

    @property
    def max_length(self) -> int:
        return self.tokenizer.model_max_length

    @property
    def token_counter(self) -> TokenCounter:
        """A counter of the tokens of texts as the model would read them uncut."""
        if self.counter is not None:
            return self.counter
        encoder = self.model.encoder
        return counter_of(self.tokenizer, position_limit(encoder), encoder.name_or_path)


def fresh_classifier(data: TextData, settings: TrainingSettings) -> Classifier:
    """The classifier that a training with ``settings`` on ``data`` starts from.

    Raises:
        InputError: as :func:`build_classifier`, or a weight is of a class that the data lacks.
    """
    class_weights(settings.class_weight, data.classes)
    classifier = untrained_classifier(
        settings,
        data.classes,
        paired=isinstance(data.train.texts[0], tuple),
        texts=training_texts(data) if settings.max_length is None else (),
    )
    method = get_method(settings.method)
    if method.head_start == "words":
        start_at_words(classifier.model.head, classifier.words)
    from lpft.model.adapters import check_adaptable  # loads PEFT, which no prediction needs

    check_adaptable(classifier.model, method, settings, classifier.max_length)
    columns = data.text_columns
    classifier.model.config.text_columns = None if columns is None else list(columns)
    return classifier


def untrained_classifier(
    settings: TrainingSettings,
    classes: tuple[Label, ...],
    *,
    paired: bool,
    texts: Sequence[Text] = (),
) -> Classifier:
    """:func:`build_classifier` by the settings of a training."""
    return build_classifier(
        settings.model,
        classes,
        seed=settings.seed,
        pooling=settings.pooling,
        head_bias=settings.head_bias,
        max_length=settings.max_length,
        revision=settings.revision,
        paired=paired,
        texts=texts,
        prompt=settings.prompt,
        label_words=settings.label_words,
        first_token=settings.first_token,
    )


def build_classifier(
    name: str,
    classes: tuple[Label, ...],
    *,
    seed: int,
    pooling: Pooling | None = None,
    head_bias: bool = True,
    max_length: int | None = None,
    revision: str | None = None,
    paired: bool = False,
    texts: Sequence[Text] = (),
    prompt: str | None = None,
    label_words: Mapping[str, str] | None = None,
    first_token: bool = False,
) -> Classifier:
    """A pre-trained encoder in float32 with a random head over ``classes``.

    With a ``prompt`` every text is read in that template, and the feature is what the language
    model predicts a word from; with ``label_words`` by class too, :attr:`Classifier.words` has
    their rows.

    ``name`` is a Hub id, a model folder, a saved classifier's folder or ``minilm``. Models that
    bring Python code of their own are refused: it is never run. Where ``max_length`` is None, it
    fits ``texts`` (:meth:`lpft.data.lengths.TokenCounter.default`).

    Raises:
        InputError: the model cannot be loaded, does not fit, or cannot read ``max_length`` tokens.
    """
    source = str(packaged_minilm()) if name == MINILM else name
    if revision is not None and Path(source).is_dir():
        raise InputError(
            f"{named('revision')} has no effect with the folder '{name}': leave it out"
        )
    config = load_config(source, revision=revision)
    if isinstance(config, LinearHeadConfig):
        saved = load_classifier(Path(source))
        if saved.model.virtual_tokens is not None:
            raise InputError(
                f"the classifier in '{name}' reads virtual tokens before every text, which another "
                "training would not: name the model that it was trained on"
            )
        if saved.model.config.prompt is not None:
            raise InputError(
                f"the classifier in '{name}' reads every text in a prompt, which another training "
                "would not: name the model that it was trained on"
            )
        if prompt is not None:
            raise InputError(
                f"the classifier in '{name}' has no language model head, which {named('prompt')} "
                "needs: name the language model that it was trained on"
            )
        encoder, tokenizer = saved.model.encoder, saved.tokenizer
        reading = Reading(saved.model.head.in_features, saved.model.config.safe_padding)
        pooling = saved.model.config.pooling if pooling is None else pooling
    else:
        if prompt is None:
            encoder = load_encoder(source, config, revision=revision)
            pooling = default_pooling(source, config, revision) if pooling is None else pooling
        else:
            causal = is_causal(config)
            pooling = pooling_of_prompt(pooling, causal=causal)
            language_model = load_language_model(source, config, name, revision=revision)
            head = find_language_head(language_model, name)
            encoder = language_model.base_model
        tokenizer = load_tokenizer(source, revision=revision)
        _check_embeddings(encoder, tokenizer, source)
        reading = check_reading(encoder, tokenizer, name)
    description, words = None, None
    if prompt is not None:
        tokenizer, description, words = read_in_prompt(
            prompt,
            tokenizer,
            head,
            classes,
            label_words,
            first_token=first_token,
            paired=paired,
            causal=causal,
        )
        reading = replace(reading, width=head.width)
    counter = counter_of(tokenizer, position_limit(encoder), name)
    length = counter.default(texts) if max_length is None else counter.check(max_length)
    tokenizer.model_max_length = length
    model = attach_head(
        encoder,
        classes,
        pooling=pooling,
        head_bias=head_bias,
        generator=torch.Generator().manual_seed(seed),
        paired=paired,
        reading=reading,
    )
    if prompt is not None:
        model.config.prompt = description
        model.config.language_transform = head.shape_json()
        # There is no dropout before the language model's own output embedding.
        model.config.head_dropout = model.dropout.p = 0.0
        if head.transform is not None:
            model.encoder.language_transform = head.transform
    return Classifier(model.eval(), tokenizer, words, counter)


def load_classifier(folder: Path) -> Classifier:
    """A classifier that :func:`save_classifier` wrote.

    Raises:
        InputError: the folder is missing, holds another kind of model, or is damaged.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"'{folder}' contains no trained classifier: expected a folder with config.json and "
            f"model.safetensors, as lpft train writes it unless it has {named('save_model=False')}"
        )
    damaged = damaged_file(folder)
    if damaged is not None:
        raise InputError(
            f"'{folder / damaged}' is damaged: it is not what {DIGESTS} beside it says; restore it "
            f"or train the run again, or remove {DIGESTS} if you changed the file yourself"
        )
    config = load_config(str(folder))
    if not isinstance(config, LinearHeadConfig):
        if (folder / EXPORT_RECORD).is_file():
            raise InputError(
                f"'{folder}' is an export for programs without lpft: give the run that it was made "
                "from, or read it with Transformers"
            )
        raise InputError(
            f"'{folder}' contains a {config.model_type} model, not a classifier of lpft: train one "
            f"on it, with {named('model')} {folder}"
        )
    if not 0 < config.temperature < math.inf:
        raise InputError(
            f"'{folder / 'config.json'}' has the temperature {config.temperature}: expected a "
            "number above 0; restore the file or train the run again"
        )
    try:
        with quiet_transformers():
            model, report = LinearHeadClassifier.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True
            )
    except LOAD_ERRORS as error:
        raise InputError(
            f"the weights in '{folder}' cannot be read ({one_line(error)}): the file is missing or "
            "damaged; train the run again"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"the weights in '{folder}' lack {len(report['missing_keys'])} parameters (for example "
            f"{min(report['missing_keys'])}): the file is damaged; train the run again"
        )
    check_finite(model, str(folder))
    tokenizer = load_tokenizer(str(folder))
    if config.prompt is not None:
        tokenizer = with_prompt(tokenizer, Prompt.from_json(config.prompt))
    # Runs of earlier versions do not say how their encoder reads.
    if model.config.safe_padding == "both":
        reading = check_reading(model.eval().encoder, tokenizer, str(folder))
        model.config.safe_padding = reading.safe_padding
    return Classifier(model.eval(), tokenizer)


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Config, weights (safetensors) and tokenizer in Hugging Face form, labels by name.

    The digests of the weights are beside them, so that damage is found.
    """
    with quiet_transformers():
        classifier.model.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)
    write_digests(folder, "*.safetensors")


def _check_embeddings(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    """Refuse a tokenizer with tokens that the encoder has no embedding of."""
    try:
        embeddings = encoder.get_input_embeddings().weight.shape[0]
    except (RuntimeError, AttributeError):  # characters, say, that are hashed
        return
    without = sorted(token for token, index in tokenizer.get_vocab().items() if index >= embeddings)
    if without:
        tokens = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if without[5:] else "")
        raise InputError(
            f"the model '{source}' embeds {embeddings} tokens and has no embedding of these tokens "
            f"of its tokenizer: {tokens}. Add them with resize_token_embeddings(len(tokenizer)) "
            "and save the model, take them out of the tokenizer, or use the model's own tokenizer"
        )


def packaged_minilm() -> Path:
    """The folder of sentence-transformers/all-MiniLM-L6-v2, byte for byte the Hub's weights.

    The package is located without running it.

    Raises:
        InputError: the ``demo`` extra is not installed, or a file is not the published one.
    """
    folder = require_minilm()
    for name, expected in _MINILM_SHA256.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: reinstall the 'demo' extra")
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if digest != expected:
            raise InputError(
                f"{path} has sha256 {digest[:12]}..., expected {expected[:12]}...: "
                "it is not the published file; reinstall the 'demo' extra"
            )
    return folder
