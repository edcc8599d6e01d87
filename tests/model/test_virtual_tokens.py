"""Virtual tokens: what an encoder computes with them, by hand, and that pooling skips them."""

import math

import pytest
import torch
from tiny_classifiers import tiny_classifier
from tiny_models import DECODERS
from torch.nn.functional import softmax

from lpft.errors import InputError
from lpft.model import Classifier, load_classifier, save_classifier
from lpft.model.adapters import add_configured, add_prefix, merge_adapter
from lpft.model.inference import encoder_fingerprint

NUMBER = 3
TEXTS = ([4, 5, 6, 7, 8], [9, 10, 11])
PREFIXED = ("bert", "roberta", "electra", "gpt2", "llama", "qwen3")
PROMPTED = (*PREFIXED, "distilbert", "albert", "deberta-v2", "modernbert", "t5")


def with_prefix(family, **keywords):
    model = tiny_classifier(family, **keywords).model.eval()
    add_prefix(model, NUMBER)
    return scattered(model)


def with_prompt(family, **keywords):
    model = tiny_classifier(family, **keywords).model.eval()
    add_configured(model, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": NUMBER})
    return scattered(model)


def scattered(model):
    """Rows of the table as far from zero as other states are."""
    generator = torch.Generator().manual_seed(3)
    model = merge_adapter(model)
    with torch.no_grad():
        table = model.virtual_tokens.table
        table.copy_(torch.randn(table.shape, generator=generator))
    return model.eval()


def padded(side):
    """Both texts in one batch."""
    width = max(map(len, TEXTS))
    ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    for row, text in enumerate(TEXTS):
        columns = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, columns], mask[row, columns] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_the_tokens_of_a_text_attend_to_the_keys_and_values_of_the_prefix():
    model = with_prefix("bert")
    batch = padded("right")
    seen = []
    for layer in model.encoder.encoder.layer:
        layer.attention.self.register_forward_hook(
            lambda module, inputs, output: seen.append((module, inputs[0], output[0]))
        )
    model.features(**batch)
    heads, size = 4, 8
    table = model.virtual_tokens.table.view(NUMBER, 2, 2, heads, size)
    for number, (module, states, found) in enumerate(seen):
        query, key, value = (
            part(states).view(2, -1, heads, size)
            for part in (module.query, module.key, module.value)
        )
        for row, text in enumerate(TEXTS):
            for head in range(heads):
                keys = torch.cat([table[:, number, 0, head], key[row, : len(text), head]])
                values = torch.cat([table[:, number, 1, head], value[row, : len(text), head]])
                scores = query[row, :, head] @ keys.T / math.sqrt(size)
                expected = softmax(scores, dim=1) @ values
                got = found.view(2, -1, heads, size)[row, :, head]
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pooling_skips_a_prompt(family, pooling):
    model = with_prompt(family, pooling=pooling)
    table = model.virtual_tokens.table
    for text in TEXTS:
        words = model.encoder.get_input_embeddings()(torch.tensor(text))
        states = model.encoder(
            inputs_embeds=torch.cat([table, words])[None],
            attention_mask=torch.ones(1, NUMBER + len(text), dtype=torch.long),
        ).last_hidden_state[0]
        assert len(states) == NUMBER + len(text)
        own = states[NUMBER:]
        expected = {"first": own[0], "last": own[-1], "mean": sum(own) / len(text)}[pooling]
        found = model.features(torch.tensor([text]))[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("family", "build"),
    [(family, with_prefix) for family in PREFIXED] + [(family, with_prompt) for family in PROMPTED],
)
def test_padding_changes_no_feature(family, build, side):
    model = build(family)
    together = model.features(**padded(side))
    for row, text in enumerate(TEXTS):
        alone = model.features(torch.tensor([text]))[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_token_types_of_pairs_are_kept_beside_a_prompt():
    model = with_prompt("bert")
    ids = torch.tensor([TEXTS[0]])
    first, second = torch.zeros_like(ids), torch.tensor([[0, 0, 1, 1, 1]])
    features = [model.features(ids, token_type_ids=types) for types in (first, second)]
    torch.testing.assert_close(features[0], model.features(ids))
    assert not torch.allclose(*features)


@torch.no_grad()
def test_tokens_of_a_text_keep_their_positions_beside_a_prefix_and_move_on_behind_a_prompt():
    """RoBERTa counts from behind the id of its padding, here 0."""
    positions = []
    for build in (with_prefix, with_prompt):
        model = build("roberta")
        embeddings = model.encoder.embeddings.position_embeddings
        hook = embeddings.register_forward_pre_hook(
            lambda _, inputs: positions.append(inputs[0][0].tolist())
        )
        model.features(torch.tensor([TEXTS[1]]))
        hook.remove()
    assert positions == [[1, 2, 3], [1, 2, 3, 4, 5, 6]]


@torch.no_grad()
@pytest.mark.parametrize("build", [with_prefix, with_prompt])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_virtual_tokens_survive_saving_and_loading(tmp_path, family, build):
    model = build(family)
    classifier = Classifier(model, tiny_classifier(family).tokenizer)
    save_classifier(classifier, tmp_path)
    assert not {path.suffix for path in tmp_path.iterdir()} & {".bin", ".pt", ".pkl"}
    loaded = load_classifier(tmp_path).model
    assert torch.equal(loaded.features(**padded("right")), model.features(**padded("right")))
    assert loaded.config.virtual_tokens == model.config.virtual_tokens


@torch.no_grad()
def test_what_decides_the_features_includes_the_virtual_tokens():
    model = with_prefix("bert")
    before = encoder_fingerprint(model)
    model.virtual_tokens.table[0, 0] += 1
    assert encoder_fingerprint(model) != before


@pytest.mark.parametrize("family", ["distilbert", "albert", "deberta-v2", "modernbert", "t5"])
def test_families_without_outside_keys_and_values_are_refused(family):
    model = tiny_classifier(family).model
    with pytest.raises(InputError, match=f"{family} models take no keys and values"):
        add_prefix(model, NUMBER)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_that_ignores_the_prefix_is_refused():
    model = tiny_classifier("bert").model
    forward = model.encoder.forward

    def deaf(input_ids, attention_mask, past_key_values=None):
        del past_key_values
        length = input_ids.shape[1]
        return forward(input_ids=input_ids, attention_mask=attention_mask[:, -length:])

    model.encoder.forward = deaf
    with pytest.raises(InputError, match="bert models do not read virtual tokens"):
        add_prefix(model, NUMBER)


def test_grouped_queries_have_a_prefix_of_fewer_heads():
    """Tiny Llama has 4 heads of 8 numbers, and 2 heads of keys and values."""
    assert "llama" in DECODERS
    model = with_prefix("llama")
    assert model.virtual_tokens.table.shape == (NUMBER, 2 * 2 * 2 * 8)
