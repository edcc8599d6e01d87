"""What to take from a run: one number of its records, to be averaged over seeds."""

from collections.abc import Callable

from lpft.report.summary import RunSummary

Value = Callable[[RunSummary], float | None]


def score(split: str, metric: str, calibrated: bool = False) -> Value:
    """A metric of a split, with temperature where ``calibrated``."""
    return lambda run: run.score(split, metric, calibrated=calibrated)


def feature(split: str, statistic: str, pretrained: bool = False) -> Value:
    """A statistic of a split's features, of the pre-trained ones where asked for."""
    return lambda run: run.feature(split, statistic, pretrained=pretrained)


def head(statistic: str) -> Value:
    """A norm of the head."""
    return lambda run: run.head_norm(statistic)


METRIC_NAMES = {
    "macro_f1": "macro F1",
    "matthews_correlation": "Matthews correlation",
    "answer_f1": "answer F1",
    "token_f1": "token F1",
}


def metric_name(metric: str) -> str:
    """A metric of ``metrics.json`` in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))
