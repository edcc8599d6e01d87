"""Tiny random models of every tested family, as folders in Hugging Face layout, and toy data."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

_VOCABULARY = """
the a it was is not very good bad fine great poor table chair lamp film meal train i we they
bought saw ate took and but then again never always quickly slowly yes no
"""
WORDS = tuple(_VOCABULARY.split())
GOOD, BAD = ("good", "great", "fine"), ("bad", "poor", "never")
FAMILIES = (
    *("bert", "roberta", "distilbert", "albert", "deberta-v2", "modernbert"),
    *("gpt2", "llama"),
)
DECODERS = ("gpt2", "llama")
EACH_FAMILY = tuple(
    family
    if family in ("bert", "deberta-v2", "llama")
    else pytest.param(family, marks=pytest.mark.heavy)
    for family in FAMILIES
)
"""To parametrise what takes seconds per family: an encoder, relative positions and a decoder
stand for the others in the quick tests."""

_SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>"]
_PAD, _UNK, _CLS, _SEP = range(4)


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per word; encoders get <cls> and <sep>, decoders neither, and no padding token."""
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if family in DECODERS:
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<sep>", model_max_length=62
        )
    tokenizer.post_processor = TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", _CLS), ("<sep>", _SEP)],
    )
    inputs = ["input_ids", "attention_mask"]
    if family in ("bert", "albert", "deberta-v2"):
        inputs.append("token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        model_max_length=62,
        model_input_names=inputs,
    )


_SIZES = {
    "vocab_size": len(_SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_PADDED = _SIZES | {"pad_token_id": _PAD}
_MARKED = _PADDED | {"bos_token_id": _CLS, "eos_token_id": _SEP}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "pad_token_id": None}
_DEBERTA = {
    "type_vocab_size": 2,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
_CONFIGS = {
    "bert": BertConfig(**_PADDED),
    "roberta": RobertaConfig(**_MARKED),
    "xlm-roberta": XLMRobertaConfig(**_PADDED),
    "camembert": CamembertConfig(**_PADDED),
    "electra": ElectraConfig(**_PADDED, embedding_size=16),
    "distilbert": DistilBertConfig(
        vocab_size=_SIZES["vocab_size"],
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        pad_token_id=_PAD,
    ),
    "albert": AlbertConfig(**_PADDED, embedding_size=16),
    "deberta-v2": DebertaV2Config(**_PADDED, **_DEBERTA),
    "modernbert": ModernBertConfig(
        **_MARKED, cls_token_id=_CLS, sep_token_id=_SEP, local_attention=8
    ),
    "t5": T5Config(
        vocab_size=_SIZES["vocab_size"], d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    ),
    "gpt2": GPT2Config(
        vocab_size=_SIZES["vocab_size"],
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=_SEP,
        eos_token_id=_SEP,
    ),
    "gpt_neox": GPTNeoXConfig(**_SIZES, pad_token_id=None),
    "llama": LlamaConfig(**_GROUPED, bos_token_id=_CLS, eos_token_id=_SEP),
    "mistral": MistralConfig(**_GROUPED),
    "qwen2": Qwen2Config(**_GROUPED),
    "qwen3": Qwen3Config(**_GROUPED),
}


def tiny_config(family: str) -> PreTrainedConfig:
    """Two layers, 32 wide, dropout 0.1, 64 positions: of ``FAMILIES``, their relatives and T5."""
    return deepcopy(_CONFIGS[family])


def save_tiny_model(family: str, folder: Path) -> Path:
    """A model folder with random weights; always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModel.from_config(tiny_config(family))
    model.save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def save_tiny_language_model(family: str, folder: Path) -> Path:
    """A language model's folder, every parameter off its usual start; encoders have a <mask>."""
    tokenizer, config = tiny_tokenizer(family), tiny_config(family)
    if family not in DECODERS:
        tokenizer.add_special_tokens({"mask_token": "<mask>"})
        config.vocab_size += 1
    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = kind.from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_texts(rows: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Word salads of 3 to 12 words, led by a good or a bad word, which is the label."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int, low: int, high: int) -> list[int]:
        return torch.randint(low, high, (count,), generator=generator).tolist()

    neutral = [word for word in WORDS if word not in GOOD + BAD]
    texts, labels = [], []
    for row in range(rows):
        label, leads = ("good", GOOD) if row % 2 == 0 else ("bad", BAD)
        rest = draw(draw(1, 2, 12)[0], 0, len(neutral))
        texts.append(" ".join([leads[draw(1, 0, 3)[0]], *(neutral[k] for k in rest)]))
        labels.append(label)
    return texts, labels
