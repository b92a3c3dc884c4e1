"""Displays: how an estimator was meta-trained, how it adapts, and what a task looks like."""

from ._adaptation_curve import AdaptationCurveDisplay
from ._episode import EpisodeDisplay
from ._memory import MemoryDisplay
from ._meta_learning_curve import MetaLearningCurveDisplay
from ._presentation import PresentationDisplay
from ._shot_curve import ShotCurveDisplay

__all__ = [
    "AdaptationCurveDisplay",
    "EpisodeDisplay",
    "MemoryDisplay",
    "MetaLearningCurveDisplay",
    "PresentationDisplay",
    "ShotCurveDisplay",
]
