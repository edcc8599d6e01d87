"""What lies between blocks comes back as it was, wherever it waits."""

import tempfile

import pytest
import torch

from lpft.errors import InputError
from lpft.ntk.storage import ActivationStore

CPU = torch.device("cpu")
KEY, OTHER = ("hidden", 0, 3), ("extra", 0, 3)


def tensors(seed: int) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    double = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return [double, None, double.float()[:, :, 0].T, torch.arange(5), torch.empty(0, 2)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("place", ["memory", "files", "host"])
def test_tensors_come_back_as_they_were(place, tmp_path):
    store = ActivationStore(place, tmp_path)
    assert KEY not in store
    store.put(KEY, tensors(1))
    store.put(OTHER, tensors(2))
    assert KEY in store
    assert_same(store.get(KEY, CPU), tensors(1))
    store.put(KEY, tensors(3))
    assert_same(store.get(KEY, CPU), tensors(3))
    assert_same(store.get(OTHER, CPU), tensors(2))
    store.drop(KEY)
    store.drop(KEY)
    assert KEY not in store
    assert len(list(tmp_path.glob("*/*"))) == (place == "files")
    store.close()
    assert OTHER not in store
    assert not list(tmp_path.iterdir())


def test_a_gradient_is_kept_without_its_graph():
    store = ActivationStore("memory")
    store.put(KEY, [torch.ones(2, requires_grad=True) * 2])
    (found,) = store.get(KEY, CPU)
    assert not found.requires_grad


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    alive = ActivationStore("files", tmp_path)
    alive.put(KEY, tensors(1))
    killed = tmp_path / "lpft-ntk-0123456789abcdef"
    killed.mkdir()
    (killed / "hidden-0-3").write_bytes(b"left")
    (tmp_path / "other").mkdir()
    ActivationStore("memory", tmp_path)
    assert not killed.exists()
    assert (tmp_path / "other").is_dir()
    assert_same(alive.get(KEY, CPU), tensors(1))
    alive.close()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    missing = tmp_path / "missing"
    with pytest.raises(InputError, match=f"hidden states cannot be written to '{missing}'"):
        ActivationStore("files", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    with pytest.raises(InputError, match=f"hidden states cannot be written to '{missing}'"):
        ActivationStore("files")
    store = ActivationStore("files", tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folder.rmdir()
    with pytest.raises(InputError, match=r"hidden states cannot be written to .*No such file"):
        store.put(KEY, tensors(1))
