"""Scores over tasks, searches over tasks, and estimators compared on the same tasks."""

from ._class_folds import ClassFoldSplit
from ._compare import ComparisonTable, compare
from ._evaluate import evaluate
from ._plots import ComparisonDisplay, TaskScoresDisplay
from ._results import EvaluationResult, MultimetricEvaluationResult
from ._task_learner import TaskLearner

__all__ = [
    "ClassFoldSplit",
    "ComparisonDisplay",
    "ComparisonTable",
    "EvaluationResult",
    "MultimetricEvaluationResult",
    "TaskLearner",
    "TaskScoresDisplay",
    "compare",
    "evaluate",
]
