"""Errors planted into the engine are found by what vouches for a kernel."""

from dataclasses import replace

import pytest
import torch
from references import contract, encoder_names, explicit_jacobian
from tiny_classifiers import read, tiny_classifier
from tiny_models import toy_texts

from lpft.errors import InputError
from lpft.ntk import KernelJob, Options, capture, certificate, job, request_of, studied_model, sweep
from lpft.ntk import contract as contraction
from lpft.ntk.capture import Outer, Rule
from lpft.ntk.storage import Layout

TEXTS = toy_texts(9, seed=31)[0]


@pytest.fixture(scope="module")
def subject():
    classifier = tiny_classifier("bert")
    return studied_model(classifier.model, classifier.tokenizer, None)


def begun(subject, tmp_path, **options):
    """A job of three tiles that has examined its model and not run yet."""
    tmp_path.mkdir(exist_ok=True)
    Layout(3, "memory", workspace=30_000).write(tmp_path)
    options = {"dtype": torch.float64, "device": "cpu", "cache_dir": tmp_path} | options
    requests = {"ntk": request_of(subject)}
    return KernelJob(subject, requests, [TEXTS], ((0, 0),), Options(**options))


def patched(monkeypatch, module, name, change):
    """The function ``name`` of a module, its result changed by ``change(result, *arguments)``."""
    own = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: change(own(*a, **k), *a))


def wrong_rule(monkeypatch, _job):
    """A normalisation's weight has 1.01 times its gradient."""

    def change(share, *arguments):
        return 1.01 * share if Rule.SCALE in arguments else share

    patched(monkeypatch, capture, "_share", change)


def dropped_parameter(monkeypatch, _job):
    """The biases are left out."""
    monkeypatch.setattr(sweep, "contract_vectors", lambda *_: None)


def changed_module(_monkeypatch, begun):
    """A weight of the model that the engine passes is another one."""
    with torch.no_grad():
        begun._network.module.encoder.layer[0].output.dense.weight[0, 0] += 0.01


def changed_last_layer(_monkeypatch, begun):
    with torch.no_grad():
        begun._network.module.encoder.layer[-1].output.dense.weight *= 1.001


def swapped_texts(monkeypatch, _job):
    """Two texts have changed places in the rows, and not in the columns."""

    def change(kernel, *_):
        order = [1, 0, *range(2, len(kernel))]
        return kernel[order]

    patched(monkeypatch, job, "ft_effective", change)


def stale_tile(monkeypatch, _job):
    """The sums of one pair of tiles are those of a head that was a hundredth larger."""

    def change(swept, *_):
        swept.sums[1, 2] = {name: 1.01**2 * sums for name, sums in swept.sums[1, 2].items()}
        return swept

    patched(monkeypatch, job, "sweep", change)


def missing_mirror(monkeypatch, _job):
    """Of two tiles only one order of the pair is there."""

    def change(kernel, *_):
        above = torch.ones(len(kernel), len(kernel), dtype=torch.float64).triu()
        return kernel * above[:, None, :, None]

    patched(monkeypatch, job, "ft_effective", change)


def one_wrong_entry(monkeypatch, _job):
    """One entry of F is wrong by a hundredth of itself."""

    def change(kernel, *_):
        kernel[3, 1, 3, 1] *= 1.01
        return kernel

    patched(monkeypatch, job, "ft_effective", change)


def lost_token(monkeypatch, _job):
    """A linear weight does not see a text's first token."""

    def change(share, *_):
        if not isinstance(share, Outer) or share.inputs.shape[1] == 1:
            return share
        return Outer(share.inputs[:, 1:], [g[:, 1:] for g in share.gradients])

    patched(monkeypatch, sweep, "active_share", change)


def equal_ids_apart(monkeypatch, _job):
    """An embedding's equal ids of different texts do not meet."""
    own = contraction._shared_ids
    monkeypatch.setattr(contraction, "_shared_ids", lambda *ids: own(*ids)[:-1])


def wrong_features(monkeypatch, _job):
    """The features of one text, of which P is made, are wrong by a hundredth."""

    def change(swept, *_):
        swept.features[1] *= 1.01
        return swept

    patched(monkeypatch, job, "sweep", change)


def rounded_products(monkeypatch, _job):
    """The factors of exact products are rounded to bfloat16."""

    def rounded(rows, _products):
        rows = rows.bfloat16().double()
        return rows @ rows.T

    monkeypatch.setattr(contraction, "symmetric_product", rounded)


def wrong_head(_monkeypatch, begun):
    """One class has another row of the head."""
    head = begun.plan.workload.heads[0]
    mixing = head.mixing.clone()
    mixing[2] *= 1.05
    heads = (replace(head, mixing=mixing),)
    begun._workload = replace(begun._workload, heads=heads)


def seen_padding(monkeypatch, begun):
    """The engine's batches have no mask, so that texts see their padding."""
    own = type(begun._inputs).batch

    def unmasked(inputs, rows, *width):
        batch = own(inputs, rows, *width)
        if len(rows) > 1:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        return batch

    monkeypatch.setattr(type(begun._inputs), "batch", unmasked)


PLANTED = (
    wrong_rule,
    dropped_parameter,
    changed_module,
    changed_last_layer,
    swapped_texts,
    stale_tile,
    missing_mirror,
    one_wrong_entry,
    lost_token,
    equal_ids_apart,
    wrong_features,
    rounded_products,
    wrong_head,
    seen_padding,
)
MISSED_BY_ENTRIES = (stale_tile, one_wrong_entry)


def test_without_an_error_entries_and_products_are_those_of_autograd(subject, tmp_path):
    kernel = begun(subject, tmp_path, check_entries=4, check_products=3).run()["ntk"][0, 0]
    assert kernel.record["plan"]["tiles"] == 3
    assert len(kernel.checked_products) == 3
    assert kernel.certificate.largest_relative_error <= 1e-12
    jacobian = explicit_jacobian(
        subject.classifier,
        read(subject.tokenizer, TEXTS),
        encoder_names(subject.classifier),
    )
    eigenvalues = torch.linalg.eigvalsh(contract(jacobian, jacobian).flatten(2).flatten(0, 1))
    for product in kernel.checked_products:
        assert 0 < product.autograd <= product.scale * (1 + 1e-12)
        # Of a standard normal vector with 27 entries.
        assert product.autograd <= 100 * float(eigenvalues[-1])


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_error_is_found(subject, tmp_path, monkeypatch, plant):
    begun_job = begun(subject, tmp_path)
    plant(monkeypatch, begun_job)
    with pytest.raises(InputError, match=r"the kernel is wrong|features of (its longest )?input"):
        begun_job.run()


@pytest.mark.parametrize("plant", MISSED_BY_ENTRIES, ids=lambda plant: plant.__name__)
def test_entries_alone_miss_some(subject, tmp_path, monkeypatch, plant):
    begun_job = begun(subject, tmp_path, check_products=0)
    plant(monkeypatch, begun_job)
    kernel = begun_job.run()["ntk"][0, 0]
    assert len(kernel.checked_entries) == 2
    assert kernel.certificate.largest_relative_error <= 1e-12


def test_products_are_checked_by_chunks_of_the_parameters(subject, tmp_path, monkeypatch):
    whole = begun(subject, tmp_path / "whole").run()["ntk"][0, 0].checked_products
    monkeypatch.setattr(certificate.Room, "within", lambda *_, **__: certificate.Room(500))
    parts = begun(subject, tmp_path / "parts").run()["ntk"][0, 0].checked_products
    assert [p.autograd for p in parts] == pytest.approx([p.autograd for p in whole], rel=1e-12)
    assert [p.scale for p in parts] == pytest.approx([p.scale for p in whole], rel=1e-12)


def test_kernels_of_signs_are_checked_by_entries_alone(subject, tmp_path):
    kernel = begun(subject, tmp_path, update="signgd").run()["ntk"][0, 0]
    assert (len(kernel.checked_entries), kernel.checked_products) == (2, ())
