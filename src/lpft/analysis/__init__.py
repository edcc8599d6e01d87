"""Statistics of logits and features: metrics, calibration, geometry. NumPy only, float64."""

from lpft.analysis.calibration import (
    ReliabilityBins,
    TemperatureFit,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from lpft.analysis.features import (
    cosine_similarity,
    feature_difference,
    feature_statistics,
    fisher_ratio,
)
from lpft.analysis.metrics import split_metrics

__all__ = [
    "ReliabilityBins",
    "TemperatureFit",
    "cosine_similarity",
    "expected_calibration_error",
    "feature_difference",
    "feature_statistics",
    "fisher_ratio",
    "fit_temperature",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "reliability_bins",
    "split_metrics",
]
