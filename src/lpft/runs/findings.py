"""What is found in the data of a run, in the log and in its record: row numbers, never texts."""

import logging
from collections.abc import Iterable

from lpft.data import Finding, TextData
from lpft.results.schema import FindingRecord
from lpft.settings import TrainingSettings

logger = logging.getLogger(__name__)


def log_findings(findings: Iterable[Finding], name: str | None = None) -> None:
    """A line for each finding, with the name of the data where there are several."""
    for finding in findings:
        log = logger.info if finding.level == "note" else logger.warning
        log("%s%s", "" if name is None else f"{name}: ", finding.line())
        if finding.suggested:
            log("what fits better: %s", "; ".join(_suggestions(finding)))


def _suggestions(finding: Finding, most: int = 10) -> list[str]:
    """``rows 7 good, 9 bad of train``: the first rows of each split with the better label."""
    return [
        ", ".join(
            f"{row} {label}"
            for row, label in zip(rows[:most], finding.suggested[split], strict=False)
        )
        + f" of {split}"
        for split, rows in finding.rows.items()
    ]


def recorded(findings: Iterable[Finding]) -> list[FindingRecord]:
    """The findings as ``run.json`` has them."""
    return [FindingRecord(**finding.as_json()) for finding in findings]


def label_errors(data: TextData, settings: TrainingSettings) -> list[Finding]:
    """The finding about labels that are probably wrong, without a training.

    Raises:
        InputError: the model cannot be loaded, or its features are not finite.
    """
    from lpft.model.inference import encoder_fingerprint
    from lpft.model.loading import fresh_classifier
    from lpft.training.cache import prepare_splits
    from lpft.training.label_errors import label_error_finding

    probing = settings.model_copy(update={"method": "lp"})
    classifier = fresh_classifier(data, probing)
    encoder = encoder_fingerprint(classifier.model)
    _, inputs = prepare_splits(classifier, data, probing, encoder=encoder)
    return label_error_finding(data, inputs, probing)
