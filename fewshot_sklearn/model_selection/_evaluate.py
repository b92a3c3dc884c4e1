"""Score any estimator on many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import check_scoring

from ..tasks import TaskSet, as_task_set
from ..tasks._random import resolve_random_state
from ._fast_scores import SCORE, fast_scores
from ._intervals import check_interval
from ._results import SIZES, EvaluationResult, MultimetricEvaluationResult
from ._scoring import Row, Scorer, score_separately, score_together


def evaluate(
    estimator: Any,
    tasks: Any,
    *,
    scoring: Any = None,
    n_jobs: int | None = None,
    interval: str = "t",
    random_state: Any = None,
) -> EvaluationResult | MultimetricEvaluationResult:
    """Score an estimator on tasks: adapt to each support set, score its query set.

    Parameters
    ----------
    estimator : scikit-learn estimator
        It is cloned, fitted to the support set and scored on the query set of every task. A
        meta-fitted few-shot estimator does the same to many tasks at once, to rounding, and
        stays as it is. One that is not meta-fitted learns every task from its support set alone.
    tasks : TaskSet or list of tasks
        Each a :class:`~fewshot_sklearn.Task` or a tuple
        ``(X_support, y_support, X_query, y_query)``.
    scoring : str, callable, list, tuple or dict, default=None
        The name of a scorer, or ``scoring(estimator, X, y)``, the higher the better. None takes
        the estimator's ``score`` method: accuracy, or R2 of a regressor. As in
        :func:`sklearn.model_selection.cross_validate`, a list of names, a dict of names and
        scorers, or a callable that returns a dict of names and scores stand for several scorers.
    n_jobs : int, default=None
        Tasks scored at the same time, as joblib counts. Estimators that take many tasks at once
        do so in this process.
    interval : {"t", "bootstrap"}, default="t"
        How the 95 % interval of the mean is found: from Student's t distribution, or as
        percentiles of 9,999 resamples of the tasks, which suits few tasks with skewed scores.
    random_state : int, RandomState, Generator or None, default=None
        What the resamples are a function of. The estimator's own is its parameter.

    Returns
    -------
    result : EvaluationResult or MultimetricEvaluationResult
        With ``scores``, ``mean``, ``ci95``, ``interval``, ``frame`` and ``plot``; the second, of
        several scorers, has them for each, and ``result[name]`` is the first kind of result. A
        score that is not defined, such as the AUROC of one class, is NaN, and so is the mean
        over it.

    Raises
    ------
    TaskError
        When the estimator or a scorer fails on a task; the message names it.
    TypeError
        When ``estimator`` or ``tasks`` are no such things.
    ValueError
        When ``scoring`` or ``interval`` is unknown.

    See Also
    --------
    compare : Several estimators on the same tasks.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from fewshot_sklearn import EpisodicTasks, evaluate
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_way=5, n_shot=1, n_tasks=100, random_state=0)
    >>> evaluate(KNeighborsClassifier(1), tasks)
    0.7... ± 0.0... (95 % interval over 100 tasks)
    >>> result = evaluate(KNeighborsClassifier(1), tasks, scoring=["accuracy", "f1_macro"])
    >>> result["f1_macro"]
    0.7... ± 0.0... (95 % interval over 100 tasks)
    """
    check_interval(interval)
    seed = resolve_random_state(random_state)[0]
    tasks = _check_tasks(tasks)
    scorer = _check_scorer(estimator, scoring)
    rows = score_together(estimator, tasks, scorer, fast_scores(estimator, scoring))
    if rows is None:
        rows = score_separately(estimator, tasks, scorer, n_jobs)
    frame = _make_frame(rows)
    several = isinstance(scoring, list | tuple | dict) or SCORE not in frame.columns
    kind = MultimetricEvaluationResult if several else EvaluationResult
    return kind(frame, interval, seed)


def _check_tasks(tasks: Any) -> TaskSet:
    """Return a task set with at least one task."""
    tasks = as_task_set(tasks)
    if not isinstance(tasks, TaskSet):
        raise TypeError(
            "tasks must be a TaskSet or a list, because they are counted and may be read more "
            "than once; got an iterator. Pass list(tasks)."
        )
    if not len(tasks):
        raise ValueError("at least one task is needed, got an empty task set.")
    return tasks


def _check_scorer(estimator: Any, scoring: Any) -> Scorer:
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise TypeError(
            f"estimator must be an instance of a scikit-learn estimator, got {estimator!r}."
        )
    several = isinstance(scoring, list | tuple | dict)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring) or several):
        raise ValueError(
            "scoring must be None, the name of a scorer, a callable (estimator, X, y), a list of "
            f"names or a dict of names and scorers, got {scoring!r}."
        )
    scorer: Scorer = check_scoring(estimator, scoring)
    return scorer


def _make_frame(rows: list[Row]) -> pd.DataFrame:
    index = pd.Index(_as_objects([row.name for row in rows]), tupleize_cols=False, name="task")
    taken = set(SIZES).intersection(rows[0].scores)
    if taken:
        raise ValueError(f"{taken.pop()!r} is a column of the result; name the scorer otherwise.")
    sizes = [dict(zip(SIZES, (row.n_support, row.n_query), strict=True)) for row in rows]
    columns = [size | row.scores for size, row in zip(sizes, rows, strict=True)]
    return pd.DataFrame(columns, index=index.infer_objects())


def _as_objects(items: Sequence[Any]) -> NDArray[Any]:
    """Return items, which may be tuples, as a one-dimensional array."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
