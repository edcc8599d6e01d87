"""A trained classifier written for serving: staged, read back, compared, then put in its place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lpft.export.card import export_card
from lpft.export.comparison import agreement, check_texts
from lpft.export.folder import RECORD, check_target, written_folder
from lpft.export.formats import get_format
from lpft.export.tokens import BatchReader
from lpft.files import write_json, write_text
from lpft.results.folder import read_record
from lpft.runs.environment import environment
from lpft.runs.saved import open_saved
from lpft.settings import ExportFormat

_CARD = "README.md"


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
    chosen = get_format(format)
    check_target(target, overwrite=overwrite)
    saved = open_saved(source, "cpu")
    with written_folder(target) as staged:
        written = chosen.write(saved.classifier, staged)
        check = agreement(
            saved.classifier, BatchReader(staged), chosen.read(staged), check_texts(saved.paired)
        )
        card = export_card(source / _CARD, chosen.name, written, check, paired=saved.paired)
        write_text(staged / _CARD, card)
        record = {
            "format": chosen.name,
            "model": written.model,
            "notes": list(written.notes),
            "temperature": saved.classifier.model.config.temperature,
            "classes": list(saved.classifier.model.config.classes),
            "max_length": saved.classifier.max_length,
            "check": check.as_record(),
            "run": _origin(source),
            "environment": environment(torch.device("cpu")),
            "files": sorted(path.name for path in staged.iterdir()),
        }
        write_json(staged / RECORD, record)
        permissions = (staged / RECORD).stat().st_mode
        for path in staged.iterdir():
            path.chmod(permissions)
    return Export(target, record)


def _origin(run: Path) -> dict[str, Any]:
    """What tells the run from others: its name and, where it has a record, its settings' hash."""
    record = read_record(run)
    known = {} if record is None else {"config_hash": record.get("config_hash")}
    return {"name": run.resolve().name, **known}
