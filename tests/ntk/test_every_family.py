"""Kernels of tiny models of every text family of transformers: what holds, and what is refused.

``python tests/every_family.py`` tries them all, those too that are not listed here because their
configuration cannot be made small by the names of its entries.
"""

import re

import pytest
from every_family import outcome

HOLDS = """
afmoe albert apertus arcee aria_text axk1 axk2 bailing_hybrid bamba bart beam bert
bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom
camembert clip_text_model codegen cohere cohere2 cohere2_moe convbert cosmos3_edge_text cpmant
ctrl cwm data2vec-text deberta deberta-v2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
diffllama distilbert doge dots1 electra ernie ernie4_5 ernie4_5_moe esmc eurobert exaone4
exaone_moe falcon falcon_h1 falcon_mamba flaubert flex_olmo flint fnet fsmt funnel gemma gemma2
gemma3_text glm glm4 glm4_moe glm4_moe_lite glm4v_text glm_image_text glm_moe_dsa glm_ocr_text
gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite
granite_docling_text granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared gte
helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax ibert imagegpt
inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe jina_embeddings_v3 kolibri1
laguna layoutlm layoutlmv3 led lfm2 lfm2_moe lfm3 lilt llama llama4_text longcat_flash
longformer longt5 luke m2m_100 mamba mamba2 marian markuplm mbart megatron-bert mellum
mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
mistral4 mistral_large4_text mixtral mobilebert modernbert modernbert-decoder molmo2_text mpnet
mra mt5 muse_glimmer_text muse_spark_text mvp nanochat nemotron neomme nllb-moe nomic_bert
nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt openai_privacy_filter opt pegasus
pegasus_x persimmon phi phi3 phimoe plbart qwen2 qwen2_5_vl_text qwen2_moe qwen2_vl_text qwen3
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl_moe_text qwen3_vl_text
qwen4_exp_text recurrent_gemma rembert roberta roberta-prelayernorm roc_bert roformer rwkv
seed_oss smollm3 solar_open splinter squeezebert stablelm starcoder2 switch_transformers t5
tapas tipsv2_text_model ultrabert umt5 vaultgemma visual_bert xlm xlm-roberta xlm-roberta-xl
xlnet xlstm xmod yoso youtu zaya
"""
IN_SINGLE_PRECISION = ("canine", "prophetnet", "xglm")
"""Their masks of attention overflow in float64, by plain autograd too."""
REFUSED = {
    "bros": "bbox",
    "dpr": "last_hidden_state",
    "higgs_audio_v2": "last_hidden_state",
    "hunyuan_vl_text": "cannot read texts",
    "lxmert": "visual_feats",
    "reformer": "random hashes",
    "udop": "Bbox",
    "vilt": "pixel_values",
}
"""What their refusal says: they read more than texts, draw at random, or give no states."""


@pytest.mark.heavy
@pytest.mark.parametrize("family", HOLDS.split())
def test_the_kernel_meets_the_explicit_jacobian(family):
    error, _, _ = outcome(family).partition(" ")
    assert float(error) <= 1e-10


@pytest.mark.heavy
@pytest.mark.parametrize("family", IN_SINGLE_PRECISION)
def test_the_kernel_meets_autograd_in_single_precision(family):
    found = re.fullmatch(r"in float32 alone: (.*)", outcome(family))
    assert found is not None
    assert float(found[1]) <= 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("family", REFUSED)
def test_others_are_refused_in_one_line(family):
    assert re.match(rf"refused: .*{REFUSED[family]}", outcome(family))
