"""Kernels of any module and any output, against the explicit Jacobian of plain autograd."""

import re
import sys
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import cache, partial
from subprocess import run
from threading import Lock

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from references import contract, module_jacobian, relative_error
from tiny_classifiers import tiny_classifier
from tiny_models import tiny_config, tiny_tokenizer, toy_texts
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
)

from lpft.errors import InputError
from lpft.ntk import KernelRequest, NTKOperator, empirical_ntk, empirical_ntks
from lpft.ntk import outputs as ready
from lpft.ntk.network import Network

DOUBLE = {"dtype": torch.float64, "device": "cpu"}
TOLERANCE = 1e-10
SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
MASK_TOKEN = 4


class Pooled(nn.Module):
    """PyTorch's own transformer, its tokens averaged."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.last = nn.Linear(12, 3)

    def forward(self, states):
        return self.last(self.layers(states).mean(1))


def token_batch(labels=None):
    ids = torch.randint(5, 60, (5, 9), generator=torch.Generator().manual_seed(1))
    ids[:, 2] = MASK_TOKEN
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[3, 3:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch if labels is None else batch | {"labels": torch.tensor(labels)}


def images(size, count=4):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def convolutional():
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, groups=2),
        nn.GroupNorm(2, 8),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    module(images(9, 20))  # running statistics that are not 0 and 1
    return module


def pooled_states(module, batch):
    states = module(**batch).last_hidden_state * batch["attention_mask"].unsqueeze(-1)
    return states.sum(1)[:, :4]


MODULES = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        ),
        lambda: {"inputs": torch.randn(7, 5, generator=torch.Generator().manual_seed(3))},
        ready.logits,
        "4",
    ),
    "cnn": (convolutional, lambda: {"inputs": images(9)}, ready.logits, "8"),
    "transformer": (
        Pooled,
        lambda: {"inputs": torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(4))},
        ready.logits,
        "last",
    ),
    "bert": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)),
        token_batch,
        ready.logits,
        "classifier",
    ),
    "roberta": (
        lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, num_labels=3)),
        token_batch,
        ready.logits,
        "classifier.out_proj",
    ),
    "gpt2": (
        lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2, num_labels=3, pad_token_id=0)),
        token_batch,
        ready.logits,
        "score",
    ),
    "vit": (
        lambda: ViTForImageClassification(
            ViTConfig(
                **{n: SIZES[n] for n in SIZES if n.endswith(("size", "layers", "heads"))},
                image_size=8,
                patch_size=4,
                num_labels=3,
            )
        ),
        lambda: {"pixel_values": images(8)},
        ready.logits,
        "classifier",
    ),
    "convnext": (
        lambda: ConvNextForImageClassification(
            ConvNextConfig(
                hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, num_labels=3, image_size=16
            )
        ),
        lambda: {"pixel_values": images(16, 3)},
        ready.logits,
        "classifier",
    ),
    "resnet": (
        lambda: ResNetForImageClassification(
            ResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 16],
                depths=[1, 1],
                layer_type="basic",
                num_labels=3,
            )
        ),
        lambda: {"pixel_values": images(16, 3)},
        ready.logits,
        "classifier.1",
    ),
    "t5 encoder": (
        lambda: T5EncoderModel(
            T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        ),
        token_batch,
        pooled_states,
        None,
    ),
    "masked language model": (
        lambda: BertForMaskedLM(BertConfig(**SIZES)),
        token_batch,
        ready.label_words([3, 7, 9], MASK_TOKEN),
        None,
    ),
    "causal language model": (
        lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
        token_batch,
        ready.label_words([3, 7, 9]),
        None,
    ),
    "next token": (
        lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
        lambda: token_batch([7, 50, 8, 9, 11]),
        ready.next_token_log_probability,
        None,
    ),
    "loss": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)),
        lambda: token_batch([0, 2, 1, 1, 0]),
        ready.loss,
        None,
    ),
    "margin": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)),
        lambda: token_batch([0, 2, 1, 1, 0]),
        ready.margin,
        None,
    ),
}
SPLIT = [name for name, (*_, head) in MODULES.items() if head is not None]


@cache
def case(name):
    """A module, its inputs, its outputs, its head, and its explicit Jacobian with names."""
    make, inputs, outputs, head = MODULES[name]
    torch.manual_seed(0)
    module, batch = make(), inputs()
    return module, batch, outputs, head, *module_jacobian(module, batch, outputs)


def given(batch):
    """Inputs as a user gives them: a tensor where the module takes one by position."""
    return batch["inputs"] if set(batch) == {"inputs"} else batch


@pytest.mark.parametrize("name", MODULES)
def test_the_whole_kernel_is_that_of_autograd(name):
    module, batch, outputs, _, jacobian, _ = case(name)
    kernel = empirical_ntk(module, given(batch), outputs=outputs, **DOUBLE)
    assert kernel.pretrain_effective is None
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE
    assert kernel.certificate.largest_relative_error <= 1e-12
    columns = {key: tensor[:2] for key, tensor in batch.items()}
    block = empirical_ntk(module, given(batch), given(columns), outputs=outputs, **DOUBLE)
    assert relative_error(block.total(), contract(jacobian, jacobian[:2])) <= TOLERANCE


@pytest.mark.parametrize("name", SPLIT)
def test_the_last_layer_is_split_off(name):
    module, batch, _, head, jacobian, names = case(name)
    kernel = empirical_ntk(module, given(batch), head=head, **DOUBLE)
    own = torch.tensor([name.startswith(f"{head}.") for name in names])
    of_head = contract(jacobian[..., own], jacobian[..., own])
    classes = torch.eye(3, dtype=torch.float64)
    split = torch.einsum("nm,cd->ncmd", kernel.pretrain_effective, classes)
    assert relative_error(split, of_head) <= TOLERANCE
    others = contract(jacobian[..., ~own], jacobian[..., ~own])
    assert relative_error(kernel.ft_effective, others) <= TOLERANCE
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE


@pytest.mark.parametrize("patterns", [["bert.encoder.*"], ["*.bias", "classifier.weight"]])
def test_parameters_by_patterns_of_their_names(patterns):
    module, batch, _, head, jacobian, names = case("bert")
    chosen = torch.tensor([any(fnmatchcase(name, p) for p in patterns) for name in names])
    expected = contract(jacobian[..., chosen], jacobian[..., chosen])
    for split in (None, head):
        kernel = empirical_ntk(module, batch, head=split, parameters=patterns, **DOUBLE)
        assert relative_error(kernel.total(), expected) <= TOLERANCE


@pytest.mark.parametrize("head", [None, "classifier"])
def test_one_output_or_their_sum(head):
    module, batch, *_, jacobian, _ = case("bert")
    one = empirical_ntk(module, batch, head=head, select=1, **DOUBLE)
    expected = contract(jacobian[:, 1:2], jacobian[:, 1:2])
    assert relative_error(one.total(), expected) <= TOLERANCE
    summed = jacobian.sum(1, keepdim=True)
    pseudo = empirical_ntk(module, batch, head=head, select="sum", **DOUBLE)
    assert relative_error(pseudo.total(), contract(summed, summed)) <= TOLERANCE


@pytest.mark.parametrize("update", ["sgd", "signgd", "asymmetric"])
@pytest.mark.parametrize("head", [None, "classifier"])
def test_the_trace_over_outputs(head, update):
    module, batch, *_, jacobian, _ = case("bert")
    rows = jacobian.sign() if update == "signgd" else jacobian
    columns = jacobian if update == "sgd" else jacobian.sign()
    expected = torch.einsum("ncp,mcp->nm", rows, columns)[:, None, :, None]
    options = {"select": "trace", "update": update, "granularity": "kind"} | DOUBLE
    kernel = empirical_ntk(module, batch, head=head, **options)
    # Gradients that are zero up to rounding, as key biases' are, have signs of their own.
    tolerance = TOLERANCE if update == "sgd" else 1e-2
    assert relative_error(kernel.total(), expected) <= tolerance
    parts = sum(kernel.kinds.values())
    assert relative_error(parts, kernel.ft_effective) <= 1e-12
    assert kernel.record["head_rank"] == 1


def test_the_trace_with_a_head_of_fewer_dimensions():
    module, batch, *_ = case("bert")
    module = deepcopy(module)
    with torch.no_grad():
        module.classifier.weight[2] = -module.classifier.weight[:2].sum(0)
    jacobian, _ = module_jacobian(module, batch, ready.logits)
    expected = torch.einsum("ncp,mcp->nm", jacobian, jacobian)[:, None, :, None]
    kernel = empirical_ntk(module, batch, head="classifier", select="trace", **DOUBLE)
    assert relative_error(kernel.total(), expected) <= TOLERANCE
    assert len(kernel.checked_products) == 2  # of the two dimensions


def test_several_heads_in_one_pass():
    module, batch, *_ = case("bert")
    torch.manual_seed(5)
    heads = {"own": module.classifier, "binary": torch.randn(2, 16)}
    kernels = empirical_ntks(module, heads, batch, head="classifier", **DOUBLE)
    for name, head in heads.items():
        other = deepcopy(module)
        weight = head if isinstance(head, torch.Tensor) else head.weight.detach()
        other.classifier = nn.Linear(16, len(weight))
        other.classifier.weight.data = weight
        jacobian, _ = module_jacobian(other, batch, ready.logits)
        assert relative_error(kernels[name].total(), contract(jacobian, jacobian)) <= TOLERANCE


@pytest.mark.parametrize("select", [1, "sum", "trace"])
def test_several_heads_of_one_output_each(select):
    module, batch, *_ = case("bert")
    heads = {"own": module.classifier, "other": torch.randn(4, 16)}
    options = {"head": "classifier", "select": select, "granularity": "kind"} | DOUBLE
    kernels = empirical_ntks(module, heads, batch, **options)
    expected = empirical_ntk(module, batch, **options)
    assert torch.allclose(kernels["own"].total(), expected.total(), rtol=1e-12)
    assert kernels["other"].total().shape == (5, 1, 5, 1)
    assert set(kernels["other"].kinds) == set(expected.kinds)


@pytest.mark.parametrize("own", [True, False])
def test_the_bias_of_a_head_in_the_places_of_others(own):
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=own))
    inputs = torch.randn(4, 5)
    heads = {"with": nn.Linear(4, 2), "without": nn.Linear(4, 2, bias=False)}
    kernels = empirical_ntks(module, heads, inputs, head="2", **DOUBLE)
    for name, head in heads.items():
        other = nn.Sequential(module[0], nn.Tanh(), head)
        jacobian, _ = module_jacobian(other, {"inputs": inputs}, ready.logits)
        assert relative_error(kernels[name].total(), contract(jacobian, jacobian)) <= TOLERANCE


def test_options_of_several_heads_are_checked():
    module, batch, *_ = case("bert")
    heads = {"own": module.classifier}
    with pytest.raises(InputError, match="no option contract: expected one of contraction"):
        empirical_ntks(module, heads, batch, head="classifier", contract="auto")
    with pytest.raises(InputError, match="the heads are a list: expected a dict"):
        empirical_ntks(module, [module.classifier], batch, head="classifier")
    request = {"own": KernelRequest(torch.eye(16), frozenset())}
    with pytest.raises(InputError, match=r"select='sum'.*outputs of its own"):
        empirical_ntks(module, request, batch, head="classifier", select="sum")


def test_batches_from_a_loader():
    module, batch, *_, jacobian, _ = case("mlp")
    loader = torch.utils.data.DataLoader(batch["inputs"], batch_size=3)
    kernel = empirical_ntk(module, loader, **DOUBLE)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE
    named = empirical_ntk(module, [{"inputs": part} for part in loader], **DOUBLE)
    assert torch.equal(kernel.total(), named.total())


def test_texts_with_a_tokenizer():
    tokenizer = tiny_tokenizer("bert")
    torch.manual_seed(0)
    config = tiny_config("bert")
    config.num_labels = 3
    module = BertForSequenceClassification(config)
    texts = toy_texts(6, seed=3)[0]
    kernel = empirical_ntk(module, texts, tokenizer=tokenizer, head="classifier", **DOUBLE)
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    jacobian, _ = module_jacobian(module, batch, ready.logits)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE


def test_a_mask_at_the_end_of_long_texts():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("bert")
    module = BertForMaskedLM(BertConfig(**SIZES))
    texts = ["the table was good and the chair was bad and the film was fine yes", "a lamp yes"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    (mask,) = tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert len(ids[0]) > 15
    words = ready.label_words([5, 6], mask)
    rows = [module_jacobian(module, {"input_ids": torch.tensor([one])}, words)[0][0] for one in ids]
    jacobian = torch.stack(rows)
    kernel = empirical_ntk(module, texts, outputs=words, tokenizer=tokenizer, **DOUBLE)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE


class Scorer(nn.Module):
    """A table of numbers, which samples that are one id each look up."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, input_ids):
        return self.last(self.table(input_ids).tanh())


def test_samples_of_one_id_each():
    module, batch = Scorer(), {"input_ids": torch.tensor([1, 3, 3, 8])}
    jacobian, _ = module_jacobian(module, batch, ready.logits)
    kernel = empirical_ntk(module, batch, **DOUBLE)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE


def test_a_loader_of_inputs_and_classes_and_arrays_of_numbers_are_tensors():
    module, inputs = MODULES["mlp"][0](), torch.randn(5, 5)
    expected = empirical_ntk(module, inputs, **DOUBLE).total()
    classes = torch.arange(5) % 3
    for tensors in ((inputs,), (inputs, classes)):
        dataset = torch.utils.data.TensorDataset(*tensors)
        loader = torch.utils.data.DataLoader(dataset, batch_size=2)
        assert torch.equal(empirical_ntk(module, loader, **DOUBLE).total(), expected)
    of_loss = empirical_ntk(module, loader, outputs=ready.loss, **DOUBLE).total()
    named = {"input": inputs, "labels": classes}
    assert torch.equal(of_loss, empirical_ntk(module, named, outputs=ready.loss, **DOUBLE).total())
    for arrays in (inputs.numpy(), [inputs.numpy()], {"input": inputs.numpy()}):
        assert torch.equal(empirical_ntk(module, arrays, **DOUBLE).total(), expected)
    refused("expected its tensors, or a loader of it", module, dataset)
    refused("a batch is a tuple of 2: expected the inputs alone", module, [(inputs, inputs)])
    refused("a list of float: expected texts, or tensors", module, [0.5, 1.0])


def big_bird():
    torch.manual_seed(0)
    config = BigBirdConfig(
        **SIZES | {"max_position_embeddings": 200},
        attention_type="block_sparse",
        block_size=4,
        num_random_blocks=1,
        num_labels=2,
        pad_token_id=0,
    )
    return BigBirdForSequenceClassification(config)


def long_tokens(count, length):
    return torch.randint(5, 60, (count, length), generator=torch.Generator().manual_seed(4))


def test_a_model_that_short_texts_change_has_the_kernel_of_its_long_texts():
    module, ids = big_bird(), long_tokens(3, 64)
    before = ready.logits(deepcopy(module).eval(), {"input_ids": ids})
    kernel = empirical_ntk(module, {"input_ids": ids}, head="classifier.out_proj", **DOUBLE)
    jacobian, _ = module_jacobian(module, {"input_ids": ids}, ready.logits)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE
    assert torch.equal(ready.logits(module.eval(), {"input_ids": ids}), before)
    assert module.bert.attention_type == "block_sparse"


def refused(says, module, inputs, **keywords):
    with pytest.raises(InputError) as caught:
        empirical_ntk(module, inputs, **DOUBLE | keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(says, message), message


def test_inputs_that_do_not_fit_are_refused():
    module = MODULES["mlp"][0]()
    inputs = torch.randn(4, 5)
    refused("'wrong'.*expected a module that reads the inputs", module, {"wrong": inputs})
    refused("first sample cannot be computed.*shapes", module, torch.randn(4, 6))
    refused("no sample", module, inputs[:0])
    refused("no input", module, [])
    refused("NaN or infinity", module, inputs / 0)
    refused("different numbers of samples", module, {"a": inputs, "b": inputs[:3]})
    refused("batch 2 has samples of shape .4,.*batch 1 of .5,", module, [inputs, inputs[:, :4]])
    refused("tokenizer", module, ["a text"])
    refused(
        "give one kind", module, inputs, other_inputs=["a text"], tokenizer=tiny_tokenizer("bert")
    )


def test_a_tuple_of_tensors_is_refused_as_it_may_be_one_batch_or_several():
    """A mask after the ids would count as more ids."""
    module, batch = MODULES["bert"][0](), token_batch()
    pair = batch["input_ids"], batch["attention_mask"]
    refused("a dict .*for one batch.*a list for several", module, pair)
    refused("a dict .*for one batch.*a list for several", module, list(pair), other_inputs=pair)
    with pytest.raises(InputError, match="a tuple of tensors"):
        NTKOperator(module, pair)
    with pytest.raises(InputError, match="a tuple of tensors"):
        empirical_ntks(module, {"own": module.classifier}, pair, head="classifier")
    assert len(empirical_ntk(module, list(pair), **DOUBLE).row_features) == 10


def test_outputs_that_take_the_batch_for_a_tensor_are_told_its_names():
    module, inputs = MODULES["mlp"][0](), torch.randn(4, 5)
    refused(
        r"must be Tensor, not dict.*batch\['inputs'\]", module, inputs, outputs=lambda m, b: m(b)
    )
    refused("expected a module that reads", module, torch.randn(4, 6), outputs=ready.loss)


def test_outputs_that_are_no_matrix_are_refused():
    module, inputs = MODULES["mlp"][0](), torch.randn(4, 5)
    refused(
        "of shape .1,.: expected 1 x K", module, inputs, outputs=lambda m, b: m(b["inputs"])[:, 0]
    )
    batch = token_batch()
    lm = GPT2LMHeadModel(GPT2Config(**GPT2))
    refused("of shape .1, 9, 60.*expected 1 x K; give outputs=", lm, batch)
    refused(
        "no 'labels'", BertForSequenceClassification(BertConfig(**SIZES)), batch, outputs=ready.loss
    )


class Changed(nn.Module):
    """A linear layer, and what becomes of its input and outputs."""

    def __init__(self, before=lambda x: x, after=lambda y: y):
        super().__init__()
        self.linear, self.before, self.after = nn.Linear(5, 3), before, after

    def forward(self, inputs):
        return self.after(self.linear(self.before(inputs)))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Changed(after=lambda y: y[:1]), "2 samples are of shape .1, 3.: expected .2, 3."),
        (Changed(after=lambda y: y + torch.randn(3)), "from one call to the next"),
        (Changed(after=lambda y: y.detach()), "no gradient in any parameter"),
        (Changed(after=lambda y: y.argmax(1, keepdim=True)), "torch.int64: expected real"),
        (Changed(after=lambda y: y[:, :0]), "of shape .1, 0.: expected 1 x K"),
    ],
)
def test_outputs_that_do_not_follow_from_a_sample_and_the_parameters_are_refused(module, says):
    refused(says, module, torch.randn(4, 5))


def test_samples_that_change_one_another_are_warned_of_and_read_one_by_one():
    module, inputs = Changed(before=lambda x: x - x.mean(0)), torch.randn(4, 5)
    with pytest.warns(UserWarning, match="change with the sample beside it"):
        kernel = empirical_ntk(module, inputs, **DOUBLE)
    biases = torch.einsum("nm,kl->nkml", torch.ones(4, 4), torch.eye(3))  # inputs alone are 0
    assert torch.equal(kernel.total(), biases.double())


def test_modules_without_numbers_are_refused():
    inputs = torch.randn(4, 5)
    refused("'weight' has no shape yet", nn.LazyLinear(3), inputs)
    refused("'weight' is on the meta device", nn.Linear(5, 3, device="meta"), inputs)


def test_whole_numbers_among_the_parameters_have_no_share():
    module, inputs = Changed(), torch.randn(4, 5)
    expected = 4 * empirical_ntk(module, inputs, **DOUBLE).total()
    module.factor = nn.Parameter(torch.tensor(2), requires_grad=False)
    module.after = lambda y: y * module.factor
    assert relative_error(empirical_ntk(module, inputs, **DOUBLE).total(), expected) <= TOLERANCE


def test_heads_that_are_none_are_refused():
    module, batch, *_ = case("bert")
    refused("no such part.*'classifier'", module, batch, head="score")
    refused("is a BertPooler: expected the name of an nn.Linear", module, batch, head="bert.pooler")
    refused("not those of 'bert.pooler.dense'", module, batch, head="bert.pooler.dense")
    tied = BertForMaskedLM(BertConfig(**SIZES))
    words = ready.label_words([3, 7], MASK_TOKEN)
    refused("also 'bert.embeddings", tied, batch, head="cls.predictions.decoder", outputs=words)


class Folded(nn.Module):
    """Features that pass the head's own weight, or its bias, before the head."""

    def __init__(self, shared):
        super().__init__()
        self.first, self.last = nn.Linear(5, 3), nn.Linear(3, 3)
        self.shared = shared
        if shared == "bias":
            self.last.bias = self.first.bias

    def forward(self, x):
        hidden = self.first(x).tanh()
        if self.shared == "weight":
            hidden = hidden + (hidden @ self.last.weight).tanh()
        return self.last(hidden)


@pytest.mark.parametrize("shared", ["weight", "bias"])
def test_features_that_depend_on_the_head_have_no_split(shared):
    module, inputs = Folded(shared), torch.randn(4, 5)
    refused("depend on its own parameters.*leave head out", module, inputs, head="last")
    jacobian, _ = module_jacobian(module, {"inputs": inputs}, ready.logits)
    kernel = empirical_ntk(module, inputs, **DOUBLE)
    assert relative_error(kernel.total(), contract(jacobian, jacobian)) <= TOLERANCE


def test_a_wrapped_head_is_refused_with_the_name_of_the_layer_inside():
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    module = get_peft_model(deepcopy(case("bert")[0]), config)
    name = "base_model.model.classifier"
    refused(f"{name}.modules_to_save.default", module, token_batch(), head=name)


def test_no_parameters_are_refused():
    module, batch, *_ = case("bert")
    refused("parameters=.*expected all, trainable, or a list", module, batch, parameters=[])
    refused("parameters=None.*expected all, trainable", module, batch, parameters=None)


class Scaled:
    """Outputs with a number of their own."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, module, batch):
        return self.scale * module(batch["inputs"])


def projected(matrix):
    return lambda module, batch: module(batch["inputs"]) @ matrix.to(batch["inputs"])


FACTOR = 1.0


def factored(module, batch):
    return FACTOR * module(batch["inputs"])


def spread(place):
    """A matrix that differs at one place only, in what NumPy and PyTorch do not print."""
    matrix = torch.ones(3, 500)
    matrix[1, 250] = place
    return projected(matrix)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda m, b: m(b["inputs"]).sin(), lambda m, b: m(b["inputs"]).cos()),
        (lambda m, b, by=1.0: by * m(b["inputs"]), lambda m, b, by=2.0: by * m(b["inputs"])),
        (Scaled(1.0), Scaled(2.0)),
        (partial(ready.label_words, [0]), partial(ready.label_words, [1])),
        (spread(1.0), spread(2.0)),
    ],
    ids=["method", "default", "object", "partial", "tensor"],
)
def test_networks_of_different_outputs_have_different_fingerprints(one, other):
    module = MODULES["mlp"][0]()

    def fingerprint(outputs):
        return Network(module, outputs, 3).fingerprint()

    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


class Attributes(nn.Module):
    """A module that computes with attributes which are no parameters."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.factor, self.weights, self.options = 1.0, torch.ones(3), {"power": 1}
        self.activation = torch.tanh

    def forward(self, x):
        scores = self.activation(self.last(x)) * self.factor * self.weights.to(x)
        return scores ** self.options["power"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor", 2.0),
        ("weights", torch.arange(3.0)),
        ("options", {"power": 2}),
        ("activation", torch.sin),
    ],
)
def test_pieces_of_a_module_with_other_attributes_are_refused(tmp_path, name, value):
    module, inputs = Attributes(), torch.randn(4, 5)
    options = DOUBLE | {"cache_dir": tmp_path, "check_entries": 0, "check_products": 0}
    kernel = empirical_ntk(module, inputs, **options)
    again = empirical_ntk(deepcopy(module), inputs, **options)
    assert torch.equal(kernel.total(), again.total())
    setattr(module, name, value)
    with pytest.raises(InputError, match="was computed from other weights"):
        empirical_ntk(module, inputs, **options)


def test_fingerprints_have_no_addresses():
    program = (
        "import torch\nfrom lpft.ntk.network import Network\ntanh = torch.tanh\n"
        "module = torch.nn.Sequential(torch.nn.Linear(2, 1))\n"
        "module[0].weight.data.fill_(1), module[0].bias.data.fill_(1)\n"
        "module.activation = torch.sin\n"
        "outputs = lambda module, batch: tanh(module(batch['x']))\n"
        "print(Network(module, outputs, 1).fingerprint())"
    )
    calls = [[sys.executable, "-c", program]] * 2
    prints = {run(call, capture_output=True, text=True, check=True).stdout for call in calls}
    assert len(prints) == 1


def test_a_global_that_outputs_read_is_in_the_fingerprint(monkeypatch):
    network = Network(MODULES["mlp"][0](), factored, 3)
    before = network.fingerprint()
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert network.fingerprint() != before


def test_pieces_of_other_outputs_of_a_classifier_are_refused(tmp_path):
    model = tiny_classifier("bert").model
    options = {"cache_dir": tmp_path / "pieces"} | DOUBLE
    batch = token_batch([0, 1, 1, 0, 1]) | {"input_ids": torch.randint(4, 30, (5, 9))}
    empirical_ntk(model, batch, outputs=ready.loss, **options)
    with pytest.raises(InputError, match="belongs to another kernel"):
        empirical_ntk(model, batch, outputs=ready.margin, **options)


def test_parameters_and_outputs_that_do_not_exist_are_refused():
    module, batch, *_ = case("bert")
    refused("no parameter matches 'roberta.*'", module, batch, parameters=["roberta.*"])
    refused(
        "parameters='some'.*expected all, trainable, or a list", module, batch, parameters="some"
    )
    refused("parameters=a generator: expected", module, batch, parameters=module.parameters())
    frozen = deepcopy(module).requires_grad_(False)
    refused("no parameter requires gradients", frozen, batch, parameters="trainable")
    refused("outputs='logits': expected a function", module, batch, outputs="logits")
    refused("select=3.*from 0 to 2", module, batch, select=3)
    one = empirical_ntk(module, batch, select=np.int64(1), **DOUBLE).total()
    assert torch.equal(one, empirical_ntk(module, batch, select=1, **DOUBLE).total())
    refused("select='mean'.*all, sum", module, batch, select="mean")


def test_a_module_that_cannot_be_copied_is_refused():
    module = MODULES["mlp"][0]()
    module.lock = Lock()
    refused("Sequential cannot be copied", module, torch.randn(4, 5))


def test_modules_that_are_not_differentiated_are_refused():
    inputs = torch.randn(4, 5)
    refused("script of TorchScript", torch.jit.script(nn.Linear(5, 3)), inputs)
    with torch.inference_mode():
        module = nn.Linear(5, 3)
    refused("made under torch.inference_mode", module, inputs)


def test_former_names_warn():
    module, batch, *_ = case("mlp")
    with pytest.warns(FutureWarning, match="method= is now contraction="):
        old = empirical_ntk(module, batch["inputs"], method="token_gram", **DOUBLE)
    new = empirical_ntk(module, batch["inputs"], contraction="token_gram", **DOUBLE)
    assert torch.equal(old.total(), new.total())
    with pytest.warns(FutureWarning, match="kernel= is now update="):
        empirical_ntk(module, batch["inputs"], kernel="signgd", **DOUBLE)
