"""What a kernel comes with: its parts, its certificate, the error of its products; and whatever
way it is computed, it is the same kernel."""

import re
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from references import (
    contract,
    encoder_names,
    explicit_jacobian,
    explicit_kernels,
    head_names,
    relative_error,
    trainable_names,
)
from safetensors.torch import save_file
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import EACH_FAMILY, WORDS, toy_texts

from lpft.errors import InputError
from lpft.ntk import EmpiricalNTK, certificate, empirical_ntk, statistics
from lpft.ntk.certificate import Room
from lpft.ntk.storage import Layout

A, B = toy_texts(6, seed=21)[0], toy_texts(3, seed=22)[0]
METHODS = ("auto", "materialize", "token_gram", "sandwich")
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


@cache
def classifier():
    return tiny_classifier("roberta")


@cache
def explicit():
    model = classifier().model
    names = encoder_names(model)
    left, right = (
        explicit_jacobian(model, read(classifier().tokenizer, texts), names) for texts in (A, B)
    )
    return {"rows": contract(left, left), "columns": contract(left, right), "jacobian": left}


def kernel_of(b=None, **options):
    options = {"device": "cpu", "tokenizer": classifier().tokenizer} | options
    return empirical_ntk(classifier().model, A, b, **options)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("auto", torch.float32),
        pytest.param("auto", torch.float64, marks=pytest.mark.heavy),
        *(
            pytest.param(method, dtype, marks=pytest.mark.heavy)
            for method in METHODS[1:]
            for dtype in TOLERANCES
        ),
    ],
)
def test_every_combination_is_the_same_kernel(tmp_path, method, dtype):
    layouts = (None, Layout(3, "files", workspace=3000), Layout(1, "files", 3000, stages=4))
    combinations = product(((), ("layer",), ("kind", "layer")), (None, "64GB"), (0, 3), layouts)
    seen = 0
    for number, (granularity, memory, count, layout) in enumerate(combinations):
        cache_dir = None
        if layout is not None:
            cache_dir = tmp_path / str(number)
            cache_dir.mkdir()
            layout.write(cache_dir)
        kernel = kernel_of(
            contraction=method,
            dtype=dtype,
            granularity=granularity,
            memory=memory,
            cache_dir=cache_dir,
            check_entries=count,
        )
        assert relative_error(kernel.ft_effective, explicit()["rows"]) <= TOLERANCES[dtype]
        assert bool(kernel.layers) == ("layer" in granularity)
        assert bool(kernel.kinds) == ("kind" in granularity)
        for parts in (kernel.layers, kernel.kinds):
            if parts:
                error = relative_error(sum(parts.values()), kernel.ft_effective)
                assert error <= 1e-14
        assert len(kernel.checked_entries) == count
        assert all(entry.relative_error <= TOLERANCES[dtype] for entry in kernel.checked_entries)
        plan = kernel.record["plan"]
        expected = (1, 1) if layout is None else (layout.tiles, layout.stages)
        assert (plan["tiles"] > 1, plan["stages"] > 1) == (expected[0] > 1, expected[1] > 1)
        seen += 1
    assert seen == 36


def test_checked_entries_are_those_of_autograd():
    kernel = kernel_of(B, dtype=torch.float64, check_entries=8)
    for entry in kernel.checked_entries:
        place = entry.row, entry.row_class, entry.column, entry.column_class
        expected = float(explicit()["columns"][place])
        assert entry.autograd == pytest.approx(expected, rel=1e-10)
        assert entry.engine == float(kernel.ft_effective[place])
        assert entry.scale >= abs(entry.autograd)
    assert len({(e.row, e.row_class, e.column, e.column_class) for e in kernel.checked_entries}) > 1
    checks = [*kernel.checked_entries, *kernel.certificate.products]
    largest = max(check.relative_error for check in checks)
    assert kernel.certificate.largest_relative_error == largest


def test_entries_are_checked_by_chunks_of_the_parameters(monkeypatch):
    whole = kernel_of(B, dtype=torch.float64, check_entries=3).checked_entries
    monkeypatch.setattr(Room, "within", lambda *_, **__: Room(500))
    parts = kernel_of(B, dtype=torch.float64, check_entries=3).checked_entries
    for one, other in zip(whole, parts, strict=True):
        assert other.autograd == pytest.approx(one.autograd, rel=1e-12)
        assert other.scale == pytest.approx(one.scale, rel=1e-12)


def test_the_certificate_of_a_kernel_of_one_set_of_texts():
    kernel = kernel_of(dtype=torch.float64, check_entries=0, check_products=0)
    found = kernel.certificate
    matrix = explicit()["rows"].flatten(2).flatten(0, 1)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert found.largest_eigenvalue == pytest.approx(float(eigenvalues[-1]), rel=1e-10)
    assert abs(found.smallest_eigenvalue - float(eigenvalues[0])) < 1e-10 * eigenvalues[-1]
    assert found.asymmetry < 1e-14
    assert found.largest_relative_error is None
    other = kernel_of(B, check_entries=0).certificate
    assert (other.asymmetry, other.smallest_eigenvalue, other.largest_eigenvalue) == (None,) * 3


@pytest.mark.parametrize("kernel", ["sgd", "signgd", "asymmetric"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_faster_products_report_their_error(kernel, dtype):
    options = {"update": kernel, "dtype": dtype, "contraction": "materialize"}
    exact, fast = (kernel_of(products=products, **options) for products in ("exact", "bfloat16"))
    assert exact.products_error is None
    # Signs are bfloat16 numbers, and their products are summed in float32.
    assert (fast.products_error > 0) == (kernel != "signgd")
    assert fast.products_error < 0.005
    error = relative_error(fast.ft_effective, exact.ft_effective)
    assert error == pytest.approx(fast.products_error, rel=1e-6)
    assert torch.equal(fast.pretrain_effective, exact.pretrain_effective)


def test_the_error_of_products_is_that_of_the_methods_that_many_texts_take():
    """Few texts alone would be contracted without whole gradients, and so without an error."""
    words = " ".join(WORDS[:26])
    texts = [f"{WORDS[n % 30]} {words}" if n % 2 else f"{words} {WORDS[n % 29]}" for n in range(60)]
    options = {"granularity": (), "check_entries": 0, "tokenizer": classifier().tokenizer}
    exact, fast = (
        empirical_ntk(classifier().model, texts, device="cpu", products=products, **options)
        for products in ("exact", "bfloat16")
    )
    assert fast.record["plan"]["methods"].get("materialize", 0) > 0
    error = relative_error(fast.ft_effective, exact.ft_effective)
    assert error > 1e-5
    assert error / 3 < fast.products_error < 3 * error


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_kernel_that_autograd_contradicts_is_refused(monkeypatch, dtype):
    true = certificate.plain_gradients
    monkeypatch.setattr(certificate, "plain_gradients", lambda *of: [1.01 * g for g in true(*of)])
    with pytest.raises(InputError, match="the kernel is wrong: an entry is"):
        kernel_of(B, dtype=dtype)
    kernel_of(B, dtype=dtype, check_entries=0, check_products=0)
    kernel_of(B, dtype=dtype, products="bfloat16")


@pytest.mark.parametrize("setting", ["cuda.matmul", "mkldnn.matmul", "cudnn.conv"])
def test_the_callers_precision_of_products_is_kept(setting):
    backend, name = setting.split(".")
    own = getattr(getattr(torch.backends, backend), name)
    expected, before = kernel_of().ft_effective, own.fp32_precision
    try:
        own.fp32_precision = "tf32"
        assert torch.equal(kernel_of().ft_effective, expected)
        assert own.fp32_precision == "tf32"
    finally:
        own.fp32_precision = before


WHOLE_TABLES = {"deberta-v2": {"encoder.rel_embeddings.weight"}}
"""Per family the tables that are used whole, which autograd treats: no lookup is sparse there."""

KINDS = {
    "bert": [
        ("bias", r"\.bias$"),
        ("LayerNorm", "LayerNorm"),
        ("embeddings", "embeddings"),
        ("attention", "attention"),
        ("feed-forward", "intermediate|output"),
    ],
    "gpt2": [
        ("bias", r"\.bias$"),
        ("LayerNorm", "ln_"),
        ("embeddings", "wte|wpe"),
        ("attention", "attn"),
        ("feed-forward", "mlp"),
    ],
    "llama": [
        ("LayerNorm", "norm"),
        ("embeddings", "embed_tokens"),
        ("attention", "self_attn"),
        ("feed-forward", "mlp"),
    ],
}
"""The first pattern that a parameter's name meets says its kind."""

LAYERS = {
    "bert": [("layer 0", r"layer\.0\."), ("layer 1", r"layer\.1\."), ("embeddings", "embeddings")],
    "gpt2": [
        ("layer 0", r"h\.0\."),
        ("layer 1", r"h\.1\."),
        ("final", "ln_f"),
        ("embeddings", "wte|wpe"),
    ],
    "llama": [
        ("layer 0", r"layers\.0\."),
        ("layer 1", r"layers\.1\."),
        ("final", r"encoder\.norm"),
        ("embeddings", "embed_tokens"),
    ],
}


def parts_of(model, tokenizer, **keywords):
    options = {"dtype": torch.float64, "granularity": ("layer", "kind")} | keywords
    return empirical_ntk(model, A[:3], B[:2], tokenizer=tokenizer, **options)


def summed_by(patterns, shares):
    """The shares of each part, whose parameters are those that meet its pattern first."""
    parts = defaultdict(list)
    for name, share in shares.items():
        parts[next(part for part, pattern in patterns if re.search(pattern, name))].append(share)
    assert len(parts) == len(patterns)
    return {part: torch.stack(found).sum(0) for part, found in parts.items()}


@pytest.mark.parametrize("family", KINDS)
def test_parts_are_the_sums_of_their_parameters(family):
    classifier = tiny_classifier(family)
    model, tokenizer = classifier.model, classifier.tokenizer
    a, b = read(tokenizer, A[:3]), read(tokenizer, B[:2])
    shares = explicit_kernels(model, a, b, encoder_names(model))
    kernel = parts_of(model, tokenizer)
    for found, patterns in ((kernel.kinds, KINDS[family]), (kernel.layers, LAYERS[family])):
        expected = summed_by(patterns, shares)
        assert set(found) == set(expected)
        for part, share in expected.items():
            assert relative_error(found[part], share) <= 1e-10


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_parts_sum_to_the_whole_and_no_parameter_takes_the_fallback(family, kind):
    if kind == "full":
        classifier = tiny_classifier(family)
        model, tokenizer, parameters = classifier.model, classifier.tokenizer, "all"
    else:
        model, tokenizer = tiny_adapted(family)
        parameters = "trainable"
    kernel = parts_of(model, tokenizer, parameters=parameters)
    for parts in (kernel.layers, kernel.kinds):
        assert len(parts) > 0
        assert (
            relative_error(torch.stack(list(parts.values())).sum(0), kernel.ft_effective) <= 1e-10
        )
    plan = kernel.record["plan"]
    assert plan["fallback"] == []
    assert set(plan["by_autograd"]) == (
        WHOLE_TABLES.get(family, set()) if kind == "full" else set()
    )


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_fallback_takes_what_no_rule_knows(family):
    model, tokenizer = tiny_adapted(family, "dora")
    kernel = parts_of(model, tokenizer, parameters="trainable")
    trained = set(trainable_names(model)) - set(head_names(model))
    prefix = "base_model.model.encoder."
    fallback = {f"{prefix}{name}" for name in kernel.record["plan"]["fallback"]}
    assert {name for name in trained if "magnitude" in name} <= fallback <= trained


def test_parts_are_left_out_unless_asked_for():
    classifier = tiny_classifier("bert")
    kernel = empirical_ntk(classifier.model, A, tokenizer=classifier.tokenizer)
    assert dict(kernel.layers) == dict(kernel.kinds) == {}


LABELS = np.array([0, 1, 2, 0, 1, 1])


@cache
def kernel():
    return kernel_of(dtype=torch.float64, granularity=("layer", "kind"))


@pytest.mark.parametrize("b", [None, B])
def test_a_saved_kernel_comes_back_whole(tmp_path, b):
    saved = kernel_of(b, granularity=("layer", "kind"))
    path = tmp_path / "new" / "kernel.safetensors"
    saved.save(path)
    loaded = EmpiricalNTK.load(path)
    for name in ("pretrain_effective", "ft_effective", "row_features", "column_features"):
        assert torch.equal(getattr(loaded, name), getattr(saved, name))
    for parts in ("layers", "kinds"):
        of_saved, of_loaded = getattr(saved, parts), getattr(loaded, parts)
        assert of_saved.keys() == of_loaded.keys()
        assert all(torch.equal(of_saved[name], of_loaded[name]) for name in of_saved)
    rest = ("symmetric", "checked_entries", "checked_products", "products_error", "record")
    assert all(getattr(loaded, name) == getattr(saved, name) for name in rest)
    assert loaded.certificate == saved.certificate
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(InputError, match=r"exists: name a new file, or give overwrite=True"):
        saved.save(path)
    replace(saved, pretrain_effective=None).save(path, overwrite=True)
    assert EmpiricalNTK.load(path).pretrain_effective is None


def test_a_damaged_kernel_is_refused_by_name(tmp_path):
    path = tmp_path / "kernel.safetensors"
    kernel().save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"kernel.safetensors' is damaged, or no file"):
            EmpiricalNTK.load(path)
    save_file({"ft_effective": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"no file that EmpiricalNTK\.save wrote"):
        EmpiricalNTK.load(path)
    with pytest.raises(InputError, match="is no file"):
        EmpiricalNTK.load(tmp_path)


def test_the_total_as_an_array_its_trace_and_eigenvectors():
    total = kernel().numpy()
    assert isinstance(total, np.ndarray)
    identity = np.eye(3)
    for n, m in ((0, 0), (1, 4)):
        p, f = kernel().pretrain_effective[n, m].item(), kernel().ft_effective[n, :, m].numpy()
        np.testing.assert_allclose(total[n, :, m], p * identity + f)
    matrix = total.reshape(18, 18)
    assert kernel().trace() == pytest.approx(sum(matrix[i, i] for i in range(18)))
    values, vectors = kernel().eigenvectors(4)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:4])
    assert vectors.shape == (4, 6, 3)
    flat = vectors.reshape(4, 18)
    np.testing.assert_allclose(flat @ matrix, values[:, None] * flat, atol=1e-9 * values[0])
    np.testing.assert_allclose(flat @ flat.T, np.eye(4), atol=1e-10)


def test_the_ft_ratio_is_that_of_naive_sums():
    logits = np.random.default_rng(3).normal(size=(6, 3))
    found = kernel().ft_ratio(torch.tensor(LABELS), torch.tensor(logits, requires_grad=True))
    delta = np.eye(3)[LABELS] - np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p, f = kernel().pretrain_effective.numpy(), kernel().ft_effective.numpy()
    ratios = []
    for n in range(6):
        through = sum(f[n, :, i] @ delta[i] for i in range(6))
        whole = through + sum(p[n, i] * delta[i] for i in range(6))
        ratios.append(np.linalg.norm(through) / np.linalg.norm(whole))
    assert found == pytest.approx(np.mean(ratios))
    with pytest.raises(InputError, match=r"no P: name the module's last linear layer by head="):
        replace(kernel(), pretrain_effective=None).ft_ratio(LABELS, logits)


def test_alignments_with_itself_with_labels_and_with_another_kernel():
    """Centred over samples, class by class, as H K H of (Cortes et al., 2012)."""
    assert kernel().alignment(kernel()) == pytest.approx(1)
    assert kernel().alignment(3 * kernel().total()) == pytest.approx(1)
    centring = np.kron(np.eye(6) - 1 / 6, np.eye(3))
    target = np.kron(LABELS[:, None] == LABELS, np.eye(3)).astype(float)
    one, other = (centring @ k @ centring for k in (kernel().numpy().reshape(18, 18), target))
    expected = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert kernel().label_alignment(LABELS) == pytest.approx(expected)
    names = np.array(["bad", "fair", "good"])[LABELS]
    assert kernel().label_alignment(names.tolist()) == pytest.approx(expected)
    assert kernel().label_alignment(torch.tensor(LABELS)) == pytest.approx(expected)


def test_what_needs_samples_with_themselves_says_so():
    other = kernel_of(B, check_entries=0, check_products=0)
    for compute in (
        other.trace,
        lambda: other.eigenvectors(1),
        lambda: other.alignment(other),
        lambda: other.label_alignment(LABELS),
    ):
        with pytest.raises(InputError, match="samples with themselves"):
            compute()
    equally_many = kernel_of(A[::-1], check_entries=0, check_products=0)
    with pytest.raises(InputError, match="the trace is that of samples with themselves"):
        equally_many.trace()
    for count in (19, 0, 1.5, "2", True, None):
        with pytest.raises(InputError, match=f"expected 1 to 18 of them, found {count!r}"):
            kernel().eigenvectors(count)
    assert len(kernel().eigenvectors(np.int64(2)).values) == 2
    with pytest.raises(InputError, match="expected 6, one per row of the kernel"):
        kernel().label_alignment(LABELS[:5])


def test_statistics_take_a_kernel_its_tensors_and_arrays_alike():
    total = kernel().total()
    for statistic in (statistics.frobenius_norm, statistics.kernel_trace, statistics.heat_map):
        expected = statistic(total.numpy())
        assert isinstance(expected, float | np.ndarray)
        for same in (kernel(), total, total.clone().requires_grad_()):
            np.testing.assert_array_equal(statistic(same), expected)


def test_a_kernel_and_what_vouches_for_it_print_on_one_line():
    own, cross = kernel(), kernel_of(B, check_entries=0, check_products=0)
    assert re.fullmatch(r"EmpiricalNTK\(6 x 3 by 6 x 3, P and F, .* error \de-\d+\)", repr(own))
    assert repr(cross) == "EmpiricalNTK(6 x 3 by 3 x 3, P and F, unchecked)"
    results = (own.certificate, own.spectrum, own.eigenvectors(2), statistics.class_order(LABELS))
    for result in results:
        assert len(repr(result)) < 200, repr(result)
        assert "\n" not in repr(result)
