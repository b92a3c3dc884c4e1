"""Score any estimator on many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy.stats import t as student_t
from sklearn.base import ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed

from ..exceptions import TaskError
from ..tasks import Task, TaskSet, as_task_set
from ..tasks._validation import describe

Scorer = Callable[[Any, Any, Any], float]
Row = tuple[Any, int, int, float]
_CHUNKS_PER_JOB = 4
# The score methods that do nothing but compare what predict returns.
_COMMON_SCORES = (ClassifierMixin.score, RegressorMixin.score)


@dataclass(frozen=True, repr=False, eq=False)
class EvaluationResult:
    """The scores of one estimator on many tasks.

    Parameters
    ----------
    frame : DataFrame
        A row a task, indexed by its name, with the columns ``n_support``, ``n_query``, ``score``.

    Examples
    --------
    >>> import pandas as pd
    >>> from fewshot_sklearn.model_selection import EvaluationResult
    >>> frame = pd.DataFrame({"n_support": 5, "n_query": 10, "score": [0.5, 0.6, 0.7]})
    >>> EvaluationResult(frame)
    0.600 ± 0.248 (95 % interval over 3 tasks)
    """

    frame: pd.DataFrame

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of every task, shape (n_tasks,)."""
        return self.frame["score"].to_numpy(copy=True)

    @property
    def mean(self) -> float:
        """The mean score over tasks; every task counts alike."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % t interval of the mean; NaN for a single task."""
        return half_width(self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % t interval of the mean."""
        return self.mean - self.ci95, self.mean + self.ci95

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.frame)

    def __repr__(self) -> str:
        """Show the mean and its interval."""
        return f"{self.mean:.3f} ± {self.ci95:.3f} (95 % interval over {len(self)} tasks)"


def half_width(scores: NDArray[np.float64]) -> float:
    """Return half the width of the 95 % t interval of the mean of scores [T]; NaN for T = 1."""
    n_tasks = len(scores)
    if n_tasks < 2:
        return np.nan
    return float(student_t.ppf(0.975, n_tasks - 1) * scores.std(ddof=1) / np.sqrt(n_tasks))


def evaluate(
    estimator: Any, tasks: Any, *, scoring: Any = None, n_jobs: int | None = None
) -> EvaluationResult:
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
    scoring : str or callable, default=None
        The name of a scorer, or ``scoring(estimator, X, y)``, the higher the better. None takes
        the estimator's ``score`` method: accuracy, or R2 of a regressor.
    n_jobs : int, default=None
        Tasks scored at the same time, as joblib counts. Estimators that take many tasks at once
        do so in this process.

    Returns
    -------
    result : EvaluationResult
        With ``scores``, ``mean``, ``ci95``, ``interval`` and ``frame``. A score that is not
        defined, such as the AUROC of one class, is NaN, and so is the mean over it.

    Raises
    ------
    TaskError
        When the estimator or the scorer fails on a task; the message names it.
    TypeError
        When ``estimator`` or ``tasks`` are no such things.
    ValueError
        When ``scoring`` is unknown.

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
    """
    tasks = _check_tasks(tasks)
    scorer = _check_scorer(estimator, scoring)
    rows = _score_together(estimator, tasks, scorer)
    if rows is None:
        rows = _score_separately(estimator, tasks, scorer, n_jobs)
    names, *columns = zip(*rows, strict=True)
    index = pd.Index(_as_objects(names), tupleize_cols=False, name="task").infer_objects()
    frame = dict(zip(("n_support", "n_query", "score"), columns, strict=True))
    return EvaluationResult(pd.DataFrame(frame, index=index))


def _check_tasks(tasks: Any) -> TaskSet:
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
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            "scoring must be None, the name of one scorer or a callable (estimator, X, y), got "
            f"{scoring!r}."
        )
    scorer: Scorer = check_scoring(estimator, scoring)
    return scorer


def _as_objects(items: Sequence[Any]) -> NDArray[Any]:
    """Return items, which may be tuples, as a one-dimensional array."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


# ---------------------------------------------------------------------- one task


def _score(adapt: Callable[[int, Task], Any], scorer: Scorer, i: int, task: Task) -> Row:
    """Return the name, the numbers of rows and the score of a task.

    ``adapt(i, task)`` returns what the scorer takes for an estimator fitted to the task.
    """
    try:
        score = float(scorer(adapt(i, task), task.X_query, task.y_query))
    except Exception as error:
        raise TaskError(f"{describe(i, task.name)}: {error}") from error
    name = i if task.name is None else task.name
    return name, task.X_support.shape[0], task.X_query.shape[0], score


def _score_separately(
    estimator: Any, tasks: TaskSet, scorer: Scorer, n_jobs: int | None
) -> list[Row]:
    """Clone, fit and score the estimator for each task."""
    n_chunks = min(len(tasks), _CHUNKS_PER_JOB * effective_n_jobs(n_jobs))
    chunks = np.array_split(np.arange(len(tasks)), n_chunks)
    parts = Parallel(n_jobs=n_jobs)(
        delayed(_score_chunk)(estimator, tasks[chunk], scorer, int(chunk[0])) for chunk in chunks
    )
    return [row for part in parts for row in part]


def _score_chunk(estimator: Any, tasks: TaskSet, scorer: Scorer, first: int) -> list[Row]:
    def fit_clone(i: int, task: Task) -> Any:
        return clone(estimator).fit(task.X_support, task.y_support)

    return [_score(fit_clone, scorer, i, task) for i, task in enumerate(tasks, start=first)]


# ---------------------------------------------------------------------- many tasks at once


def _score_together(estimator: Any, tasks: TaskSet, scorer: Scorer) -> list[Row] | None:
    """Score an estimator that predicts many tasks at once; None for any other."""
    if not hasattr(estimator, "predict_tasks"):
        return None
    batched = _BatchedPredictions(estimator, tasks)
    try:
        return [_score(batched.adapted_to, scorer, i, task) for i, task in enumerate(tasks)]
    except TaskError:
        if batched.failure is None:
            raise
    if isinstance(batched.failure, NotFittedError):
        return None
    raise batched.failure


class _BatchedPredictions:
    """The query predictions of every task by a meta-fitted estimator, made when first asked for.

    Attributes
    ----------
    failure : Exception or None
        Why they could not be made.
    """

    failure: Exception | None = None

    def __init__(self, estimator: Any, tasks: TaskSet) -> None:
        self.estimator = estimator
        self._tasks = tasks
        self._known: dict[str, list[NDArray[Any]]] = {}

    def of(self, method: str, i: int) -> NDArray[Any]:
        """Return what ``method`` predicts for the query set of task i."""
        if method not in self._known:
            try:
                self._known[method] = self.estimator.predict_tasks(self._tasks, method=method)
            except Exception as error:
                self.failure = error
                raise
        return self._known[method][i]

    def adapted_to(self, i: int, task: Task) -> _AdaptedToTask:
        """Return what stands for the estimator after it was fitted to task i."""
        return _AdaptedToTask(self, i, task)


def _estimator_has(method: str) -> Callable[[Any], bool]:
    return lambda adapted: hasattr(adapted._estimator, method)


class _AdaptedToTask:
    """A clone of a meta-fitted estimator, fitted to one task, as a scorer sees it.

    It knows its predictions for the task's query set. Anything else is asked of a real clone,
    which is fitted only then.
    """

    def __init__(self, batched: _BatchedPredictions, i: int, task: Task) -> None:
        self._batched, self._i, self._task = batched, i, task
        self._estimator = batched.estimator

    @cached_property
    def _fitted(self) -> Any:
        return clone(self._estimator).fit(self._task.X_support, self._task.y_support)

    def _answer(self, method: str, X: Any) -> NDArray[Any]:
        if X is self._task.X_query:
            return self._batched.of(method, self._i)
        return getattr(self._fitted, method)(X)

    def predict(self, X: Any) -> NDArray[Any]:
        return self._answer("predict", X)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> NDArray[Any]:
        return self._answer("predict_proba", X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> NDArray[Any]:
        return self._answer("decision_function", X)

    def score(self, X: Any, y: Any) -> float:
        own = type(self._estimator).score
        if own in _COMMON_SCORES:
            return own(self, X, y)
        return self._fitted.score(X, y)

    @property
    def classes_(self) -> NDArray[Any]:
        if not is_classifier(self._estimator):
            raise AttributeError("a regressor has no classes_.")
        return np.unique(np.asarray(self._task.y_support))

    def __sklearn_tags__(self) -> Any:
        return self._estimator.__sklearn_tags__()

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._fitted, name)
