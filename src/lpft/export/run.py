"""A trained classifier written for serving: staged, read back, compared, then put in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from lpft.errors import InputError, named
from lpft.export.agreement import Scorer, agreement, check_texts
from lpft.export.onnx_format import read_onnx, write_onnx
from lpft.export.stock import read_transformers, write_transformers
from lpft.files import markdown_template, write_json, write_text
from lpft.model import Classifier
from lpft.results.folder import check_replaceable, read_record, written_folder
from lpft.results.saved import open_saved
from lpft.results.schema import environment
from lpft.settings import ExportFormat

RECORD = "export.json"
_CARD = "README.md"


@dataclass(frozen=True)
class Format:
    """A format: how it is written and read, and the packages of its extra that both need."""

    write: Callable[[Classifier, Path], tuple[str, list[str]]]
    read: Callable[[Path], Scorer]
    packages: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "transformers": Format(write_transformers, read_transformers),
    "onnx": Format(write_onnx, read_onnx, ("onnx", "onnxruntime", "onnxscript")),
}


@dataclass(frozen=True)
class Export:
    """Where an export is, and its ``export.json``."""

    folder: Path
    record: dict[str, Any]


def export_run(
    run: str | Path, folder: str | Path, format: ExportFormat, *, overwrite: bool = False
) -> Export:
    """Write a trained classifier for programs that do not have lpft, and read it back.

    ``run`` is a folder of ``lpft train`` or of ``TextClassifier.save``. The logits of the export
    are f(x) / T, with the temperature T of the run, so that their softmax is calibrated.

    Raises:
        InputError: there is no such classifier, the format cannot hold it or its extra is not
            installed, what was written does not give the run's probabilities, or ``folder`` cannot
            be written or holds something else; nothing is written or replaced then.
    """
    source, target = Path(run), Path(folder)
    chosen = _get_format(format)
    check_replaceable(target, RECORD, "an export", overwrite=overwrite)
    saved = open_saved(source, "cpu")
    classifier = saved.classifier
    if classifier.model.config.safe_padding not in ("both", "right"):
        raise InputError(
            f"padding changes the predictions of {classifier.model.encoder.config.model_type} "
            f"models, and what reads the {format} format pads: use the run itself, with lpft"
        )
    with written_folder(target) as staged:
        model, notes = chosen.write(classifier, staged)
        tokenizer = AutoTokenizer.from_pretrained(staged)
        check = agreement(classifier, tokenizer, chosen.read(staged), check_texts(saved.paired))
        run_record = read_record(source)
        known = {} if run_record is None else {"config_hash": run_record.config_hash}
        record = {
            "format": format,
            "model": model,
            "notes": notes,
            "temperature": classifier.model.config.temperature,
            "abstain_below": classifier.model.config.abstain_below,
            "classes": list(classifier.model.config.classes),
            "max_length": classifier.max_length,
            "check": check,
            "run": {"name": source.resolve().name, **known},
            "environment": environment(torch.device("cpu")),
            "files": sorted([_CARD, *(path.name for path in staged.iterdir())]),
        }
        card = markdown_template("lpft.export", "card.md.j2")
        about, limits = _card_parts(source / _CARD)
        text = card.render(**record, about=about, limits=limits, paired=saved.paired)
        write_text(staged / _CARD, text)
        write_json(staged / RECORD, record)
        permissions = (staged / RECORD).stat().st_mode  # safetensors writes for the owner alone
        for path in staged.iterdir():
            path.chmod(permissions)
    return Export(target, record)


def _get_format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(
            f"{named('format')} {name} is unknown: expected one of {', '.join(FORMATS)}"
        )
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"{named('format')} {name} needs the '{name}' extra, which is not installed "
            f"({missing[0]} is missing): run pip install 'lpft[{name}]', or use another "
            f"{named('format')}"
        )
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
