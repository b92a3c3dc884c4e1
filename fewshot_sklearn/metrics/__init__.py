"""Measures that scikit-learn does not have."""

from fewshot_sklearn.metrics._calibration import expected_calibration_error

__all__ = ["expected_calibration_error"]
