"""Statistics of logits and features, and of effects over seeds. NumPy only, float64."""

from lpft.analysis.calibration import (
    ReliabilityBins,
    TemperatureFit,
    calibration_error_of_draws,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from lpft.analysis.comparison import (
    Effect,
    Resampled,
    effect_over_seeds,
    resample,
    smallest_detectable_difference,
    without_samples,
)
from lpft.analysis.features import (
    cosine_similarity,
    feature_difference,
    feature_differences,
    feature_statistics,
    fisher_ratio,
)
from lpft.analysis.metrics import grouped_metrics, split_metrics

__all__ = [
    "Effect",
    "ReliabilityBins",
    "Resampled",
    "TemperatureFit",
    "calibration_error_of_draws",
    "cosine_similarity",
    "effect_over_seeds",
    "expected_calibration_error",
    "feature_difference",
    "feature_differences",
    "feature_statistics",
    "fisher_ratio",
    "fit_temperature",
    "grouped_metrics",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "reliability_bins",
    "resample",
    "smallest_detectable_difference",
    "split_metrics",
    "without_samples",
]
