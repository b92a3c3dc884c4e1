"""Methods without episodes: a network trained on all tasks at once, a simple model on top."""

from ._cosine_baseline import CosineBaselineClassifier
from ._fine_tune import FineTuneClassifier, FineTuneRegressor
from ._frequent_hitters import FrequentHittersClassifier
from ._from_scratch import FromScratchClassifier, FromScratchRegressor
from ._linear_probe import LinearProbeClassifier, LinearProbeRegressor
from ._quadratic_probe import QuadraticProbeClassifier

__all__ = [
    "CosineBaselineClassifier",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "FrequentHittersClassifier",
    "FromScratchClassifier",
    "FromScratchRegressor",
    "LinearProbeClassifier",
    "LinearProbeRegressor",
    "QuadraticProbeClassifier",
]
