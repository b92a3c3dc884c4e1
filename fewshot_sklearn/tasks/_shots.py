"""The same tasks with fewer shots: smaller support sets before the same query sets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._derived import DerivedTasks
from fewshot_sklearn.tasks._labels import encode
from fewshot_sklearn.tasks._ranges import check_count
from fewshot_sklearn.tasks._rows import take_rows
from fewshot_sklearn.tasks._stream import StreamTasks, as_task_set
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._validation import describe


def with_shots(tasks: Any, n_shot: int, *, per_class: bool = True) -> TaskSet:
    """Return the same tasks with the support sets cut to their first rows.

    The query sets stay as they are, and the support of fewer shots is part of that of more, so that
    scores by the number of shots are compared on the same rows.

    Parameters
    ----------
    tasks : TaskSet or list of tasks
        With at least ``n_shot`` shots: make them with the most shots that are wanted.
    n_shot : int
        How many support rows of each class are kept. A class that has fewer keeps all.
    per_class : bool, default=True
        False keeps ``n_shot`` rows in all, whatever their labels, as regression needs.

    Returns
    -------
    TaskSet
        With the same names. Asking for a task that has no class with ``n_shot`` rows (or
        no ``n_shot`` rows in all) raises a TaskError.

    Raises
    ------
    TypeError
        If ``tasks`` is an iterator.
    ValueError
        If ``n_shot`` is no number of at least 1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn.tasks import EpisodicTasks, with_shots
    >>> X, y = load_digits(return_X_y=True)
    >>> ten_shots = EpisodicTasks(X, y, n_way=3, n_shot=10, random_state=0)
    >>> two_shots = with_shots(ten_shots, 2)
    >>> two_shots[0]
    Task(X_support=(6, 64), y_support=(6,), X_query=(45, 64), y_query=(45,), name=0)
    >>> bool((two_shots[0].X_query == ten_shots[0].X_query).all())
    True
    """
    tasks = as_task_set(tasks)
    if isinstance(tasks, StreamTasks):
        raise TypeError("with_shots needs a sequence of tasks, got an iterator; list it.")
    n_shot = check_count(n_shot, "n_shot", least=1)
    return _FewerShots(tasks, _n_shot=n_shot, _per_class=per_class)


class _FewerShots(DerivedTasks):
    """Tasks of another set with the first support rows only."""

    _n_shot: int
    _per_class: bool

    def _change(self, task: Task, task_id: int) -> Task:
        y = np.asarray(task.y_support)
        ranks = _ranks_in_class(y) if self._per_class else np.arange(len(y))
        if ranks.max() + 1 < self._n_shot:
            what = "a class with at least" if self._per_class else "at least"
            raise TaskError(
                f"{describe(task_id, task.name)}: the support set must have {what} {self._n_shot} "
                f"rows to be cut to that number, got {ranks.max() + 1}; ask for fewer shots or "
                "make the tasks with larger support sets."
            )
        rows = np.flatnonzero(ranks < self._n_shot)
        X_support, y_support = take_rows(task.X_support, rows), y[rows]
        return Task(X_support, y_support, task.X_query, task.y_query, name=task.name)

    def __repr__(self) -> str:
        """Show the number of tasks and of shots."""
        unit = "shots" if self._per_class else "support rows"
        return f"with_shots({len(self)} tasks, {self._n_shot} {unit})"


def _ranks_in_class(y: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many rows before each one have its label."""
    codes = encode(y, what="y_support").codes
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    ranks = np.empty_like(codes)
    ranks[order] = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks
