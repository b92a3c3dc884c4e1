"""Measures that scikit-learn does not have."""

from fewshot_sklearn.metrics._calibration import expected_calibration_error
from fewshot_sklearn.metrics._presentations import presentation_accuracy_score

__all__ = ["expected_calibration_error", "presentation_accuracy_score"]
