"""What a model folder holds is what is loaded, once; what cannot be loaded whole is named."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import WORDS, save_tiny_model, tiny_config, tiny_tokenizer, toy_texts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModel,
    BartConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    CLIPConfig,
    LEDConfig,
    M2M100Config,
    MBartConfig,
    MraConfig,
    OPTConfig,
    PegasusConfig,
    PreTrainedTokenizerFast,
    ProphetNetConfig,
    RobertaConfig,
    SwitchTransformersConfig,
)

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.model import build_classifier, load_classifier, save_classifier

IDS = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])


@pytest.fixture
def folder(tmp_path):
    return save_tiny_model("bert", tmp_path / "model")


def build(folder, **settings):
    return build_classifier(
        str(folder), ("bad", "good"), **({"seed": 0, "max_length": 32} | settings)
    )


def adapted(model, prefix=""):
    """The model with random factors on its queries."""
    config = LoraConfig(r=2, target_modules=[f"{prefix}query"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(model, config)


def states(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).last_hidden_state[:, 0]


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize("adapter_first", [True, False])
def test_an_adapter_beside_the_merged_weights_is_not_added_again(folder, adapter_first):
    peft = adapted(AutoModel.from_pretrained(folder))
    if adapter_first:
        peft.save_pretrained(folder)
        merged = peft.merge_and_unload()
        merged.save_pretrained(folder)
    else:
        adapter = folder.parent / "adapter"
        peft.save_pretrained(adapter)
        merged = peft.merge_and_unload()
        merged.save_pretrained(folder)
        for path in adapter.glob("adapter_*"):
            shutil.copy(path, folder)
    classifier = build(folder)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model.features(IDS), states(merged))
    assert all(value.requires_grad for value in classifier.model.parameters())
    assert not [name for name, _ in classifier.model.named_parameters() if "lora" in name]
    save_classifier(classifier, folder.parent / "saved")
    with torch.no_grad():
        again = load_classifier(folder.parent / "saved").model.features(IDS)
    torch.testing.assert_close(again, states(merged))


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_alone_is_refused_with_the_name_of_its_base(folder, with_config):
    target = folder.parent / "adapter"
    adapted(AutoModel.from_pretrained(folder)).save_pretrained(target)
    if with_config:
        shutil.copy(folder / "config.json", target)
    with pytest.raises(InputError, match=r"adapter of .*model, but not a whole model.*merge") as e:
        build(target)
    assert str(folder) in str(e.value)


def test_weights_with_an_adapter_in_them_are_refused(folder):
    peft = adapted(AutoModel.from_pretrained(folder))
    assert isinstance(peft, PeftModel)
    tensors = {
        name: value.contiguous() for name, value in peft.get_base_model().state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 4 parameters.*merge_and_unload"):
        build(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
    ],
    ids=lambda settings: settings.get("quant_method", "unnamed"),
)
def test_quantised_weights_are_refused_by_their_method(folder, settings):
    edit_config(folder, quantization_config=settings)
    name = settings.get("quant_method", "bitsandbytes")
    with pytest.raises(InputError, match=rf"are quantised \({name}\)"):
        build(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_of_8_bits_are_quantised_though_the_configuration_is_silent(folder, dtype):
    path = folder / "model.safetensors"
    key = "encoder.layer.0.output.dense.weight"
    whole = load_file(path)
    save_file(whole | {key: whole[key].to(dtype)}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"are quantised \({key}.*name the model in float32"):
        build(folder)


def test_integers_that_are_no_weights_are_read(folder):
    path = folder / "model.safetensors"
    positions = {"embeddings.position_ids": torch.arange(64)[None].to(torch.int32)}
    save_file(load_file(path) | positions, path, metadata={"format": "pt"})
    build(folder)


@pytest.mark.parametrize("settings", [{"vocab_size": 999}, {"intermediate_size": 48}])
def test_weights_of_other_sizes_are_named_with_both_shapes(folder, settings):
    edit_config(folder, **settings)
    (size,) = settings.values()
    with pytest.raises(InputError, match=rf"do not fit.* is .*expected {size}\b") as caught:
        build(folder)
    assert "cannot be loaded" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_cloned_without_git_lfs_is_told_so(folder, name):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 9\n"
    (folder / name).write_text(pointer)
    with pytest.raises(InputError, match=rf"{name}' is a pointer of Git LFS.*git lfs pull"):
        build(folder)


def test_a_folder_without_a_configuration_is_told_so(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        build(folder)


def test_a_padding_token_that_the_model_cannot_have_is_an_input_error(folder):
    edit_config(folder, pad_token_id=5000)
    with pytest.raises(InputError, match="cannot be loaded"):
        build(folder)


def test_a_tokenizer_of_another_model_that_cannot_read_is_named(folder):
    # without its own words for unknown ones: BERT's tokenizer on another's vocabulary
    content = json.loads((folder / "tokenizer.json").read_text())
    del content["model"]["vocab"]["<unk>"]
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<unk>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("unk_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"tokenizer of .* cannot read texts"):
        build(folder)


@pytest.mark.parametrize("length", ["64", None])
def test_a_maximum_length_that_is_no_number_does_not_matter(folder, length):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    assert build(folder).max_length == 32


def test_a_model_whose_attention_needs_a_gpu_is_refused(tmp_path):
    config = MraConfig(
        vocab_size=len(tiny_tokenizer("bert")),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="mra model, which computes no attention"):
        build(tmp_path)


def test_a_new_model_whose_attention_starts_at_zero_is_loaded(folder):
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.output.dense.weight.zero_()
    model.save_pretrained(folder)
    assert torch.isfinite(build(folder).model.features(IDS)).all()


@pytest.mark.parametrize(("layers", "says"), [(1, "hold 16 parameters"), (3, "lack 16 parameters")])
def test_layers_that_only_the_weights_or_only_the_configuration_has_are_refused(
    folder, layers, says
):
    edit_config(folder, num_hidden_layers=layers)
    with pytest.raises(InputError, match=rf"{says}.*encoder.layer.{min(layers, 2)}"):
        build(folder)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForSequenceClassification])
def test_the_head_that_weights_were_saved_with_is_left_out(folder, kind):
    headed = kind(tiny_config("bert"))
    headed.save_pretrained(folder)
    with torch.no_grad():
        found = build(folder).model.features(IDS)
    torch.testing.assert_close(found, states(headed.bert))


class Harmful:
    """What its pickle does when it is loaded by a program that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damaged", [False, True])
def test_weights_in_a_pickle_are_read_as_tensors_alone(folder, tmp_path, damaged):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    build(folder)
    if damaged:
        (folder / "pytorch_model.bin").write_bytes(b"")
    else:
        torch.save(weights | {"more": Harmful(tmp_path / "touched")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="name a model with weights in safetensors"):
        build(folder)
    assert not (tmp_path / "touched").exists()


def test_sharded_weights_load_and_a_missing_shard_is_refused_by_name(folder):
    whole = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="30KB")
    with torch.no_grad():
        torch.testing.assert_close(build(folder).model.features(IDS), states(whole))
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        build(folder)


_HALVES = {
    "vocab_size": 43,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


@pytest.mark.parametrize(
    "config",
    [
        BartConfig(**_HALVES),
        MBartConfig(**_HALVES),
        PegasusConfig(**_HALVES),
        M2M100Config(**_HALVES),
        LEDConfig(**_HALVES),
        ProphetNetConfig(vocab_size=43, hidden_size=32),
        SwitchTransformersConfig(vocab_size=43, d_model=32, num_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_encoder_decoders_without_an_encoder_of_their_own_are_not_supported(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{config.model_type} model, an encoder-decoder") as error:
        build(tmp_path)
    assert "not supported" in str(error.value)


def test_code_of_a_models_own_is_not_run(folder):
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    with pytest.raises(InputError, match="Python code of its own, which lpft does not run"):
        build(folder)


def test_models_of_images_and_texts_are_refused(tmp_path):
    config = CLIPConfig(
        text_config={"vocab_size": 43, "hidden_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 4, "intermediate_size": 64},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        | {"intermediate_size": 64, "image_size": 8, "patch_size": 4},
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="clip model, which cannot read texts"):
        build(tmp_path)


@pytest.mark.parametrize("width", [16, 32])
def test_the_head_is_as_wide_as_the_states_of_a_projected_opt(tmp_path, width):
    config = OPTConfig(
        vocab_size=43,
        hidden_size=32,
        word_embed_proj_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    classifier = build(tmp_path)
    assert classifier.model.head.in_features == width
    save_classifier(classifier, tmp_path / "saved")
    assert load_classifier(tmp_path / "saved").model.head.in_features == width
    assert build(tmp_path / "saved").model.head.in_features == width


def bert_types_tokenizer(folder, segment=1):
    """The tiny BERT's tokenizer, whose second text has this token type."""
    tokenizer = tiny_tokenizer("bert")
    processor = json.loads(tokenizer.backend_tokenizer.to_str())
    for piece in processor["post_processor"]["pair"]:
        for part in piece.values():
            part["type_id"] *= segment
    backend = Tokenizer.from_str(json.dumps(processor))
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=tokenizer.model_input_names,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("types", [1, 2])
def test_token_types_of_pairs_are_left_out_where_the_model_has_one(tmp_path, types):
    settings = tiny_config("roberta").to_dict() | {"type_vocab_size": types}
    config = RobertaConfig(**settings)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    classifier = build(bert_types_tokenizer(tmp_path))
    words, _ = toy_texts(4)
    tokens = tokenize(classifier.tokenizer, list(zip(words, words[::-1], strict=True)), 32)
    batch = tokens.batch(range(4))
    assert batch["token_type_ids"].max() == 1
    plain = AutoModel.from_pretrained(tmp_path).eval()
    if types == 1:
        del batch["token_type_ids"]
    with torch.no_grad():
        expected = plain(**batch).last_hidden_state[:, 0]
        found = classifier.model.features(**tokens.batch(range(4)))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_token_types_that_the_model_lacks_are_refused(folder):
    bert_types_tokenizer(folder, segment=2)
    with pytest.raises(InputError, match=r"token_type_ids up to 2 .* 2 types"):
        build(folder)


@pytest.mark.parametrize("extra", [["[PAD]"], [f"extra{k}" for k in range(7)]])
def test_tokens_without_an_embedding_are_named(folder, extra):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(extra)
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="resize_token_embeddings") as error:
        build(folder)
    assert all(token in str(error.value) for token in extra[:5])
    assert ("and 2 more" in str(error.value)) == (len(extra) == 7)


def test_a_tokenizer_with_fewer_tokens_than_embeddings_is_fine(folder):
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *WORDS[:9]])}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<unk>")),
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    build(folder)


def test_the_attention_of_a_bigbird_does_not_depend_on_what_was_read_before(tmp_path):
    settings = tiny_config("bert").to_dict() | {"block_size": 4, "num_random_blocks": 1}
    settings |= {"model_type": "big_bird", "max_position_embeddings": 128}
    config = AutoConfig.for_model(**settings)
    assert config.attention_type == "block_sparse"
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    model = build(tmp_path).model
    long = torch.arange(100)[None] % 30 + 4
    with torch.no_grad():
        first = model.features(long)
        model.features(IDS)
        torch.testing.assert_close(model.features(long), first)


def test_no_weight_of_a_folder_is_changed_by_loading_it(folder):
    stored = load_file(folder / "model.safetensors")
    encoder = build(folder).model.encoder
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, stored[name])


@pytest.mark.parametrize("damage", ["cut off", "one bit", "gone"])
def test_damaged_weights_are_named(tmp_path, damage):
    folder = tmp_path / "saved"
    model = save_tiny_model("bert", tmp_path / "model")
    save_classifier(build_classifier(str(model), ("bad", "good"), seed=0), folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-100] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(
        content[: -(damage == "cut off") or None]
    )
    with pytest.raises(InputError, match=r"saved/model\.safetensors' is damaged") as caught:
        load_classifier(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is damaged"):
        build_classifier(str(folder), ("bad", "good"), seed=0)
    if damage == "one bit":  # changed on purpose
        (folder / "SHA256SUMS").unlink()
        load_classifier(folder)


def test_the_digests_are_those_of_sha256sum(tmp_path):
    model = save_tiny_model("bert", tmp_path / "model")
    save_classifier(build_classifier(str(model), ("bad", "good"), seed=0), tmp_path / "saved")
    digest, name = (tmp_path / "saved/SHA256SUMS").read_text().split()
    content = (tmp_path / "saved/model.safetensors").read_bytes()
    assert (digest, name) == (sha256(content).hexdigest(), "model.safetensors")


def test_the_texts_that_fitted_the_maximum_length_are_not_counted_again(folder):
    texts = toy_texts(9, seed=3)[0]
    counter = build_classifier(str(folder), ("a", "b"), seed=0, texts=texts).token_counter

    def count(_texts):
        raise AssertionError("counted again")

    lengths = replace(counter, count=count).lengths(texts)
    assert lengths.tolist() == counter.count(texts).tolist()
