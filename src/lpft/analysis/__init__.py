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
    wilson,
    without_samples,
)
from lpft.analysis.errors import ConfusedPair, Errors, confused_pairs, find_errors
from lpft.analysis.features import (
    cosine_similarity,
    feature_difference,
    feature_differences,
    feature_statistics,
    fisher_ratio,
)
from lpft.analysis.metrics import grouped_metrics, split_metrics
from lpft.analysis.trust import (
    Abstention,
    RiskCoverage,
    area_under_risk_coverage,
    choose_threshold,
    confidence,
    risk_coverage,
    shift_metrics,
)

__all__ = [
    "Abstention",
    "ConfusedPair",
    "Effect",
    "Errors",
    "ReliabilityBins",
    "Resampled",
    "RiskCoverage",
    "TemperatureFit",
    "area_under_risk_coverage",
    "calibration_error_of_draws",
    "choose_threshold",
    "confidence",
    "confused_pairs",
    "cosine_similarity",
    "effect_over_seeds",
    "expected_calibration_error",
    "feature_difference",
    "feature_differences",
    "feature_statistics",
    "find_errors",
    "fisher_ratio",
    "fit_temperature",
    "grouped_metrics",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "reliability_bins",
    "resample",
    "risk_coverage",
    "shift_metrics",
    "smallest_detectable_difference",
    "split_metrics",
    "wilson",
    "without_samples",
]
