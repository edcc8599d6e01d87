"""An ONNX export as a classifier: the libraries tokenizers and ONNX Runtime, without torch.

``open_onnx`` takes an export, or a trained run, of which it makes one and keeps it in the cache by
the digest of the run's files.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from filelock import FileLock
from numpy.typing import NDArray

from lpft import __version__
from lpft.data.examples import Text
from lpft.data.lengths import length_batches
from lpft.data.texts import check_texts
from lpft.errors import InputError, named, one_line
from lpft.files import DIGESTS, EXPORT_RECORD, damaged_file, default_cache_dir
from lpft.progress import progress
from lpft.results.saved import SavedClassifier, finished_config

logger = logging.getLogger(__name__)

RECORD, GRAPH, TOKENIZER = EXPORT_RECORD, "model.onnx", "tokenizer.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""Of the ``onnx`` extra; an export that is there needs ONNX Runtime alone."""

_MAX_ROWS, _MAX_TOKENS_PER_THREAD, _MAX_TOKENS = 256, 256, 2048
"""Of a batch, padding included: what each layer gives must fit in the caches of the cores."""
_DECISIVE = ("config.json", "*.safetensors", "*token*", "vocab*", "merges.txt", "*.model")
"""Files of a run that decide its predictions: configuration, weights, tokenizer."""


@dataclass(frozen=True)
class OnnxClassifier(SavedClassifier):
    """A classifier that ONNX Runtime computes on the CPU, with as many threads as torch takes.

    ``export`` is the folder of its graph.
    """

    backend = "onnx"
    export: Path
    session: Any
    tokenizer: Any
    pad_values: Mapping[str, int]
    batch_tokens: int
    family: str

    def logits(
        self,
        texts: Sequence[Text],
        *,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        description: str = "predicting",
        done: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """``V phi(x) + b`` of N texts, N x C: those of the graph, times the temperature."""
        if not len(texts):
            raise InputError("there is no text to read: expected at least one")
        check_texts(texts, paired=self.paired, rows=rows)
        encodings = self.tokenizer.encode_batch_fast(list(texts))
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        for position in np.flatnonzero(lengths == 0)[:1]:
            row = position + 1 if rows is None else rows[position]
            raise InputError(f"text {row} has no token that the model knows: expected some text")
        result = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        with progress(description=description, total=len(texts), unit="texts") as bar:
            for batch in length_batches(lengths, max_rows=_MAX_ROWS, max_tokens=self.batch_tokens):
                inputs = self._inputs([encodings[row] for row in batch], lengths[batch])
                result[batch] = self.session.run(["logits"], inputs)[0]
                bar.update(len(batch))
                if done is not None:
                    done(len(batch))
        return result * np.float32(self.temperature)

    def _inputs(
        self, encodings: Sequence[Any], lengths: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Token ids and masks of a batch (N x T), padded on the right."""
        real = np.arange(int(lengths.max())) < lengths[:, None]
        inputs = {}
        for name, pad in self.pad_values.items():
            if name == "attention_mask":
                inputs[name] = real.astype(np.int64)
                continue
            inputs[name] = np.full(real.shape, pad, dtype=np.int64)
            values = [
                encoding.ids if name == "input_ids" else encoding.type_ids for encoding in encodings
            ]
            inputs[name][real] = np.concatenate(values)
        return inputs

    def fingerprint(self) -> str:
        digest = sha256((self.export / DIGESTS).read_bytes())
        digest.update(json.dumps([self.temperature, list(map(str, self.classes))]).encode())
        return digest.hexdigest()

    @property
    def device_type(self) -> str:
        return "cpu"

    @property
    def encoder_name(self) -> str:
        return self.family


def is_onnx_export(folder: Path) -> bool:
    """Whether a folder is an export as an ONNX graph."""
    return (folder / RECORD).is_file() and (folder / GRAPH).is_file()


def open_onnx(folder: Path) -> OnnxClassifier:
    """The classifier of an ONNX export, or of a trained run by an export of it.

    That of a run is made once, which compares its predictions with the run's, and kept in the cache
    folder.

    Raises:
        InputError: the ``onnx`` extra is missing, the folder has neither, a file is damaged, or
            the run cannot be exported.
    """
    if is_onnx_export(folder):
        require_onnx(("onnxruntime",))
        return read_export(folder, folder)
    config = finished_config(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"'{folder}' contains no trained classifier: expected a folder that lpft train wrote, "
            "or an export as an ONNX graph"
        )
    export = default_cache_dir() / "onnx" / _run_digest(folder)
    if _is_intact(export):
        require_onnx(("onnxruntime",))
    else:
        require_onnx(PACKAGES)
        _export_once(folder, export)
    return read_export(export, folder, config)


def _is_intact(export: Path) -> bool:
    """Whether the cache has an export whose files are as they were written."""
    return is_onnx_export(export) and damaged_file(export) is None


def _export_once(run: Path, export: Path) -> None:
    """Export a run into the cache; of several processes that want it, one does and others wait."""
    from lpft.export.run import export_run  # loads torch

    try:
        export.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(export.with_name(f"{export.name}.lock")):
            if _is_intact(export):
                return
            damaged = damaged_file(export) if is_onnx_export(export) else None
            if damaged is not None:
                logger.warning("'%s' is damaged: the run is exported again", export / damaged)
            logger.info("exporting '%s' as an ONNX graph, once; it is kept in '%s'", run, export)
            export_run(run, export, "onnx", overwrite=True)
    except OSError as error:
        raise InputError(
            f"the cache folder '{export.parent}' cannot be written ({error.strerror}): name "
            f"another by LPFT_CACHE_DIR, or use {named('backend')} torch"
        ) from error


def read_export(export: Path, run: Path, config: Mapping[str, Any] | None = None) -> OnnxClassifier:
    """The classifier of an ONNX export; ``run`` and its ``config`` are those of its training.

    Raises:
        InputError: a file is missing, damaged, or of an earlier version.
    """
    import onnxruntime  # of the extra
    from tokenizers import Tokenizer

    again = "export the run again"
    damaged = damaged_file(export)
    if damaged is not None:
        raise InputError(f"'{export / damaged}' is damaged: {again}")
    if not (export / TOKENIZER).is_file():
        raise InputError(
            f"'{export}' has no {TOKENIZER}, without which its texts are not read here: use "
            f"{named('backend')} torch with the run"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads = _threads()
    # As share_the_machine: threads that spin wait for others that are not scheduled.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        record = json.loads((export / RECORD).read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(export / TOKENIZER))
        session = onnxruntime.InferenceSession(
            export / GRAPH, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # both libraries raise their own kinds
        raise InputError(
            f"the ONNX export in '{export}' cannot be read ({one_line(error)}): {again}"
        ) from error
    if "pad_token_id" not in record:
        raise InputError(f"'{export}' was written by an earlier version: {again}")
    tokenizer.no_padding()
    side = record.get("truncation_side", "right")  # before it was recorded, left was refused
    tokenizer.enable_truncation(record["max_length"], direction=side)
    pads = {"input_ids": record["pad_token_id"], "token_type_ids": record["pad_token_type_id"]}
    columns = record["text_columns"]
    config = {} if config is None else config
    return OnnxClassifier(
        folder=run,
        classes=tuple(record["classes"]),
        temperature=float(record["temperature"]),
        abstain_below=record["abstain_below"],
        paired=record["paired"],
        text_columns=None if columns is None else tuple(columns),
        label_column=record["label_column"],
        task=config.get("task"),
        template=config.get("template", 0),
        export=export,
        session=session,
        tokenizer=tokenizer,
        pad_values={entry.name: pads.get(entry.name, 0) for entry in session.get_inputs()},
        batch_tokens=min(_MAX_TOKENS_PER_THREAD * max(1, threads), _MAX_TOKENS),
        family=record["family"],
    )


def require_onnx(packages: Sequence[str] = PACKAGES) -> None:
    """Refuse to go on without packages of the ``onnx`` extra.

    Raises:
        InputError: one is missing.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"ONNX needs the 'onnx' extra, which is not installed ({missing[0]} is missing): run "
            "pip install 'lpft[onnx]', or do without it"
        )


def _threads() -> int:
    """As many as torch takes: what OMP_NUM_THREADS says, or one for each core."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:
        return int(threads)
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _run_digest(run: Path) -> str:
    """SHA-256 over the files of a run that decide its predictions, and this version."""
    digest = sha256(__version__.encode())
    paths = {path for pattern in _DECISIVE for path in run.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        digest.update(f"\n{path.name}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
