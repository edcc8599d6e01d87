"""An encoder with dropout and one linear layer on its pooled feature, in Hugging Face form."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput

from lpft.data.examples import Label
from lpft.errors import InputError
from lpft.model.encoder import (
    NO_ADAPTER,
    build_encoder,
    feature_size,
    head_dropout,
    hidden_states,
)
from lpft.model.padding import Reading, SafePadding, is_safe, without_padding
from lpft.model.pooling import pool
from lpft.model.prompts import attach_transform, transformed
from lpft.model.virtual_tokens import VirtualTokens
from lpft.settings import Pooling

HEAD_INITIAL_STD = 0.02


@strict
class LinearHeadConfig(PreTrainedConfig):
    """Configuration of :class:`LinearHeadClassifier`; the encoder's own is ``encoder_config``.

    ``temperature`` T divides the logits at inference only (Guo et al., 2017). ``abstain_below`` is
    the largest probability below which the classifier abstains, None for never. ``label_type`` says
    whether the user's class names are strings, integers or booleans; ``id2label`` holds them as
    strings. ``paired`` says whether it was trained on pairs of texts, ``text_columns`` from which
    columns of a file or table they came, where these had names. ``feature_size`` is h, where it
    was measured; ``safe_padding`` is that of :class:`~lpft.model.padding.Reading`.
    ``virtual_tokens`` describes the :class:`~lpft.model.virtual_tokens.VirtualTokens` before every
    text, if there are any. ``prompt`` is the :class:`~lpft.model.prompts.Prompt` around every text,
    with the ``words`` of the classes and their ``tokens``, where the head started from these;
    ``language_transform`` the :class:`~lpft.model.prompts.TransformShape` of what follows.
    """

    model_type = "lpft"
    sub_configs: ClassVar = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    pooling: Pooling = "first"
    head_bias: bool = True
    head_dropout: float | int = 0.1
    temperature: float | int = 1.0
    abstain_below: float | int | None = None
    label_type: Literal["str", "int", "bool"] = "str"
    paired: bool = False
    text_columns: list[str] | None = None
    feature_size: int | None = None
    safe_padding: SafePadding = "both"
    virtual_tokens: dict | None = None
    prompt: dict | None = None
    language_transform: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            settings = dict(self.encoder_config)
            self.encoder_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        super().__post_init__(**kwargs)

    @property
    def classes(self) -> tuple[Label, ...]:
        """The class names in the order of the logits, of the type in which they were given."""
        convert = _NAME_READERS[self.label_type]
        return tuple(convert(self.id2label[index]) for index in range(self.num_labels))


_NAME_READERS: dict[str, Callable[[str], Label]] = {
    "str": str,
    "int": int,
    "bool": lambda name: name == str(True),
}


def _label_type(classes: tuple[Label, ...]) -> str:
    kinds = {type(label).__name__ for label in classes}
    return kinds.pop() if len(kinds) == 1 and kinds <= _NAME_READERS.keys() else "str"


@dataclass
class ClassifierOutput(ModelOutput):
    """``logits`` (N x C) are divided by the temperature in evaluation mode; ``loss`` never is."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None


class LinearHeadClassifier(PreTrainedModel):
    """``f(x) = V phi(x) + b``: the classifier of Tomihari and Sato (2024), section 3.

    ``phi`` (N x h) is the pooled last hidden state of a pre-trained encoder, in a prompt after the
    language model's own transform; V (C x h) and b (C) are :attr:`head`, with dropout between the
    two while training.
    """

    config_class = LinearHeadConfig
    supports_gradient_checkpointing = True
    # Trainer would take forward's **_ for a loss that counts the items of accumulated batches.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: LinearHeadConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            encoder = build_encoder(config.encoder_config)
            attach_transform(encoder, config.language_transform)
        self.encoder = encoder
        description = config.virtual_tokens
        self.virtual_tokens = None if description is None else VirtualTokens(description)
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.feature_size
        if width is None:
            width = feature_size(config.encoder_config)
        self.head = nn.Linear(width, config.num_labels, bias=config.head_bias)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **keywords: Any) -> Any:
        """As in transformers, but without the adapter that may lie beside the weights.

        A run's weights have its adapter merged; transformers would add it a second time.
        """
        keywords["adapter_kwargs"] = {"subfolder": NO_ADAPTER}
        return super().from_pretrained(*arguments, **keywords)

    def features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **extra: Tensor
    ) -> Tensor:
        """phi(x), N x h, of token ids (N x T); without a mask every token counts as real."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        elif not is_safe(attention_mask, self.config.safe_padding):
            return without_padding(self.features, attention_mask, input_ids=input_ids, **extra)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **extra}
        if self.virtual_tokens is None:
            states = hidden_states(self.encoder, **inputs)
        else:
            states = self.virtual_tokens.states(self.encoder, **inputs)
        blanks = None
        if self.config.pooling == "mask":
            blanks = input_ids == self.config.prompt["mask"]
        pooled = pool(states, attention_mask, self.config.pooling, blanks)
        return transformed(self.encoder, pooled)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> ClassifierOutput:
        """Logits (N x C), features (N x h), and with ``labels`` (N) the mean cross-entropy."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        features = self.features(input_ids, attention_mask, **extra).to(self.head.weight.dtype)
        # Large heads, as linear probing leaves them, lose too much in half precision.
        with torch.autocast(features.device.type, enabled=False):
            logits = self.head(self.dropout(features))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        if not self.training:
            logits = logits / self.config.temperature
        return ClassifierOutput(loss=loss, logits=logits, features=features)

    @torch.no_grad()
    def initialize_head(self, generator: torch.Generator) -> None:
        """The random head of fine-tuning: V normal with standard deviation 0.02, b zero."""
        weight = torch.empty(self.head.weight.shape, dtype=torch.float32)
        weight.normal_(0.0, HEAD_INITIAL_STD, generator=generator)
        self.head.weight.copy_(weight)
        if self.head.bias is not None:
            self.head.bias.zero_()


def attach_head(
    encoder: PreTrainedModel,
    classes: tuple[Label, ...],
    *,
    pooling: Pooling,
    head_bias: bool,
    generator: torch.Generator,
    paired: bool = False,
    reading: Reading | None = None,
) -> LinearHeadClassifier:
    """A classifier over ``classes`` on a pre-trained encoder, with a random head.

    Without ``reading`` the encoder counts as one that padding does not change.

    Raises:
        InputError: there are fewer than two classes.
    """
    if len(classes) < 2:
        raise InputError(f"the classes are {list(classes)}: expected at least two")
    names = [str(label) for label in classes]
    config = LinearHeadConfig(
        # A copy: composing would reset the attention implementation of the loaded encoder.
        encoder_config=deepcopy(encoder.config),
        pooling=pooling,
        head_bias=head_bias,
        head_dropout=head_dropout(encoder.config),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        label_type=_label_type(classes),
        paired=paired,
        feature_size=None if reading is None else reading.width,
        safe_padding="both" if reading is None else reading.safe_padding,
        problem_type="single_label_classification",
    )
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws its own start, which is not used
        model = LinearHeadClassifier(config, encoder).to(encoder.dtype)
    model.initialize_head(generator)
    return model.eval()


AutoConfig.register("lpft", LinearHeadConfig)
AutoModelForSequenceClassification.register(LinearHeadConfig, LinearHeadClassifier)
