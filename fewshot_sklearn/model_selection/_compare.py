"""Compare estimators on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..exceptions import TaskError
from ..tasks import TaskSet
from ..tasks._random import resolve_random_state
from ._evaluate import _check_tasks, evaluate
from ._fast_scores import SCORE
from ._intervals import holm, mean_interval, rounded, wilcoxon_p
from ._plots import ComparisonDisplay
from ._results import EvaluationResult

_COLUMNS = ["mean", "ci95", "difference", "difference_ci95", "p_value"]


class ComparisonTable(pd.DataFrame):
    """What :func:`compare` returns: a DataFrame that also has the scores of every task.

    What pandas makes of it, such as a selection or a sorted copy, is a plain DataFrame; the module
    ``copy`` and pickle keep all of it.

    Parameters
    ----------
    *args, **kwargs
        As of a DataFrame.

    Attributes
    ----------
    task_scores : DataFrame of shape (n_tasks, n_estimators)
        The score of every estimator on every task; several scorers have columns
        ``(scorer, estimator)``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from fewshot_sklearn import EpisodicTasks, compare
    >>> tasks = EpisodicTasks(*load_digits(return_X_y=True), n_tasks=20, random_state=0)
    >>> table = compare({"1-NN": KNeighborsClassifier(1)}, tasks)
    >>> table.task_scores.shape
    (20, 1)
    """

    _metadata = ["task_scores"]
    task_scores: pd.DataFrame

    def __copy__(self, deep: bool = False) -> ComparisonTable:
        # pandas uses ``copy`` on its way to tables of other rows, so that stays pandas' own.
        table = ComparisonTable(super().copy(deep=deep))
        table.task_scores = self.task_scores.copy(deep=deep)
        return table

    def __deepcopy__(self, memo: Any = None) -> ComparisonTable:
        return self.__copy__(deep=True)

    def plot(self, ax: Any = None, **kwargs: Any) -> ComparisonDisplay:
        """Draw the mean scores and the paired differences to the first estimator.

        Needs the extra ``plot``.

        Parameters
        ----------
        ax : sequence of matplotlib Axes, default=None
            Two for each scorer; None makes a new figure.
        **kwargs
            Passed to ``Axes.errorbar``.

        Returns
        -------
        display : ComparisonDisplay
            Holds the axes and what was drawn.
        """
        tables = {SCORE: self}
        if self.columns.nlevels > 1:
            tables = {scorer: self[scorer] for scorer in self.columns.unique(0)}
        return ComparisonDisplay(tables).plot(ax, **kwargs)


def compare(
    estimators: Mapping[str, Any],
    tasks: Any,
    *,
    scoring: Any = None,
    n_jobs: int | None = None,
    interval: str = "t",
    random_state: Any = None,
) -> ComparisonTable:
    """Score estimators on the same tasks and compare each with the first.

    Parameters
    ----------
    estimators : dict of str to estimator
        Each as in :func:`evaluate`. The first is what the others are compared with.
    tasks : TaskSet or list of tasks
        As in :func:`evaluate`.
    scoring : str, callable, list, tuple or dict, default=None
        As in :func:`evaluate`.
    n_jobs : int, default=None
        As in :func:`evaluate`.
    interval : {"t", "bootstrap"}, default="t"
        As in :func:`evaluate`.
    random_state : int, RandomState, Generator or None, default=None
        As in :func:`evaluate`.

    Returns
    -------
    table : ComparisonTable
        A DataFrame with a row an estimator, in the order given and indexed by its name, the
        attribute ``task_scores`` and a ``plot`` method of its own. Its columns are

        - ``mean``, ``ci95``: the mean score and half the width of its 95 % interval;
        - ``difference``, ``difference_ci95``: the same for the difference to the first estimator's
          score, task by task;
        - ``p_value``: of Wilcoxon's signed-rank test of these differences, two-sided; 1 when there
          are none, NaN for the first estimator;
        - ``p_holm``: the same after Holm's correction for the number of comparisons [1]_;
        - ``rank``: the mean over tasks of the estimator's rank, 1 for the best; equal scores
          share their ranks.

        Several scorers have columns ``(scorer, column)``, each with its own correction, so that
        ``table["roc_auc"]`` is the table of one. A score that is not defined on a task makes what
        depends on it NaN: no task is left out.

    Raises
    ------
    TaskError
        When an estimator or a scorer fails on a task; the message names both.
    TypeError
        When ``estimators`` is no dict, or one of them no estimator.
    ValueError
        When ``estimators`` is empty, or ``scoring`` or ``interval`` is unknown.

    See Also
    --------
    evaluate : One estimator, with the score of every task.

    References
    ----------
    .. [1] Demšar (2006). "Statistical comparisons of classifiers over multiple data sets." JMLR.

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
    >>> table["rank"].idxmin()
    '1-NN'
    """
    if not isinstance(estimators, Mapping):
        raise TypeError(
            "estimators must be a dict of names and estimators, such as "
            f"{{'ProtoNet': clf}}, got {type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators must hold at least one estimator, got an empty dict.")
    tasks = _check_tasks(tasks)
    seed, key = resolve_random_state(random_state)
    # One seed, so that every mean is taken over the same resamples of the tasks.
    seed = int(key[0]) if seed is None else seed
    options = {"scoring": scoring, "n_jobs": n_jobs, "interval": interval, "random_state": seed}
    results = _evaluate_all(estimators, tasks, options)
    first = next(iter(results.values()))
    if isinstance(first, EvaluationResult):
        table, scores = _compare(results), _task_scores(results)
    else:
        parts = {scorer: {name: results[name][scorer] for name in results} for scorer in first}
        table = pd.concat({s: _compare(part) for s, part in parts.items()}, axis=1)
        scores = pd.concat({s: _task_scores(part) for s, part in parts.items()}, axis=1)
    comparison = ComparisonTable(table)
    comparison.task_scores = scores
    return comparison


def _evaluate_all(
    estimators: Mapping[str, Any], tasks: TaskSet, options: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate every estimator; an error names it."""
    results = {}
    for name, estimator in estimators.items():
        try:
            results[name] = evaluate(estimator, tasks, **options)
        except (TypeError, ValueError) as error:
            kind = next(k for k in (TaskError, ValueError, TypeError) if isinstance(error, k))
            raise kind(f"{name}: {error}") from error
    return results


def _task_scores(results: Mapping[str, EvaluationResult]) -> pd.DataFrame:
    """Return the scores [tasks, estimators]."""
    frame = next(iter(results.values())).frame
    names = pd.Index(list(results), tupleize_cols=False, name="estimator")
    scores = np.column_stack([result.scores for result in results.values()])
    return pd.DataFrame(scores, index=frame.index, columns=names)


def _compare(results: Mapping[str, EvaluationResult]) -> pd.DataFrame:
    """Return the table of one scorer."""
    first, *others = results.values()
    rows = [[first.mean, first.ci95, 0.0, 0.0, np.nan], *(_row(own, first) for own in others)]
    names = pd.Index(list(results), tupleize_cols=False, name="estimator")
    table = pd.DataFrame(rows, columns=_COLUMNS, index=names)
    scores = _task_scores(results).to_numpy()
    ranks = rankdata(-rounded(scores, np.abs(scores).max()), axis=1)
    return table.assign(p_holm=holm(table["p_value"].to_numpy()), rank=ranks.mean(axis=0))


def _row(own: EvaluationResult, first: EvaluationResult) -> list[float]:
    differences = own.scores - first.scores
    spread = mean_interval(differences, own.interval_kind, own.random_state).half_width
    p_value = wilcoxon_p(rounded(differences, np.abs([own.scores, first.scores]).max()))
    return [own.mean, own.ci95, float(differences.mean()), spread, p_value]
