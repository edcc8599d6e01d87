"""Kernels of label words against Jacobians of transformers' own language models, in float64.

The Jacobians come from plain autograd through the language model's own modules, with the label
words' rows as parameters apart from the embeddings.
"""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from references import DoubleThroughout, explicit_ntk
from tiny_models import save_tiny_language_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from lpft import TextClassifier
from lpft.data.tokens import tokenize
from lpft.model.adapters import add_adapter
from lpft.ntk import empirical_ntk

CLASSES = ["bad", "fine", "good"]
WORDS = {"bad": "poor", "fine": "table", "good": "great"}
A = ["the chair was good", "good good the good film", "we took the train and then the lamp"]
B = ["they ate the meal", "a fine meal was never poor but slowly"]


class Sample:
    """A tiny language model, the classifier made from it, and explicit Jacobians."""

    def __init__(self, family: str, folder) -> None:
        save_tiny_language_model(family, folder)
        self.causal = family in ("gpt2", "llama")
        self.prompt = "{text} it was" if self.causal else "{text} it was [MASK]"
        self.classifier = TextClassifier.untrained(
            str(folder), CLASSES, prompt=self.prompt, label_words=WORDS
        )
        kind = AutoModelForCausalLM if self.causal else AutoModelForMaskedLM
        self.model = kind.from_pretrained(folder, attn_implementation="eager").double().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        output = self.model.get_output_embeddings()
        ids = self.tokenizer.convert_tokens_to_ids([WORDS[label] for label in CLASSES])
        self.rows = output.weight[ids].detach().clone().requires_grad_()
        bias = torch.zeros(3, dtype=torch.float64) if output.bias is None else output.bias[ids]
        self.bias = bias.detach().clone().requires_grad_()

    def parameters(self, *, head: bool) -> list[Tensor]:
        """Those before the output embedding, and with ``head`` the rows and the biases."""
        output = {id(p) for p in self.model.get_output_embeddings().parameters()}
        body = {id(p) for p in self.model.base_model.parameters()}
        own = [p for p in self.model.parameters() if id(p) in body or id(p) not in output]
        own = [p for p in own if p.shape != (self.model.config.vocab_size,)]
        return [*own, self.rows, self.bias] if head else own

    def logits(self, text: str) -> Tensor:
        written = self.prompt.format(text=text).replace("[MASK]", self.tokenizer.mask_token or "")
        inputs = self.tokenizer(written, return_tensors="pt")
        seen: list[Tensor] = []
        output = self.model.get_output_embeddings()
        handle = output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with DoubleThroughout():
            self.model(**inputs)
        handle.remove()
        at = -1
        if not self.causal:
            at = inputs.input_ids[0].tolist().index(self.tokenizer.mask_token_id)
        return seen[0][0, at] @ self.rows.T + self.bias

    def jacobian(self, texts: list[str], outputs=lambda logits: logits, *, head: bool) -> Tensor:
        """N x K x parameters."""
        parameters = self.parameters(head=head)
        rows = []
        for text in texts:
            values = outputs(self.logits(text))
            for value in values:
                with DoubleThroughout():
                    gradients = torch.autograd.grad(
                        value,
                        parameters,
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return torch.stack(rows).reshape(len(texts), -1, rows[0].numel())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return cache(lambda family: Sample(family, tmp_path_factory.mktemp("models") / family))


def error(kernel, expected):
    return float(np.abs(kernel - expected).max() / np.abs(expected).max())


FAMILIES = ["bert", "gpt2", "llama", *(pytest.param("albert", marks=pytest.mark.heavy),)]


@pytest.mark.parametrize("family", FAMILIES)
def test_p_and_f_are_the_jacobian_of_the_words_logits(family, sample):
    one = sample(family)
    kernel = empirical_ntk(one.classifier, A, B, dtype=torch.float64)
    left, right = (one.jacobian(texts, head=False).numpy() for texts in (A, B))
    assert error(kernel.ft_effective, np.einsum("nci,mdi->ncmd", left, right)) < 1e-10
    left, right = (one.jacobian(texts, head=True).numpy() for texts in (A, B))
    assert error(kernel.total(), np.einsum("nci,mdi->ncmd", left, right)) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_of_log_odds_of_two_words_follows_from_it(family, sample):
    one = sample(family)
    kernel = empirical_ntk(one.classifier, A, dtype=torch.float64).total()
    odds = np.array([-1.0, 0.0, 1.0])
    explicit = one.jacobian(
        A, lambda logits: (logits.log_softmax(0)[2] - logits.log_softmax(0)[0])[None], head=True
    )[:, 0].numpy()
    assert error(np.einsum("c,ncmd,d->nm", odds, kernel, odds), explicit @ explicit.T) < 1e-10


def test_the_kernel_of_low_rank_factors_follows(sample):
    one = sample("bert")
    classifier = deepcopy(one.classifier)
    tokens = [tokenize(classifier.tokenizer_, texts, 30) for texts in (A, B)]
    adapted = add_adapter(classifier.model_, "lora", rank=2, alpha=4.0)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    names = [name for name in names if "lora" in name]
    kernel = empirical_ntk(
        adapted, A, B, tokenizer=classifier.tokenizer_, parameters="trainable", dtype=torch.float64
    )
    expected = explicit_ntk(adapted, *tokens, names)
    assert error(kernel.ft_effective, expected.numpy()) < 1e-10


@pytest.mark.parametrize("update", ["signgd", "asymmetric"])
def test_kernels_of_signs_follow(update, sample):
    """Llama has no key biases, whose gradients are zero up to rounding."""
    one = sample("llama")
    kernel = empirical_ntk(one.classifier, A, B, dtype=torch.float64, update=update)
    left, right = (one.jacobian(texts, head=False).numpy() for texts in (A, B))
    left = np.sign(left) if update == "signgd" else left
    assert error(kernel.ft_effective, np.einsum("nci,mdi->ncmd", left, np.sign(right))) < 1e-10
