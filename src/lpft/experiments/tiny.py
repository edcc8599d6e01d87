"""A model and settings so small that a whole experiment runs offline in seconds."""

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer
from transformers import BertConfig, PreTrainedTokenizerFast

from lpft.data import load_task
from lpft.files import default_cache_dir
from lpft.model.encoder import build_encoder, quiet_transformers, seeded

TINY_SETTINGS: dict[str, Any] = {
    "tasks": ("demo",),
    "seeds": "2",
    "kernel_samples": 8,
    "epochs": 2,
    "learning_rate": 5e-3,
    "max_train_samples": 24,
    "max_validation_samples": 24,
    "max_length": 32,
}
"""Settings with which a whole experiment runs offline in seconds, on :func:`tiny_model`."""

_SPECIAL = ("<pad>", "<unk>", "<cls>", "<sep>")
_VOCABULARY = 500
_SEED = 0


def tiny_model() -> Path:
    """The folder of :func:`save_tiny_model` in the user's cache, made where it is not there."""
    folder = default_cache_dir() / f"tiny-bert-{transformers.__version__}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(dir=folder.parent))
        save_tiny_model(temporary)
        try:
            temporary.rename(folder)
        except FileExistsError:
            shutil.rmtree(temporary)
    return folder


def save_tiny_model(folder: Path) -> None:
    """A BERT of two layers with random weights, always the same, that knows the corpus's words."""
    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(_SEED):
        encoder = build_encoder(config)
    with quiet_transformers():
        encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, ``<cls> text <sep>``."""
    words = Tokenizer(WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    trainer = WordLevelTrainer(vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL))
    words.train_from_iterator(map(str, load_task("demo").train.texts), trainer)
    marks = [(token, words.token_to_id(token)) for token in ("<cls>", "<sep>")]
    words.post_processor = TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        model_max_length=62,
    )
