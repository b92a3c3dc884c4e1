"""The same tasks with other features: rows pooled to learn a transformation, and transformed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._derived import DerivedTasks
from fewshot_sklearn.tasks._episodic import EpisodicTasks
from fewshot_sklearn.tasks._indexed import IndexedTaskSet
from fewshot_sklearn.tasks._labels import as_labels, is_real_valued
from fewshot_sklearn.tasks._list import TaskList
from fewshot_sklearn.tasks._rows import (
    is_memory_mapped,
    join_rows,
    map_in_chunks,
    n_rows,
    take_rows,
)
from fewshot_sklearn.tasks._stream import StreamTasks, as_task_set
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._validation import check_same_width, describe

RowFunction = Callable[[Any], Any]

# How much is pooled of tasks whose rows are not all there: rows of a memory map, tasks that are
# made as they are asked for, tasks of an iterator.
_MOST_ROWS = 100_000
_MOST_TASKS = 1000
_N_HEAD = 100

_SEVERAL_LABELS = "a row has several labels"
_NO_COMMON_LABELS = "a label may mean something else in each task (shared_classes=False)"


@dataclass(frozen=True)
class RowPool:
    """The rows that tasks draw from, in one array.

    Attributes
    ----------
    X : array, DataFrame or sparse matrix of shape (n_rows, ...)
        The rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs), or None
        Their labels, where each row has one that means the same in every task.
    without_y : str
        Why there are none.
    rebuild : callable or None
        Makes the same tasks of new features, a row for each row of X. None where X does not hold
        all rows of the tasks.
    """

    X: Any
    y: NDArray[Any] | None
    without_y: str
    rebuild: Callable[[Any], TaskSet] | None


def pool_rows(tasks: Any) -> RowPool:
    """Pool the rows that some tasks draw from, each once where that can be known.

    Parameters
    ----------
    tasks : TaskSet, list or iterable of tasks
        Of a task set over one data set all rows are pooled that these tasks may draw at any visit,
        and no other; of a memory map 100,000 of them at most, evenly spread. Of a list all
        support and query rows, of another task set those of the first visit of up to 1,000
        tasks, of an iterator those of the first 100 tasks.

    Returns
    -------
    RowPool

    Raises
    ------
    TaskError
        If rows of several tasks have not the same features.
    """
    tasks = as_task_set(tasks)
    if isinstance(tasks, IndexedTaskSet):
        return _pool_data_set(tasks)
    if isinstance(tasks, StreamTasks):
        sample = tasks.head(_N_HEAD) or tasks.next_tasks(_N_HEAD)
        return _pool_tasks(sample, range(len(sample)), shared=tasks.shared_classes)
    if not isinstance(tasks, TaskList):
        tasks = tasks[_spread(len(tasks), _MOST_TASKS)]
    pool = _pool_tasks(list(tasks), tasks.task_ids.tolist(), shared=tasks.shared_classes)
    if not isinstance(tasks, TaskList):
        return pool
    return RowPool(pool.X, pool.y, pool.without_y, lambda X: _put_rows(tasks, pool, X))


def map_rows(tasks: Any, function: RowFunction, *, first_visit: bool = False) -> Any:
    """Return the same tasks with a function applied to their rows.

    Parameters
    ----------
    tasks : TaskSet, list or iterable of tasks
    function : callable
        Takes rows of the tasks' kind and returns as many, such as the ``transform`` method of a
        fitted transformer. What it returns for a row must not depend on the others.
    first_visit : bool, default=False
        True promises that each task is asked for at its first visit only, as evaluation does,
        so that no other rows are computed.

    Returns
    -------
    TaskSet or StreamTasks
        With the same labels and names, and the same draws at every visit.

        Of tasks over one data set, the rows that they may draw are computed at once, and sparse
        results stay sparse; those of a memory map chunk by chunk into a temporary one. The tasks
        of a list are computed at once, others when they are asked for.

    Raises
    ------
    ValueError
        If the function returns another number of rows.
    TaskError
        If rows of several tasks have not the same features, or the function fails on a task; the
        message names it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from fewshot_sklearn.tasks import EpisodicTasks, map_rows
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_tasks=10, random_state=0)
    >>> pca = PCA(n_components=8).fit(X)
    >>> map_rows(tasks, pca.transform)[0]
    Task(X_support=(5, 8), y_support=(5,), X_query=(75, 8), y_query=(75,), name=0)
    """
    tasks = as_task_set(tasks)
    if isinstance(tasks, IndexedTaskSet):
        return _map_data_set(tasks, function, first_visit=first_visit)
    if isinstance(tasks, StreamTasks):
        mapped = (_map_task(task, i, function) for i, task in enumerate(tasks))
        return StreamTasks(mapped, shared_classes=tasks.shared_classes)
    if isinstance(tasks, TaskList):
        pool = _pool_tasks(list(tasks), tasks.task_ids.tolist(), shared=tasks.shared_classes)
        with _naming_the_task(tasks, function):
            X = function(pool.X)
        return _put_rows(tasks, pool, X)
    return _MappedTasks(tasks, _function=function)


# ---------------------------------------------------------------------- one data set


def _pool_data_set(tasks: IndexedTaskSet) -> RowPool:
    measurements = np.sort(tasks.drawable())
    without_y = "" if _labels_are_common(tasks, tasks.y) else _NO_COMMON_LABELS
    rows, y = measurements, tasks.y[measurements]
    if tasks.row_of is not None:
        rows, first = np.unique(tasks.row_of[measurements], return_index=True)
        if len(rows) < len(measurements):
            without_y = _SEVERAL_LABELS
        y = y[first]
    whole = not is_memory_mapped(tasks.X)
    if not whole:
        sample = _spread(len(rows), _MOST_ROWS)
        rows, y = rows[sample], y[sample]
    X = _take_distinct_rows(tasks.X, rows)
    rebuild = (lambda new: tasks.with_rows(new, rows)) if whole else None
    return RowPool(X, None if without_y else y, without_y, rebuild)


def _map_data_set(
    tasks: IndexedTaskSet, function: RowFunction, *, first_visit: bool
) -> IndexedTaskSet:
    measurements = tasks.drawable()
    if first_visit:
        measurements = np.concatenate([part for i in range(len(tasks)) for part in tasks.draw(i)])
    rows = np.unique(measurements if tasks.row_of is None else tasks.row_of[measurements])
    with _naming_the_task(tasks, function):
        if is_memory_mapped(tasks.X):
            X = map_in_chunks(function, tasks.X, rows)
        else:
            X = function(_take_distinct_rows(tasks.X, rows))
    return tasks.with_rows(X, rows)


def _take_distinct_rows(X: Any, rows: NDArray[np.int64]) -> Any:
    """Return rows in ascending order; X itself, not a copy, where these are all."""
    return X if len(rows) == n_rows(X) else take_rows(X, rows)


def _labels_are_common(tasks: TaskSet | None, y: NDArray[Any], *, shared: bool = False) -> bool:
    """Return whether labels may be pooled: targets, classes of one data set, shared classes."""
    if isinstance(tasks, TaskSet):
        shared = tasks.shared_classes or isinstance(tasks, EpisodicTasks)
    return shared or is_real_valued(y)


def _spread(n_all: int, most: int) -> NDArray[np.int64]:
    """Return up to ``most`` positions, evenly spread."""
    return np.linspace(0, n_all - 1, min(n_all, most)).astype(np.int64)


# ---------------------------------------------------------------------- tasks one by one


def _distinct_parts(tasks: Sequence[Task]) -> dict[int, tuple[Any, Any]]:
    """Return each array of rows once, by its identity, with its labels; None for several."""
    parts: dict[int, tuple[Any, Any]] = {}
    for task in tasks:
        for X, y in ((task.X_support, task.y_support), (task.X_query, task.y_query)):
            known = parts.setdefault(id(X), (X, y))
            if known[1] is not y:
                parts[id(X)] = (X, None)
    return parts


def _pool_tasks(tasks: Sequence[Task], numbers: Sequence[int], *, shared: bool) -> RowPool:
    """Pool the rows of tasks that are there; errors call the tasks by these numbers."""
    for task, number in zip(tasks, numbers, strict=True):
        check_same_width(task, tasks[0].X_support.shape[1:], number)
        _check_same_columns(task, tasks[0], number)
    parts = list(_distinct_parts(tasks).values())
    try:
        X = join_rows([rows for rows, _ in parts])
    except TypeError as error:
        raise TaskError(f"tasks cannot be pooled: {error}") from error
    labels = [y for _, y in parts]
    y, without_y = None, _SEVERAL_LABELS
    if all(part is not None and len(part.shape) == len(labels[0].shape) for part in labels):
        y = np.concatenate([as_labels(part) for part in labels])
        without_y = "" if _labels_are_common(None, y, shared=shared) else _NO_COMMON_LABELS
    return RowPool(X, None if without_y else y, without_y, None)


def _check_same_columns(task: Task, first: Task, number: int) -> None:
    """Check that frames have the columns of the first, which joining would otherwise add up."""
    names = [
        list(getattr(X, "columns", ())) for X in (first.X_support, task.X_support, task.X_query)
    ]
    if names[1:] != [names[0]] * 2:
        raise TaskError(
            f"{describe(number, task.name)}: X_support and X_query must have the columns of the "
            f"first task, {names[0]}, got {names[1]} and {names[2]}."
        )


def _put_rows(tasks: TaskList, pool: RowPool, X: Any) -> TaskList:
    """Return the same list with new rows for those that were pooled."""
    if n_rows(X) != n_rows(pool.X):
        raise ValueError(
            f"what is applied to rows must return as many; got {n_rows(X)} for {n_rows(pool.X)}."
        )
    chosen = list(tasks)
    new = dict(zip(tasks.task_ids.tolist(), _with_rows(chosen, X), strict=True))
    same = copy(tasks)
    same._store(_tasks=tuple(new.get(i, task) for i, task in enumerate(tasks._tasks)))
    return same


def _with_rows(tasks: Sequence[Task], X: Any) -> list[Task]:
    """Return tasks with new rows, which come in the order of their distinct parts."""
    places, start = {}, 0
    for key, (rows, _) in _distinct_parts(tasks).items():
        stop = start + n_rows(rows)
        places[key] = take_rows(X, np.arange(start, stop))
        start = stop
    return [
        Task(places[id(t.X_support)], t.y_support, places[id(t.X_query)], t.y_query, name=t.name)
        for t in tasks
    ]


def _map_task(task: Task, number: int, function: RowFunction) -> Task:
    """Return one task with a function applied to its rows."""
    X = _pool_tasks([task], [number], shared=False).X
    try:
        return _with_rows([task], function(X))[0]
    except Exception as error:
        raise TaskError(f"{describe(number, task.name)}: {error}") from error


@contextmanager
def _naming_the_task(tasks: TaskSet, function: RowFunction) -> Iterator[None]:
    """Where a function fails on the rows of all tasks, say which task it fails on by itself."""
    try:
        yield
    except Exception:
        for number, task in zip(tasks.task_ids.tolist(), tasks, strict=True):
            _map_task(task, number, function)
        raise


class _MappedTasks(DerivedTasks):
    """Tasks of another set, with a function applied to their rows when they are asked for."""

    _function: RowFunction

    def _change(self, task: Task, task_id: int) -> Task:
        return _map_task(task, task_id, self._function)
