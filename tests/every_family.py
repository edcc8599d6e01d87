"""Tiny models of every text family of transformers, and how their kernels come out.

    python tests/every_family.py [FAMILY ...]

prints a line per family: the relative error against the explicit Jacobian, or why there is none.
"""

import inspect
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from references import contract, encoder_names, explicit_ntk, module_jacobian, relative_error
from tiny_classifiers import read, scatter
from tiny_models import WORDS, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    PreTrainedConfig,
)
from transformers.utils import logging

from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier, attach_head
from lpft.model.encoder import build_encoder, seeded
from lpft.model.padding import check_reading
from lpft.ntk import EmpiricalNTK, empirical_ntk

TEXTS = (
    [
        "the chair was good",
        "never",
        "we took the train and then we saw the lamp but the lamp was poor",
        "good good film",
    ],
    ["a fine meal", "the film was not the film"],
)
_SECONDS = 20
"""Of the processor, that a family may take."""
_LARGEST = 4_000_000
"""Parameters of a model that counts as tiny."""
_VALUES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "embed_dim"), 32
    ),
    **dict.fromkeys(
        ("word_embed_proj_dim", "rotary_dim_base", "d_embed", "input_embedding_size"), 32
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
            *("encoder_attention_heads", "decoder_attention_heads", "linear_num_value_heads"),
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        (
            *("head_dim", "d_kv", "d_head", "attention_head_size", "kv_channels"),
            *("linear_key_head_dim", "linear_value_head_dim", "global_head_dim"),
        ),
        8,
    ),
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_encoder_layers"),
            *("encoder_layers", "decoder_layers", "num_decoder_layers"),
        ),
        2,
    ),
    **dict.fromkeys(
        (
            *("intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size"),
            *("encoder_ffn_dim", "decoder_ffn_dim", "dff", "ffn_hidden_dim", "d_inner"),
        ),
        64,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "num_selected_experts"), 2
    ),
    **dict.fromkeys(
        (
            *("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
            *("shared_intermediate_size", "moe_ffn_hidden_size"),
        ),
        16,
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), 8),
    "qk_rope_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": len(WORDS) + 4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "type_vocab_size": 2,
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
_SECTIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
}
_MIXED_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
_OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bamba", "granitemoehybrid"), _MAMBA),
    **dict.fromkeys(
        (
            *("glm4v_text", "glm4v_moe_text", "glm_image_text", "glm_ocr_text"),
            *("qwen2_vl_text", "qwen2_5_vl_text", "cosmos3_edge_text"),
        ),
        _SECTIONS,
    ),
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    "esmc": {"num_key_value_heads": 4},
    "dots1": {"n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "cohere_compass_text": _MIXED_LAYERS,
    "gemma3n_text": _MIXED_LAYERS | {"num_kv_shared_layers": 0},
    "glm5_next_text": {"qk_rope_head_dim": 0, "num_key_value_heads": 4},
    "longt5": {"local_radius": 4, "global_block_size": 4},
    "pegasus_x": {"block_size": 8, "num_global_tokens": 2},
    "mistral4": {"head_dim": 16},
    "lilt": {"hidden_size": 48},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "roc_bert": {"shape_vocab_size": 20, "pronunciation_vocab_size": 20},
    "xmod": {"default_language": "en_XX"},
    "neomme": {"head_dim": 16},
    "funnel": {"block_sizes": [1, 1], "d_inner": 64, "architectures": ["FunnelModel"]},
    "opt": {"word_embed_proj_dim": 16},
    "openai-gpt": {"n_positions": 64},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "feed_forward_size": 64,
        "is_decoder": False,
    },
    "longformer": {"attention_window": 8},
    "led": {"attention_window": 8},
    "xlm": {"emb_dim": 32, "n_langs": 1},
    "flaubert": {"emb_dim": 32},
    "canine": {"num_hash_buckets": 64, "downsampling_rate": 2, "local_transformer_stride": 4},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "big_bird": {"attention_type": "original_full"},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "squeezebert": {
        f"{name}_groups": 2 for name in ("q", "k", "v", "post_attention", "intermediate", "output")
    },
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "convbert": {"head_ratio": 2, "conv_kernel_size": 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
}


def text_families() -> Iterator[str]:
    """The model types of transformers whose model takes token ids alone."""
    for model_type in sorted(CONFIG_MAPPING):
        kind = CONFIG_MAPPING[model_type]
        mapping = (
            MODEL_FOR_TEXT_ENCODING_MAPPING
            if kind in MODEL_FOR_TEXT_ENCODING_MAPPING
            else MODEL_MAPPING
        )
        try:
            model = mapping[kind]
        except (KeyError, ValueError):  # it has none, or none under its own name
            continue
        if kind.sub_configs:
            continue
        model = model[0] if isinstance(model, tuple) else model
        arguments = inspect.signature(model.forward).parameters
        if getattr(model, "main_input_name", "") == "input_ids" and "input_ids" in arguments:
            yield model_type


def tiny_config(model_type: str) -> PreTrainedConfig:
    """A configuration of the family with everything of a known name made small."""
    kind = CONFIG_MAPPING[model_type]
    usual = kind()
    values = {
        name: value
        for name, value in _VALUES.items()
        if hasattr(usual, name) and not isinstance(getattr(kind, name, None), property)
    }
    if "kv_lora_rank" in values:  # latent attention has a key for every head
        values["num_key_value_heads"] = values["num_attention_heads"]
    return kind(**values | deepcopy(_OVERRIDES.get(model_type, {})))


def tiny_model(model_type: str) -> nn.Module:
    """A random classifier on a tiny model of the family, or the encoder of one that has two parts.

    The encoder half of a sequence-to-sequence model is no model that lpft trains.
    """
    config = tiny_config(model_type)
    separate = config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING
    build = AutoModel.from_config if separate else build_encoder
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(config).parameters())
    if count > _LARGEST:
        raise ValueError(f"not tiny: {count} parameters")
    with seeded(7):
        model = build(config).eval()
    if separate:
        model = model.get_encoder()
    else:
        reading = check_reading(model, tiny_tokenizer("roberta"), model_type)
        model = attach_head(
            model,
            ("a", "b"),
            pooling="mean",
            head_bias=True,
            generator=torch.Generator().manual_seed(8),
            reading=reading,
        )
    scatter(model)
    experts = getattr(model, "encoder", model)
    if hasattr(experts, "set_experts_implementation"):
        experts.set_experts_implementation("eager")  # the others know no float64
    return model


def mean_states(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean of a text's last hidden states, its first three numbers."""
    mask = batch["attention_mask"].unsqueeze(-1)
    states = module(**batch).last_hidden_state * mask
    return states.sum(1)[:, :3] / mask.sum(1)


def kernel_of(model: nn.Module, dtype: torch.dtype = torch.float64) -> EmpiricalNTK:
    """The kernel of the rows by the columns."""
    return empirical_ntk(
        model,
        *TEXTS,
        outputs=None if isinstance(model, LinearHeadClassifier) else mean_states,
        tokenizer=tiny_tokenizer("roberta"),
        dtype=dtype,
        max_length=48,
    )


def explicit_kernel(model: nn.Module) -> Tensor:
    """The same in float64 by plain autograd."""
    tokens = [read(tiny_tokenizer("roberta"), texts) for texts in TEXTS]
    if isinstance(model, LinearHeadClassifier):
        return explicit_ntk(model, *tokens, encoder_names(model))
    jacobians = [
        torch.cat([module_jacobian(model, of.batch([n]), mean_states)[0] for n in range(len(of))])
        for of in tokens
    ]
    return contract(*jacobians)


def outcome(model_type: str) -> str:
    """The relative error of the kernel in float64, or why there is none."""
    step = "not built"
    try:
        model = tiny_model(model_type)
        step = "raw error"
        kernel = kernel_of(model)
        step = "no plain autograd"
        error = relative_error(kernel.ft_effective, explicit_kernel(model))
    except TimeoutError:
        raise
    except InputError as refused:
        if step == "raw error":
            with suppress(InputError):  # some models compute in single precision whatever they are
                error = kernel_of(model, torch.float32).certificate.largest_relative_error
                return f"in float32 alone: {error:.1e}"
        return f"refused: {_line(refused)}"
    except Exception as failed:
        return f"{step}: {type(failed).__name__}: {_line(failed)}"
    plan = kernel.record["plan"]
    return (
        f"{error:.1e} batched={plan['batches_of_several_texts']} blocks={plan['blocks']}"
        f" autograd={len(plan['by_autograd'])}"
    )


def _stop(*_: object) -> None:
    raise TimeoutError


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, _stop)
    for name in sys.argv[1:] or text_families():
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
        try:
            print(name, outcome(name), flush=True)
        except TimeoutError:
            print(name, f"takes more than {_SECONDS} s", flush=True)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
