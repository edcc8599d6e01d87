"""What a text gives does not depend on the texts that are read with it, whatever the family."""

import pytest
import torch
from tiny_models import FAMILIES, save_tiny_model, tiny_config, tiny_tokenizer, toy_texts
from transformers import (
    AutoModel,
    ConvBertConfig,
    FNetConfig,
    MobileBertConfig,
    ReformerConfig,
    RwkvConfig,
    ViTConfig,
)

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.export import export_run
from lpft.model import build_classifier, load_classifier, save_classifier
from lpft.model.inference import encoder_fingerprint, extract_features
from lpft.model.padding import without_padding

CPU = torch.device("cpu")
SIZES = {
    name: value
    for name, value in tiny_config("bert").to_dict().items()
    if name.endswith(("_size", "_layers", "_heads", "_embeddings", "pad_token_id"))
    and not name.startswith(("type", "chunk"))
}
MIXING = {
    "fnet": (FNetConfig(**SIZES, tpu_short_seq_length=64), "none"),
    "mobilebert": (
        MobileBertConfig(**SIZES, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
        "none",
    ),
    "convbert": (ConvBertConfig(**SIZES), "none"),
    "rwkv": (
        RwkvConfig(vocab_size=SIZES["vocab_size"], hidden_size=32, num_hidden_layers=2),
        "right",
    ),
}


def save_random(config, folder, like="bert"):
    """A model folder in which no weight is zero, the padding's embedding least of all."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tiny_tokenizer(like).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixing(tmp_path_factory):
    return {
        name: save_random(config, tmp_path_factory.mktemp(name))
        for name, (config, _) in MIXING.items()
    }


@pytest.mark.parametrize("family", MIXING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_features_in_a_padded_batch_are_those_of_each_text_alone(mixing, family, side):
    classifier = build_classifier(str(mixing[family]), ("a", "b"), seed=0, max_length=32)
    assert classifier.model.config.safe_padding == MIXING[family][1]
    plain = AutoModel.from_pretrained(mixing[family], dtype=torch.float32).eval()
    texts, _ = toy_texts(8)
    classifier.tokenizer.padding_side = side
    tokens = tokenize(classifier.tokenizer, texts, 32)
    with torch.no_grad():
        batch = classifier.model.features(**tokens.batch(range(8)))
        for row, ids in enumerate(tokens.lists()):
            states = plain(input_ids=torch.tensor([ids])).last_hidden_state[0]
            expected = states[-1 if classifier.model.config.pooling == "last" else 0]
            torch.testing.assert_close(batch[row], expected, atol=2e-5, rtol=1e-4)
    extracted = extract_features(classifier.model, tokens, device=CPU)
    torch.testing.assert_close(torch.from_numpy(extracted), batch, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_a_mask_are_padded_on_both_sides(family, tmp_path):
    folder = save_tiny_model(family, tmp_path)
    built = build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)
    assert built.model.config.safe_padding == "both"


def test_gradients_of_a_padded_batch_are_the_sum_of_each_texts(mixing):
    classifier = build_classifier(str(mixing["fnet"]), ("a", "b"), seed=0, max_length=32)
    tokens = tokenize(classifier.tokenizer, toy_texts(5)[0], 32)
    weight = classifier.model.encoder.get_input_embeddings().weight

    def gradient(rows):
        features = classifier.model.features(**tokens.batch(rows))
        return torch.autograd.grad(features.square().sum(), weight)[0]

    expected = sum(gradient([row]) for row in range(5))
    torch.testing.assert_close(gradient(range(5)), expected, atol=1e-5, rtol=1e-4)


def test_a_saved_classifier_reads_as_the_one_that_was_saved(mixing, tmp_path):
    classifier = build_classifier(str(mixing["mobilebert"]), ("a", "b"), seed=0, max_length=32)
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.model.config.safe_padding == "none"
    before = encoder_fingerprint(loaded.model)
    loaded.model.config.safe_padding = "both"
    assert encoder_fingerprint(loaded.model) != before


def test_a_classifier_of_an_earlier_version_is_checked_when_it_is_loaded(mixing, tmp_path):
    classifier = build_classifier(str(mixing["fnet"]), ("a", "b"), seed=0, max_length=32)
    classifier.model.config.safe_padding = "both"
    save_classifier(classifier, tmp_path)
    assert load_classifier(tmp_path).model.config.safe_padding == "none"


def test_what_pads_by_itself_is_not_exported_to(mixing, tmp_path):
    classifier = build_classifier(str(mixing["fnet"]), ("a", "b"), seed=0, max_length=32)
    save_classifier(classifier, tmp_path / "saved")
    with pytest.raises(InputError, match="padding changes the predictions of fnet models"):
        export_run(tmp_path / "saved", tmp_path / "out", "onnx")


def test_groups_hold_the_real_tokens_of_texts_of_one_length_each():
    mask = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
    ids = torch.tensor([[1, 2, 3], [0, 0, 4], [5, 6, 0], [7, 8, 9]])
    shapes = []

    def features(input_ids, attention_mask):
        assert attention_mask.all()
        shapes.append(tuple(input_ids.shape))
        return input_ids.sum(1, keepdim=True)

    sums = without_padding(features, mask, input_ids=ids)
    assert sums.tolist() == [[6], [4], [11], [24]]
    assert sorted(shapes) == [(1, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            ReformerConfig(
                vocab_size=SIZES["vocab_size"],
                hidden_size=32,
                attention_head_size=8,
                num_attention_heads=4,
                feed_forward_size=64,
                axial_pos_shape=[8, 8],
                axial_pos_embds_dim=[16, 16],
                attn_layers=["lsh"],
            ),
            "reformer model, which draws random hashes",
        ),
        (
            ViTConfig(
                hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
            ),
            "vit model, which reads pixel_values, not texts",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_models_that_read_no_texts_or_not_twice_alike_are_refused(tmp_path, config, says):
    folder = save_random(config, tmp_path)
    with pytest.raises(InputError, match=says):
        build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)
