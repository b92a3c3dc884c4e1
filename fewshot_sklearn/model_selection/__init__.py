"""Scores over tasks, and estimators compared on the same tasks."""

from ._compare import compare
from ._evaluate import EvaluationResult, evaluate

__all__ = ["EvaluationResult", "compare", "evaluate"]
