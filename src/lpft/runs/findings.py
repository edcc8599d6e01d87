"""What is found in the data of a run, in the log and in its record: row numbers, never texts."""

import logging
from collections.abc import Iterable

from lpft.data import Finding
from lpft.results.schema import FindingRecord

logger = logging.getLogger(__name__)


def log_findings(findings: Iterable[Finding], name: str | None = None) -> None:
    """A warning for each finding, with the name of the data where there are several."""
    for finding in findings:
        logger.warning("%s%s", "" if name is None else f"{name}: ", finding.line())


def recorded(findings: Iterable[Finding]) -> list[FindingRecord]:
    """The findings as ``run.json`` has them."""
    return [FindingRecord(**finding.as_json()) for finding in findings]
