"""Measures that scikit-learn does not have."""

from fewshot_sklearn.metrics._calibration import expected_calibration_error
from fewshot_sklearn.metrics._presentations import presentation_accuracy_score
from fewshot_sklearn.metrics._sequences import (
    bits_per_sequence,
    neg_bits_per_sequence,
    wrong_bits_per_sequence,
)

__all__ = [
    "bits_per_sequence",
    "expected_calibration_error",
    "neg_bits_per_sequence",
    "presentation_accuracy_score",
    "wrong_bits_per_sequence",
]
