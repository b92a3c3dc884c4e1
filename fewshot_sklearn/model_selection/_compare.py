"""Compare estimators on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from ..exceptions import TaskError
from ._evaluate import _check_tasks, evaluate, half_width

_COLUMNS = ["mean", "ci95", "difference", "difference_ci95", "p_value"]


def compare(
    estimators: Mapping[str, Any], tasks: Any, *, scoring: Any = None, n_jobs: int | None = None
) -> pd.DataFrame:
    """Score estimators on the same tasks and compare each with the first.

    Parameters
    ----------
    estimators : dict of str to estimator
        Each as in :func:`evaluate`. The first is what the others are compared with.
    tasks : TaskSet or list of tasks
        As in :func:`evaluate`.
    scoring : str or callable, default=None
        As in :func:`evaluate`.
    n_jobs : int, default=None
        As in :func:`evaluate`.

    Returns
    -------
    table : DataFrame
        A row an estimator, in the order given and indexed by its name, with the columns

        - ``mean``, ``ci95``: the mean score and half the width of its 95 % t interval;
        - ``difference``, ``difference_ci95``: the same for the difference to the first estimator's
          score, task by task;
        - ``p_value``: of Wilcoxon's signed-rank test of these differences, two-sided; 1 when there
          are none, NaN for the first estimator.

    Raises
    ------
    TaskError
        When an estimator or the scorer fails on a task; the message names both.
    TypeError
        When ``estimators`` is no dict, or one of them no estimator.
    ValueError
        When ``estimators`` is empty or ``scoring`` is unknown.

    See Also
    --------
    evaluate : One estimator, with the score of every task.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from fewshot_sklearn import EpisodicTasks, compare
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_way=5, n_shot=2, n_tasks=50, random_state=0)
    >>> table = compare({"1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}, tasks)
    >>> bool(table.loc["Bayes", "difference"] < 0)
    True
    """
    if not isinstance(estimators, Mapping):
        raise TypeError(
            "estimators must be a dict of names and estimators, such as "
            f"{{'ProtoNet': clf}}, got {type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators must hold at least one estimator, got an empty dict.")
    tasks = _check_tasks(tasks)
    scores = {}
    for name, estimator in estimators.items():
        try:
            scores[name] = evaluate(estimator, tasks, scoring=scoring, n_jobs=n_jobs).scores
        except (TypeError, ValueError) as error:
            kind = next(k for k in (TaskError, ValueError, TypeError) if isinstance(error, k))
            raise kind(f"{name}: {error}") from error
    first = next(iter(scores.values()))
    rows = [_row(own, None if own is first else first) for own in scores.values()]
    return pd.DataFrame(rows, columns=_COLUMNS, index=pd.Index(list(scores), name="estimator"))


def _row(scores: NDArray[np.float64], first: NDArray[np.float64] | None) -> list[float]:
    own = [float(scores.mean()), half_width(scores)]
    if first is None:
        return [*own, 0.0, 0.0, np.nan]
    differences = scores - first
    p_value = _p_value(differences, scale=np.abs([scores, first]).max())
    return [*own, float(differences.mean()), half_width(differences), p_value]


def _p_value(differences: NDArray[np.float64], scale: float) -> float:
    """Return the p-value of Wilcoxon's signed-rank test.

    0.8 - 0.6 and 0.6 - 0.4 differ in their last bits, which must not decide their ranks:
    differences are rounded to 11 digits of the largest score, ``scale``.
    """
    ranked = (differences / (scale or 1.0)).round(11)
    return float(wilcoxon(ranked).pvalue) if ranked.any() else 1.0
