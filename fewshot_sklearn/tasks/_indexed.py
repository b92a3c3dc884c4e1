"""Task sets that hold row numbers of one data set instead of copies of its rows."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._labels import as_labels, is_missing
from fewshot_sklearn.tasks._random import RandomStateLike
from fewshot_sklearn.tasks._rows import as_rows, is_memory_mapped, n_rows, take_rows
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._validation import check_finite, check_targets

Draw = tuple[NDArray[np.int64], NDArray[np.int64]]


class IndexedTaskSet(TaskSet):
    """A task set whose tasks are rows of one ``X``.

    A *measurement* is one label of one row. ``y`` has one entry for each measurement; ``row_of``
    says to which row of ``X`` it belongs, or is None where measurement and row are the same.

    A subclass implements ``_draw(task_id, visit)`` and takes its randomness from
    ``self._stream(task_id, visit)`` only. It overrides ``drawable`` where a selection of its tasks
    keeps to a part of the data.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
        The data. Arrays, memory maps, DataFrames and CSR matrices are never copied.
    y : ndarray of shape (n_measurements,) or (n_measurements, n_outputs)
        The labels, none of them missing.
    n_tasks : int
        The number of tasks.
    row_of : ndarray of shape (n_measurements,), dtype int64, or None, default=None
        The row of X that each label belongs to.
    names : sequence or None, default=None
        A name for every task; None for their numbers.
    shared_classes : bool, default=False
        Whether a label means the same in every task.
    random_state : int, RandomState, Generator or None, default=None
        What every draw is a function of.

    Attributes
    ----------
    X : array, DataFrame or sparse matrix of shape (n_rows, ...)
        The data.
    y : ndarray of shape (n_measurements,) or (n_measurements, n_outputs)
        The labels.
    row_of : ndarray of shape (n_measurements,), dtype int64, or None
        The row of X that each label belongs to.

    See Also
    --------
    EpisodicTasks : N-way K-shot episodes from one labelled data set.
    GroupedTasks : Each group of rows is a task.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import EpisodicTasks
    >>> X, y = np.arange(40.0).reshape(20, 2), np.repeat(["a", "b", "c", "d"], 5)
    >>> tasks = EpisodicTasks(X, y, n_way=3, n_query=2, n_tasks=10, random_state=0)
    >>> support, query = tasks.draw(4, visit=1)
    >>> bool((tasks.X[support] == tasks.task(4, visit=1).X_support).all())
    True
    """

    X: Any
    y: NDArray[Any]
    row_of: NDArray[np.int64] | None
    _passed: set[str]

    def __init__(
        self,
        X: Any,
        y: NDArray[Any],
        *,
        n_tasks: int,
        row_of: NDArray[np.int64] | None = None,
        names: Sequence[Any] | NDArray[Any] | None = None,
        shared_classes: bool = False,
        random_state: RandomStateLike = None,
    ) -> None:
        super().__init__(
            n_tasks, names=names, shared_classes=shared_classes, random_state=random_state
        )
        self._store(X=X, y=y, row_of=row_of, _passed=set())

    @abstractmethod
    def _draw(self, task_id: int, visit: int) -> Draw:
        """Draw the measurements of a task from its original number."""

    def draw(self, i: int, visit: int = 0) -> Draw:
        """Draw the support and the query set of one task, as numbers of measurements.

        Parameters
        ----------
        i : int
            The task's position in this task set; negative counts from the end.
        visit : int, default=0
            How often meta-training has visited it.

        Returns
        -------
        support : ndarray of shape (n_support,), dtype int64
            Entries of ``y`` (through ``row_of``, rows of ``X``), in random order.
        query : ndarray of shape (n_query,), dtype int64
            The same for the query set. The two do not overlap.

        Raises
        ------
        IndexError
            If there is no such task.
        ValueError
            If ``visit`` is negative.
        """
        return self._draw(self._task_id(i), visit)

    def drawn_once(self) -> Self:
        """Return the same tasks, which remember what they drew: for reading them several times.

        Returns
        -------
        IndexedTaskSet
            Of the same type and data. It holds the row numbers of each visit that it has drawn.
        """
        same = copy.copy(self)
        same._store(_draw=cache(self._draw))
        return same

    def drawable(self) -> NDArray[np.int64]:
        """Return the measurements that these tasks may draw at any visit.

        Returns
        -------
        ndarray of shape (n_drawable,), dtype int64
            Distinct entries of ``y``, in no order that matters. No task of this set ever draws
            another one, so nothing else may be learned from in cross-validation.
        """
        return np.arange(len(self.y))

    def with_rows(self, X: Any, rows: NDArray[np.int64]) -> Self:
        """Return the same tasks with other features.

        Parameters
        ----------
        X : array, DataFrame or sparse matrix of shape (n_rows, ...)
            The new features.
        rows : ndarray of shape (n_rows,), dtype int64
            Which row of the present ``X`` each of them stands for; rows that are not among them
            must not be drawn.

        Returns
        -------
        IndexedTaskSet
            Of the same type, with the same labels and names; every visit of a task draws the same
            measurements.

        Raises
        ------
        ValueError
            If there is not one row of X for each of ``rows``.
        """
        X = as_rows(X)
        if n_rows(X) != len(rows):
            raise ValueError(
                f"X must have one row for each of the {len(rows)} rows that it stands for, got "
                f"{n_rows(X)}; what is applied to rows must return as many."
            )
        same = copy.copy(self)
        same._store(X=X, _passed=self._passed - {"X"})
        if not np.array_equal(rows, np.arange(n_rows(self.X))):
            place = np.full(n_rows(self.X), len(rows))  # so that no other row can be taken
            place[rows] = np.arange(len(rows))
            same._store(row_of=place if self.row_of is None else place[self.row_of])
        return same

    def _make_task(self, task_id: int, visit: int) -> Task:
        support, query = self._draw(task_id, visit)
        X, y, row_of = self.X, self.y, self.row_of
        rows = (support, query) if row_of is None else (row_of[support], row_of[query])
        return Task(
            take_rows(X, rows[0]),
            y[support],
            take_rows(X, rows[1]),
            y[query],
            name=self._name(task_id),
        )

    def check_data(self, *, classifier: bool) -> None:
        """Check all of X and y for values that no task may have.

        X and y never change, so what passed is remembered, by all task sets selected from this one
        too. A memory-mapped X is not read for this: check each batch of it.

        Parameters
        ----------
        classifier : bool
            Whether the labels must be classes.

        Raises
        ------
        TaskError
            If X has NaN or infinite values, or y does not suit the estimator.
        """
        if "X" not in self._passed and not is_memory_mapped(self.X):
            check_finite(self.X, what="X")
            self._passed.add("X")
        kind = "classes" if classifier else "numbers"
        if kind not in self._passed:
            check_targets(self.y, what="y", classifier=classifier)
            self._passed.add(kind)


def check_data_set(X: Any, y: Any, row_of: Any = None) -> tuple[Any, Any, NDArray[np.int64] | None]:
    """Give X, y and row_of their stored form and check that they belong together.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
        The data.
    y : array-like of shape (n_measurements,) or (n_measurements, n_outputs)
        The labels.
    row_of : array-like of shape (n_measurements,) or None, default=None
        The row of X that each label belongs to; None for the same number.

    Returns
    -------
    X, y, row_of
        With shapes; y may still have missing labels.

    Raises
    ------
    ValueError
        If the lengths differ, ``row_of`` holds numbers that are no rows, X is one-dimensional,
        or y is a single column.
    """
    X = as_rows(X)
    y = y if hasattr(y, "shape") else np.asarray(y, dtype=object)
    if not (len(X.shape) and len(y.shape)):
        raise ValueError(
            f"X and y must be arrays with one entry for each row, got {_kind(X)} and {_kind(y)}."
        )
    if tuple(y.shape[1:]) == (1,):
        raise ValueError(
            f"y must have one dimension, or several columns to regress; got shape {y.shape}: pass "
            "its single column, such as y.ravel()."
        )
    if len(X.shape) == 1 and getattr(X, "dtype", np.dtype(object)).kind in "biufc":
        raise ValueError(
            f"X must have at least two dimensions, got shape {tuple(X.shape)}; use "
            "X.reshape(-1, 1) if it has a single feature."
        )
    if row_of is None:
        if n_rows(X) != n_rows(y):
            raise ValueError(
                f"X and y must have one entry for each row; got {n_rows(X)} rows in X and "
                f"{n_rows(y)} in y."
            )
        return X, y, None
    row_of = np.asarray(row_of, dtype=np.int64)
    if row_of.shape != (n_rows(y),):
        raise ValueError(
            f"row_of must hold one row number for each of the {n_rows(y)} entries of y; got "
            f"shape {row_of.shape}."
        )
    if row_of.size and (row_of.min() < 0 or row_of.max() >= n_rows(X)):
        raise ValueError(
            f"row_of must hold row numbers of X, from 0 to {n_rows(X) - 1}; got "
            f"{row_of.min()} to {row_of.max()}."
        )
    return X, y, row_of


def drop_measurements(
    y: Any, row_of: NDArray[np.int64] | None, *, dropped: NDArray[np.bool_] | None = None
) -> tuple[NDArray[Any], NDArray[np.int64] | None, NDArray[np.bool_]]:
    """Drop measurements without a label, and others that the caller names.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        The labels; several outputs are dropped together if one is missing.
    row_of : ndarray of shape (n,), dtype int64, or None
        The row of X of each.
    dropped : ndarray of shape (n,), dtype bool, or None, default=None
        Others to drop.

    Returns
    -------
    y : ndarray of shape (n_kept,) or (n_kept, n_outputs)
        Not copied if nothing was dropped.
    row_of : ndarray of shape (n_kept,), dtype int64, or None
        None if it was None and nothing was dropped.
    kept : ndarray of shape (n,), dtype bool
        What is left.
    """
    missing = is_missing(y)
    kept = np.logical_not(missing.any(axis=1) if missing.ndim > 1 else missing)
    if dropped is not None:
        kept &= ~dropped
    if kept.all():
        return as_labels(y), row_of, kept
    rows = np.flatnonzero(kept)
    return as_labels(take_rows(y, rows)), rows if row_of is None else row_of[rows], kept


def _kind(member: Any) -> str:
    """Return the name of a type, of the value itself where it stands alone."""
    return type(member if member.shape else member[()]).__name__
