"""What lies between blocks comes back as it was, wherever it waits."""

import tempfile

import pytest
import torch

from lpft.errors import InputError
from lpft.ntk.stash import Stash

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
    stash = Stash(place, tmp_path)
    assert KEY not in stash
    stash.put(KEY, tensors(1))
    stash.put(OTHER, tensors(2))
    assert KEY in stash
    assert_same(stash.get(KEY, CPU), tensors(1))
    stash.put(KEY, tensors(3))
    assert_same(stash.get(KEY, CPU), tensors(3))
    assert_same(stash.get(OTHER, CPU), tensors(2))
    stash.drop(KEY)
    stash.drop(KEY)
    assert KEY not in stash
    assert len(list(tmp_path.glob("*/*"))) == (place == "files")
    stash.close()
    assert OTHER not in stash
    assert not list(tmp_path.iterdir())


def test_a_gradient_is_kept_without_its_graph():
    stash = Stash("memory")
    stash.put(KEY, [torch.ones(2, requires_grad=True) * 2])
    (found,) = stash.get(KEY, CPU)
    assert not found.requires_grad


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    alive = Stash("files", tmp_path)
    alive.put(KEY, tensors(1))
    killed = tmp_path / "lpft-ntk-0123456789abcdef"
    killed.mkdir()
    (killed / "hidden-0-3").write_bytes(b"left")
    (tmp_path / "other").mkdir()
    Stash("memory", tmp_path)
    assert not killed.exists()
    assert (tmp_path / "other").is_dir()
    assert_same(alive.get(KEY, CPU), tensors(1))
    alive.close()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    missing = tmp_path / "missing"
    with pytest.raises(InputError, match=f"hidden states cannot be written to '{missing}'"):
        Stash("files", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    with pytest.raises(InputError, match=f"hidden states cannot be written to '{missing}'"):
        Stash("files")
    stash = Stash("files", tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folder.rmdir()
    with pytest.raises(InputError, match=r"hidden states cannot be written to .*No such file"):
        stash.put(KEY, tensors(1))
