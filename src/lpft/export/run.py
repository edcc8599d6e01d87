"""A trained classifier written for serving: staged, read back, compared, then put in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lpft.data import Examples, Text
from lpft.data.corpus import load_corpus
from lpft.data.tokens import tokenize
from lpft.errors import InputError, meant_choice, named
from lpft.export.onnx_classifier import GRAPH, RECORD, TOKENIZER, read_export, require_onnx
from lpft.export.onnx_format import measure, quantize, read_onnx, write_onnx
from lpft.export.stock import Batch, Scorer, read_transformers, write_transformers
from lpft.files import DIGESTS, add_digest, markdown_template, write_json, write_text
from lpft.model import Classifier
from lpft.model.inference import extract_features, head_logits
from lpft.results.folder import check_replaceable, read_record, written_folder
from lpft.results.resume import recorded_data
from lpft.results.saved import TorchClassifier, open_saved
from lpft.results.schema import environment
from lpft.settings import ExportFormat, Quantization

TOLERANCE = 1e-4
"""The largest difference that an export may have: of a probability, and of a logit, there as a
part of the largest logit or of 1. (Probabilities near 0 and 1 hide what their logits show.)"""

_CHECKED_TEXTS = 32
_CHECKED_AT_ONCE = 8
_CARD = "README.md"


@dataclass(frozen=True)
class Format:
    """A format: how it is written and read, and what refuses it where its extra is missing."""

    write: Callable[[Classifier, Path], tuple[str, list[str]]]
    read: Callable[[Path], Scorer]
    require: Callable[[], None] | None = None


FORMATS: dict[str, Format] = {
    "transformers": Format(write_transformers, read_transformers),
    "onnx": Format(write_onnx, read_onnx, require_onnx),
}


@dataclass(frozen=True)
class Export:
    """Where an export is, and its ``export.json``."""

    folder: Path
    record: dict[str, Any]


def export_run(
    run: str | Path,
    folder: str | Path,
    format: ExportFormat,
    *,
    quantization: Quantization | None = None,
    rows: Examples | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a trained classifier for programs that do not have lpft, and read it back.

    ``run`` is a folder of ``lpft train`` or of ``TextClassifier.save``. The logits of the export
    are f(x) / T, with the temperature T of the run, so that their softmax is calibrated.

    Args:
        quantization: ``int8`` for an ONNX graph whose matrix products multiply bytes. What that
            costs in accuracy and calibration, and its speed, are measured and recorded.
        rows: the labelled texts to measure it on; the run's validation rows by default.

    Raises:
        InputError: there is no such classifier, the format cannot hold it or its extra is not
            installed, what was written does not give the run's probabilities, there are no labelled
            rows to measure int8 on, or ``folder`` cannot be written or holds something else;
            nothing is written or replaced then.
    """
    source, target = Path(run), Path(folder)
    exporter = _get_format(format)
    if quantization is not None and format != "onnx":
        raise InputError(
            f"{named('quantize')} {quantization} is for ONNX graphs: use {named('format')} onnx, "
            "or leave it out"
        )
    check_replaceable(target, RECORD, "an export", overwrite=overwrite)
    saved = open_saved(source, "cpu")
    classifier = saved.classifier
    if classifier.model.config.safe_padding not in ("both", "right"):
        raise InputError(
            f"padding changes the predictions of {classifier.model.encoder.config.model_type} "
            f"models, and what reads the {format} format pads: use the run itself, with lpft"
        )
    if quantization is not None and rows is None:
        rows = _validation_rows(source)
    with written_folder(target) as staged:
        model, notes = exporter.write(classifier, staged)
        tokenizer = AutoTokenizer.from_pretrained(staged)
        texts = check_texts(saved.paired)
        check = agreement(classifier, tokenizer, exporter.read(staged), texts)
        run_record = read_record(source)
        identity = {} if run_record is None else {"config_hash": run_record.config_hash}
        record = {
            "format": format,
            "model": model,
            "notes": notes,
            "family": classifier.model.encoder.config.model_type,
            "temperature": saved.temperature,
            "abstain_below": saved.abstain_below,
            "classes": list(saved.classes),
            "max_length": classifier.max_length,
            "truncation_side": classifier.tokenizer.truncation_side,
            "pad_token_id": classifier.tokenizer.pad_token_id,
            "pad_token_type_id": classifier.tokenizer.pad_token_type_id,
            "paired": saved.paired,
            "text_columns": None if saved.text_columns is None else list(saved.text_columns),
            "label_column": saved.label_column,
            "check": check,
            "quantization": None,
            "run": {"name": source.resolve().name, **identity},
            "environment": environment(torch.device("cpu")),
        }
        if format == "onnx":
            _finish_onnx(saved, staged, record, quantization, rows)
        record["files"] = sorted({_CARD, *(path.name for path in staged.iterdir())} - {RECORD})
        card = markdown_template("lpft.export", "card.md.j2")
        about, limits = _card_parts(source / _CARD)
        text = card.render(**record, about=about, limits=limits)
        write_text(staged / _CARD, text)
        write_json(staged / RECORD, record)
        permissions = (staged / RECORD).stat().st_mode  # safetensors writes for the owner alone
        for path in staged.iterdir():
            path.chmod(permissions)
    return Export(target, record)


def _validation_rows(run: Path) -> Examples:
    """The labelled validation rows of a run, read again from its data.

    Raises:
        InputError: it has none, or its data is not there or changed.
    """
    advice = f"give labelled rows with {named('file')} to measure int8 on"
    record = read_record(run)
    if record is None:
        raise InputError(f"'{run}' has no run.json that names its data: {advice}")
    try:
        rows = recorded_data(run, record, splits=("validation",)).splits().get("validation")
    except InputError as error:
        raise InputError(f"{error.args[0]}; or {advice}") from error
    if rows is None or rows.labels is None:
        raise InputError(f"'{run}' has no labelled validation rows: {advice}")
    return rows


def _finish_onnx(
    saved: TorchClassifier,
    staged: Path,
    record: dict[str, Any],
    quantization: Quantization | None,
    rows: Examples | None,
) -> None:
    """Compare what ``--backend onnx`` will make of a graph with the run; quantise and measure it.

    Raises:
        InputError: its probabilities differ.
    """

    def seal() -> None:
        write_json(staged / RECORD, record)
        (staged / DIGESTS).unlink(missing_ok=True)
        for path in (*staged.glob(f"{GRAPH}*"), staged / TOKENIZER):
            if path.is_file():
                add_digest(path)

    seal()
    if not (staged / TOKENIZER).is_file():
        if quantization is not None:
            raise InputError(
                f"{named('quantize')} {quantization}: the model has no {TOKENIZER}, by which the "
                "texts that it is measured on would be read: leave it out"
            )
        return
    exact = read_export(staged, saved.folder)
    texts = check_texts(saved.paired)
    difference = float(np.abs(exact.predict_proba(texts) - saved.predict_proba(texts)).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"what {named('backend')} onnx would predict differs from the run by {difference:.2g} "
            f"in a probability, where at most {TOLERANCE:.2g} is allowed: use the run itself"
        )
    if quantization is not None:
        assert rows is not None, "they are read before"
        before = quantize(staged / GRAPH)
        seal()
        after = (staged / GRAPH).stat().st_size
        record["model"] = record["model"].replace("graph", f"graph in {quantization}", 1)
        record["quantization"] = {
            "type": quantization,
            "megabytes": {"before": round(before / 1e6, 1), "after": round(after / 1e6, 1)},
            **measure(saved, exact, read_export(staged, saved.folder), rows),
        }
        write_json(staged / RECORD, record)


def agreement(
    classifier: Classifier,
    tokenizer: PreTrainedTokenizerBase,
    score: Scorer,
    texts: Sequence[Text],
) -> dict[str, float]:
    """How far ``score`` is from the classifier's f / T, on batches that ``tokenizer`` makes.

    The largest difference of a probability, and of a logit up to a constant per text, by the names
    that ``export.json`` has for them.

    Raises:
        InputError: a text has other tokens; or a probability or a logit differs by more than
            :data:`TOLERANCE`, or is not finite.
    """
    tokens = tokenize(classifier.tokenizer, texts, classifier.max_length)
    ids = tokens.lists()
    rows = []
    for start in range(0, len(texts), _CHECKED_AT_ONCE):
        stop = start + _CHECKED_AT_ONCE
        batch = _batch(tokenizer, texts[start:stop])
        padded = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        if [row[mask > 0].tolist() for row, mask in padded] != ids[start:stop]:
            family = classifier.model.encoder.config.model_type
            raise InputError(
                f"Transformers loads the tokenizer of a {family} model as "
                f"{type(tokenizer).__name__}, which gives other tokens than the run's "
                f"{type(classifier.tokenizer).__name__}: use the run itself, with lpft"
            )
        rows.append(score(batch))
    features = extract_features(
        classifier.model, tokens, device=torch.device("cpu"), description="checking the export"
    )
    expected = head_logits(classifier.model, features).astype(np.float64)
    expected /= classifier.model.config.temperature
    exported = np.concatenate(rows).astype(np.float64)
    probability = float(np.abs(softmax(exported, axis=1) - softmax(expected, axis=1)).max())
    # Softmax does not see a constant that is added to all logits of a text.
    expected -= expected.mean(axis=1, keepdims=True)
    exported -= exported.mean(axis=1, keepdims=True)
    logit = float(np.abs(exported - expected).max())
    largest = max(1.0, float(np.abs(expected).max()))
    for name, difference, allowed in (
        ("probability", probability, TOLERANCE),
        ("logit", logit, TOLERANCE * largest),
    ):
        if not difference <= allowed:
            raise InputError(
                f"what was written differs from the run by {difference:.2g} in a {name}, where at "
                f"most {allowed:.2g} is allowed, and was removed: use another {named('format')}"
            )
    return {
        "texts": len(texts),
        "largest_difference_of_a_probability": probability,
        "largest_difference_of_a_logit": logit,
        "tolerance": TOLERANCE,
    }


def check_texts(paired: bool) -> list[Text]:
    """Texts of the bundled corpus, with one of a single word and one that is truncated."""
    sentences = [str(text) for text in load_corpus().train.texts]
    singles = [*sentences[: _CHECKED_TEXTS - 1], "good", " ".join(sentences)]
    if not paired:
        return list(singles)
    return list(zip(singles, reversed(singles), strict=True))


def _batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> Batch:
    """Texts, or pairs, as one batch: padded and truncated as the tokenizer's files say."""
    columns = zip(*((text,) if isinstance(text, str) else text for text in texts), strict=True)
    encoded = tokenizer(*map(list, columns), padding=True, truncation=True, return_tensors="np")
    return {name: np.asarray(values, dtype=np.int64) for name, values in encoded.items()}


def _get_format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(
            f"{named('format')} {name} is unknown{meant_choice(name, FORMATS)}: expected one of "
            f"{', '.join(FORMATS)}"
        )
    require = FORMATS[name].require
    if require is not None:
        require()
    return FORMATS[name]


def _card_parts(run_card: Path) -> tuple[str, str]:
    """What the run's card says of data and results, and of limits; both are Markdown."""
    if not run_card.is_file():
        return "# A text classifier", ""
    text = run_card.read_text(encoding="utf-8", errors="replace")
    front_matter = "---\n"
    if text.startswith(front_matter):
        text = text.removeprefix(front_matter).partition(front_matter)[2]
    about, _, use = text.partition("## Use\n")
    _, heading, limits = use.partition("## Limits\n")
    return about.strip(), f"{heading}{limits}".strip()
