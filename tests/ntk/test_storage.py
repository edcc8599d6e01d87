"""What is kept on disk: pieces of a kernel, with which an interrupted call ends the same; and
hidden states between blocks, which come back as they were."""

import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_classifiers import tiny_classifier
from tiny_models import toy_texts

from lpft.errors import InputError
from lpft.files import replace_when_written
from lpft.model import Classifier
from lpft.model.adapters import add_adapter
from lpft.model.encoder import seeded
from lpft.ntk import EmpiricalNTK, empirical_ntk
from lpft.ntk.storage import ActivationStore, Layout, TileStore

TEXTS = toy_texts(7)[0]
COLUMNS = toy_texts(4, seed=1)[0]
LAYOUT = Layout(tiles=3, between_blocks="memory", workspace=1 << 22)

KILLED = """
import os, signal, sys
from pathlib import Path
import lpft.ntk.storage
from lpft.ntk.storage import save_file
from test_storage import bert, kernel

written = 0

def dies_within_the_fifth(tensors, path, metadata):
    global written
    written += 1
    save_file(tensors, path, metadata)
    if written == 5:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

lpft.ntk.storage.save_file = dies_within_the_fifth
kernel(bert(), Path(sys.argv[1]))
"""


class Interrupted(Exception):
    """What a test stops a computation by."""


def bert() -> Classifier:
    return tiny_classifier("bert")


def kernel(
    classifier: Classifier,
    folder: Path,
    texts: list[str] = TEXTS,
    columns: list[str] | None = COLUMNS,
    **options,
) -> EmpiricalNTK:
    """The kernel with its pieces in ``folder``, in three tiles however much memory there is."""
    folder.mkdir(exist_ok=True)
    if not (folder / "layout.json").exists():
        LAYOUT.write(folder)
    return empirical_ntk(
        classifier.model,
        texts,
        columns,
        tokenizer=classifier.tokenizer,
        cache_dir=folder,
        device="cpu",
        check_entries=0,
        **options,
    )


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("unit-*.safetensors"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in pieces(folder)}


def assert_same(found: EmpiricalNTK, expected: EmpiricalNTK) -> None:
    assert torch.equal(found.pretrain_effective, expected.pretrain_effective)
    assert torch.equal(found.ft_effective, expected.ft_effective)
    for parts, of_expected in ((found.layers, expected.layers), (found.kinds, expected.kinds)):
        assert parts.keys() == of_expected.keys()
        assert all(torch.equal(parts[name], of_expected[name]) for name in parts)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    save, saved = TileStore.save, []

    def stop_or_save(self, unit, pair, tensors):
        if len(saved) == count:
            raise Interrupted
        saved.append((unit, pair))
        save(self, unit, pair, tensors)

    monkeypatch.setattr(TileStore, "save", stop_or_save)


def interrupt(monkeypatch, count: int, folder: Path, **options) -> None:
    """A call that stops before its ``count + 1``-th piece is written."""
    with monkeypatch.context() as patched:
        interrupt_after(patched, count)
        with pytest.raises(Interrupted):
            kernel(bert(), folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[EmpiricalNTK, Path]:
    """The kernel of an uninterrupted call, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return kernel(bert(), folder), folder


def test_pieces_do_not_change_the_kernel(whole):
    classifier = bert()
    plain = empirical_ntk(
        classifier.model, TEXTS, COLUMNS, tokenizer=classifier.tokenizer, device="cpu"
    )
    found, folder = whole
    assert found.record["plan"]["tiles"] > 2
    assert len(pieces(folder)) > 5
    torch.testing.assert_close(
        found.pretrain_effective, plain.pretrain_effective, rtol=1e-6, atol=0
    )
    scale = float(plain.ft_effective.abs().max())
    torch.testing.assert_close(found.ft_effective, plain.ft_effective, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_an_interrupted_call_ends_the_same(whole, tmp_path, monkeypatch, count):
    interrupt(monkeypatch, count, tmp_path)
    assert len(pieces(tmp_path)) == count
    assert_same(kernel(bert(), tmp_path), whole[0])


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("auto", 3),
        pytest.param("auto", 1, marks=pytest.mark.heavy),
        pytest.param("materialize", 1, marks=pytest.mark.heavy),
    ],
)
def test_interrupted_within_a_step_ends_the_same(tmp_path, monkeypatch, method, stages):
    """What a step's finished pairs leave to do is rounded as the whole step is, chunk by chunk."""
    options = {"columns": None, "contraction": method}
    chunked = Layout(tiles=3, between_blocks="memory", workspace=4000, stages=stages)
    (tmp_path / "whole").mkdir()
    chunked.write(tmp_path / "whole")
    expected = kernel(bert(), tmp_path / "whole", **options)
    of_unit = [path.name for path in pieces(tmp_path / "whole") if "unit-001" in path.name]
    assert len(of_unit) == 6
    for count in range(1, 13):
        folder = tmp_path / str(count)
        folder.mkdir()
        chunked.write(folder)
        interrupt(monkeypatch, count, folder, **options)
        assert_same(kernel(bert(), folder, **options), expected)


def test_the_parts_of_an_interrupted_call_are_the_same(tmp_path, monkeypatch):
    options = {"granularity": ("layer", "kind")}
    expected = kernel(bert(), tmp_path / "whole", **options)
    assert expected.layers
    assert expected.kinds
    interrupt(monkeypatch, 4, tmp_path / "resumed", **options)
    assert_same(kernel(bert(), tmp_path / "resumed", **options), expected)


def test_finished_pieces_are_not_computed_again(whole, tmp_path, monkeypatch):
    interrupt(monkeypatch, 4, tmp_path)
    before = contents(tmp_path)
    save, saved = TileStore.save, []

    def noted(self, unit, pair, tensors):
        saved.append(self._path(unit, pair).name)
        save(self, unit, pair, tensors)

    monkeypatch.setattr(TileStore, "save", noted)
    kernel(bert(), tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted([*before, *saved]) == [path.name for path in pieces(whole[1])]


def test_progress_counts_what_is_left(tmp_path, monkeypatch):
    """The bar's total is what will be done: of a resumed call without what was finished."""
    totals, done = [], []

    @contextmanager
    def metered(flops):
        def count(more):
            done[-1] += more

        totals.append(flops)
        done.append(0.0)
        yield count

    monkeypatch.setattr("lpft.ntk.sweep.metered", metered)
    kernel(bert(), tmp_path / "whole", columns=None)
    interrupt(monkeypatch, 8, tmp_path / "resumed", columns=None)
    kernel(bert(), tmp_path / "resumed", columns=None)
    kernel(bert(), tmp_path / "resumed", columns=None)
    assert len(pieces(tmp_path / "whole")) > 8
    whole, interrupted, resumed, finished = zip(totals, done, strict=True)
    assert whole[0] == interrupted[0] > interrupted[1]
    assert whole[1] == pytest.approx(whole[0], rel=0.1)
    assert resumed[1] == pytest.approx(resumed[0], rel=0.1)
    assert finished[0] < resumed[0] < whole[0]
    assert finished[1] == pytest.approx(finished[0])


def test_a_finished_folder_gives_the_kernel_without_saving(whole, monkeypatch):
    interrupt_after(monkeypatch, 0)
    assert_same(kernel(bert(), whole[1]), whole[0])


@pytest.mark.heavy
def test_a_killed_process_goes_on(whole, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(pieces(tmp_path)) == 4
    assert_same(kernel(bert(), tmp_path), whole[0])


def flip(piece: Path) -> None:
    content = bytearray(piece.read_bytes())
    content[-3] ^= 1
    piece.write_bytes(content)


def make_folder(piece: Path) -> None:
    piece.unlink()
    piece.mkdir()


DAMAGES = {
    "a flipped byte": flip,
    "emptied": lambda piece: piece.write_bytes(b""),
    "cut in its header": lambda piece: piece.write_bytes(piece.read_bytes()[:200]),
    "without its last byte": lambda piece: piece.write_bytes(piece.read_bytes()[:-1]),
    "a folder": make_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_piece_is_refused_by_its_name(whole, tmp_path, damage):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    piece = pieces(folder)[2]
    DAMAGES[damage](piece)
    with pytest.raises(InputError, match="is damaged: delete it") as refused:
        kernel(bert(), folder)
    assert str(piece) in str(refused.value)
    piece.rmdir() if piece.is_dir() else piece.unlink()
    assert_same(kernel(bert(), folder), whole[0])


@torch.no_grad()
def changed(what: str) -> tuple[Classifier, list[str], dict[str, object]]:
    """Another kernel: its classifier, texts and options, of which only ``what`` differs."""
    classifier, texts, options = bert(), TEXTS, {}
    model = copy.deepcopy(classifier.model)
    if what == "weights":
        next(iter(model.encoder.parameters())).view(-1)[0] += 1e-3
    elif what == "heads":
        model.head.weight[0, 0] += 1e-3
    elif what == "parameters":
        model.encoder.get_parameter("embeddings.word_embeddings.weight").requires_grad = False
        options["parameters"] = "trainable"
    elif what == "texts":
        texts = [*TEXTS[:-1], TEXTS[-1].replace(TEXTS[-1].split()[-1], "table")]
    else:
        options |= {
            "kernels": {"update": "asymmetric"},
            "methods": {"contraction": "materialize"},
            "precision": {"dtype": torch.float64},
        }[what]
    return Classifier(model, classifier.tokenizer), texts, options


@pytest.mark.parametrize(
    "what", ["weights", "texts", "heads", "parameters", "kernels", "methods", "precision"]
)
def test_a_piece_of_another_kernel_is_refused(whole, tmp_path, what):
    classifier, texts, options = changed(what)
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    with pytest.raises(InputError, match=f"was computed from other {what}") as refused:
        kernel(classifier, folder, texts, **options)
    assert str(pieces(folder)[0]) in str(refused.value)


def test_a_piece_of_another_scale_of_an_adapter_is_refused(tmp_path):
    """The scale alpha / r is in no weight: two adapters may differ in nothing else."""
    for alpha in (4.0, 8.0):
        classifier = bert()
        with seeded(0):
            adapted = add_adapter(classifier.model, "lora", rank=2, alpha=alpha)
        model = Classifier(adapted, classifier.tokenizer)
        if alpha == 4.0:
            kernel(model, tmp_path, parameters="trainable")
            continue
        with pytest.raises(InputError, match="was computed from other weights"):
            kernel(model, tmp_path, parameters="trainable")


def test_one_foreign_piece_among_the_own_is_refused(whole, tmp_path):
    classifier, texts, options = changed("weights")
    kernel(classifier, tmp_path / "other", texts, **options)
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    foreign = pieces(tmp_path / "other")[3]
    shutil.copy(foreign, folder)
    with pytest.raises(InputError, match="was computed from other weights") as refused:
        kernel(bert(), folder)
    assert str(folder / foreign.name) in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"{",
        b'{"tiles": 0, "stash": "memory", "workspace": 4194304, "stages": 1}',
        b'{"tiles": 3, "stash": "attic", "workspace": 4194304, "stages": 1}',
        b'{"tiles": 3, "stash": "memory", "workspace": 4194304}',
        b'{"tiles": 3, "stash": "memory", "workspace": 9, "stages": 1, "sha256": "another"}',
    ],
)
def test_a_damaged_layout_is_refused(tmp_path, content):
    (tmp_path / "layout.json").write_bytes(content)
    with pytest.raises(InputError, match=r"layout\.json' is damaged"):
        kernel(bert(), tmp_path)


def test_no_layout_is_written_beside_pieces_of_another_kernel(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    (folder / "layout.json").unlink()
    with pytest.raises(InputError, match="was computed from other tiles"):
        TileStore(folder, LAYOUT, {"tiles": "others"})
    assert not (folder / "layout.json").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    classifier = bert()
    with pytest.raises(InputError, match=r"cannot be written to .*Not a directory"):
        empirical_ntk(
            classifier.model,
            TEXTS,
            tokenizer=classifier.tokenizer,
            cache_dir=tmp_path / "file" / "below",
        )


@pytest.mark.parametrize("name", ["layout.json", "unit-001"])
def test_a_full_disk_is_refused_in_one_line(tmp_path, monkeypatch, name):
    """Whatever is being written when the room ends, nothing half-written stays."""

    def full(path):
        if name in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_when_written(path)

    for module in ("lpft.files", "lpft.ntk.storage"):
        monkeypatch.setattr(f"{module}.replace_when_written", full)
    with pytest.raises(InputError, match=r"cannot be written to .*No space left on device") as no:
        TileStore(tmp_path, LAYOUT, {}).save(1, (0, 0), {"ntk|total": torch.zeros(2)})
    assert "\n" not in str(no.value)
    assert not list(tmp_path.glob(".*"))


def test_less_memory_than_at_the_start_is_refused(tmp_path):
    Layout(tiles=1, between_blocks="memory", workspace=1 << 32).write(tmp_path)
    with pytest.raises(InputError, match="started with more memory"):
        kernel(bert(), tmp_path, memory="8GB")


CPU = torch.device("cpu")
KEY, OTHER = ("hidden", 0, 3), ("extra", 0, 3)


def tensors(seed: int) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    double = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return [double, None, double.float()[:, :, 0].T, torch.arange(5), torch.empty(0, 2)]


def assert_same_tensors(found, expected):
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
    assert_same_tensors(store.get(KEY, CPU), tensors(1))
    store.put(KEY, tensors(3))
    assert_same_tensors(store.get(KEY, CPU), tensors(3))
    assert_same_tensors(store.get(OTHER, CPU), tensors(2))
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
    assert_same_tensors(alive.get(KEY, CPU), tensors(1))
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
