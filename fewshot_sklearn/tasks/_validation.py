"""What must hold of a task, and the sentence that a user reads where it does not."""

from typing import Any

import numpy as np

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks._labels import as_labels, is_missing, is_real_valued, label_set
from fewshot_sklearn.tasks._rows import n_rows
from fewshot_sklearn.tasks._task import Task


def describe(index: int, name: Any = None) -> str:
    """Return how an error calls a task: ``task 3`` or ``task 3 ('assay 7')``."""
    return f"task {index}" if name is None or name == index else f"task {index} ({name!r})"


def as_task(candidate: Any, index: int) -> Task:
    """Return a Task made of a 4-tuple, after checking the numbers of rows.

    Parameters
    ----------
    candidate : Task or tuple or list of four
        ``(X_support, y_support, X_query, y_query)``.
    index : int
        Its position, for errors.

    Returns
    -------
    Task
        The same object if it was a Task.

    Raises
    ------
    TaskError
        If it is not a 4-tuple, has an empty member, or numbers of rows that differ.
    """
    task = candidate if isinstance(candidate, Task) else _task_from_tuple(candidate, index)
    for part in ("support", "query"):
        X, y = getattr(task, f"X_{part}"), getattr(task, f"y_{part}")
        where = describe(index, task.name)
        if not (len(X.shape) and len(y.shape)):
            raise TaskError(f"{where}: X_{part} and y_{part} must hold rows, got a single value.")
        if n_rows(X) != n_rows(y):
            raise TaskError(
                f"{where}: X_{part} and y_{part} must have as many rows as each other, got "
                f"{n_rows(X)} and {n_rows(y)}."
            )
        if n_rows(X) == 0:
            raise TaskError(
                f"{where}: the {part} set is empty; give it at least one row or leave the task out."
            )
    return task


def _task_from_tuple(candidate: Any, index: int) -> Task:
    if not isinstance(candidate, (tuple, list)) or len(candidate) != 4:
        got = type(candidate).__name__
        if isinstance(candidate, (tuple, list)):
            got += f" of length {len(candidate)}"
        raise TaskError(
            f"task {index} must be a Task or a tuple (X_support, y_support, X_query, y_query), "
            f"got {got}."
        )
    try:
        return Task(*candidate)
    except ValueError as error:
        raise TaskError(f"task {index} has rows of unequal lengths: {error}") from error


def check_task(task: Any, index: int, *, classifier: bool) -> None:
    """Check everything that must hold of one task.

    Parameters
    ----------
    task : Task or 4-tuple
        The task.
    index : int
        Its position, for errors.
    classifier : bool
        Whether the labels must be classes, all of which the support has.

    Raises
    ------
    TaskError
        If it is no task, rows and labels do not match, a set is empty, X or y has NaN or infinite
        values, the two sets have different features, the labels do not suit the estimator, or the
        query has a class that the support lacks.

    Examples
    --------
    >>> from fewshot_sklearn.tasks import Task
    >>> from fewshot_sklearn.tasks._validation import check_task
    >>> task = Task([[0.0], [1.0]], ["a", "b"], [[0.2]], ["c"], name="toy")
    >>> check_task(task, 3, classifier=True)
    Traceback (most recent call last):
    ...
    fewshot_sklearn.exceptions.TaskError: task 3 ('toy'): ... which the support set lacks; ...
    """
    task = as_task(task, index)
    where = describe(index, task.name)
    check_same_width(task, task.X_support.shape[1:], index)
    for part in ("support", "query"):
        X = getattr(task, f"X_{part}")
        if len(X.shape) == 1 and getattr(X, "dtype", np.dtype(object)).kind in "biufc":
            raise TaskError(
                f"{where}: X_{part} must have at least two dimensions, got shape "
                f"{tuple(X.shape)}; use X.reshape(-1, 1) if it has a single feature."
            )
        check_finite(X, what=f"{where}: X_{part}")
        y = getattr(task, f"y_{part}")
        check_targets(y, what=f"{where}: y_{part}", classifier=classifier)
    unknown = label_set(task.y_query) - label_set(task.y_support) if classifier else ()
    if unknown:
        raise TaskError(
            f"{where}: the query set has {_listed(unknown)}, which the support set lacks; add a "
            "support row of each class or leave these query rows out."
        )


def check_same_width(task: Task, width: tuple[int, ...], index: int) -> None:
    """Check that both sets of a task have the features that the others have.

    Parameters
    ----------
    task : Task
        The task.
    width : tuple of int
        The shape of one row, as the first task has it.
    index : int
        The task's position, for errors.

    Raises
    ------
    TaskError
        If a row of the support or the query set has another shape.
    """
    for part in ("support", "query"):
        got = tuple(getattr(task, f"X_{part}").shape[1:])
        if got != tuple(width):
            raise TaskError(
                f"{describe(index, task.name)}: a row of X_{part} must have shape {tuple(width)} "
                f"like the others, got {got}; all tasks must have the same features."
            )


def check_finite(X: Any, *, what: str = "X") -> None:
    """Check that features have no NaN and no infinite value.

    Parameters
    ----------
    X : array, DataFrame or sparse matrix of shape (n_rows, ...)
        Columns of text pass if none of their values is missing; arrays of objects pass.
    what : str, default="X"
        How an error calls it, the task included.

    Raises
    ------
    TaskError
        If a value is NaN, missing or infinite; the message names the first such row.
    """
    if hasattr(X, "iloc"):
        floats = X.select_dtypes("number") if hasattr(X, "select_dtypes") else X
        bad = is_missing(X)
        if not bad.any():
            bad = np.isinf(floats.to_numpy(dtype=np.float64))
        _raise_if(bad, what)
        return
    values = X.data if hasattr(X, "tocsr") else np.asarray(X)
    if values.dtype.kind not in "fc" or _sum_is_finite(values):
        return
    bad = ~np.isfinite(values)
    if hasattr(X, "tocsr"):
        coo = X.tocoo()
        bad = np.isin(np.arange(n_rows(X)), coo.row[~np.isfinite(coo.data)])
    _raise_if(bad, what)


def _sum_is_finite(values: Any) -> bool:
    """Return whether the sum is finite: if it is, so are all values, at a fraction of the cost."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()))


def _raise_if(bad: Any, what: str) -> None:
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        raise TaskError(
            f"{what} must be finite, but {len(rows)} of its {len(bad)} rows have NaN or infinite "
            f"values, row {rows[0]} the first; impute them or leave these rows out."
        )


def check_targets(y: Any, *, what: str = "y", classifier: bool) -> None:
    """Check that labels are complete and of the kind that the estimator learns.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        The labels.
    what : str, default="y"
        How an error calls them, the task included.
    classifier : bool
        Whether they must be classes, one a row; otherwise they must be numbers.

    Raises
    ------
    TaskError
        If one is missing or infinite, or they are of the other kind.
    """
    _raise_if(is_missing(y), what)
    labels = as_labels(y)
    if labels.dtype.kind == "f":
        _raise_if(np.isinf(labels), what)
    if classifier and labels.ndim > 1:
        raise TaskError(
            f"{what} must have one class label a row, got shape {labels.shape}; "
            "use a regressor for several outputs, or ravel a single column."
        )
    if classifier and is_real_valued(labels):
        raise TaskError(
            f"{what} must be class labels for a classifier, got real numbers such as "
            f"{labels[labels != np.floor(labels)][0]:g}; use a regressor or cut them into classes."
        )
    if not classifier and labels.dtype.kind not in "biuf":
        raise TaskError(
            f"{what} must be numbers for a regressor, got {labels.dtype} such as "
            f"{labels.flat[0]!r}; use a classifier or convert them."
        )


def n_classes_in(task: Task) -> int:
    """Return the number of classes of a task's support set."""
    return len(label_set(task.y_support))


def _listed(labels: Any) -> str:
    """Return up to five labels as text."""
    shown = sorted(map(repr, labels))
    noun = "the label " if len(shown) == 1 else "the labels "
    return noun + ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
