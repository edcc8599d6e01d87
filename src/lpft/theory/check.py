"""One number that the paper promises, beside the measured one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TheoryCheck:
    """One number that the paper promises beside the measured one.

    ``holds`` is None where the promise is vacuous: nothing could break it.
    """

    claim: str
    setting: str
    measured: float
    promised: float
    holds: bool | None
    note: str
