"""How tasks are read: with features checked as scikit-learn does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_array

from ._meta_state import MetaState
from .tasks import IndexedTaskSet, StreamTasks, TaskSet
from .tasks._batch import ReadRows, TaskLoader
from .tasks._rows import check_flat, is_memory_mapped

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator


def make_loader(
    estimator: FewShotEstimator,
    tasks: TaskSet | StreamTasks,
    *,
    reset: bool,
    rows_checked: bool = False,
    known: MetaState | None = None,
) -> TaskLoader:
    """Return a loader that checks features as scikit-learn does."""
    classifier = estimator._estimator_type_is_classifier
    data_checked = isinstance(tasks, IndexedTaskSet)
    if isinstance(tasks, IndexedTaskSet):
        tasks.check_data(classifier=classifier)
    if reset:
        # scikit-learn compares later features with those of the first rows that it sees.
        estimator._see_features(*_first_rows(tasks))
    shapes = ((), ()) if known is None else (known.spec.support_shape, known.spec.input_shape)
    tags = estimator.__fewshot_tags__()
    read_query: ReadRows = _read_any_rows
    if not tags.any_features:
        read_query = _reader(estimator._check_rows, shapes[1], finite=data_checked)
    read_support = read_query
    if tags.describes_classes:
        read_support = _reader(estimator._check_support_rows, shapes[0], finite=data_checked)
        if isinstance(tasks, IndexedTaskSet):  # its rows are those of supports, too
            read_support(tasks.X[:2])
    if rows_checked:
        read_support = read_query = _as_it_is
    maker = estimator._tensor_maker()
    return TaskLoader(
        tasks,
        maker,
        read_support=read_support,
        read_query=read_query,
        classifier=classifier,
        any_features=tags.any_features,
    )


def _first_rows(tasks: TaskSet | StreamTasks) -> tuple[Any, Any]:
    """Return some support and some query rows."""
    if isinstance(tasks, IndexedTaskSet):
        return tasks.X[:2], tasks.X[:2]
    first = tasks.head(1)[0] if isinstance(tasks, StreamTasks) else tasks[0]
    return first.X_support, first.X_query


def _read_any_rows(X: Any) -> Any:
    """Read rows of any features."""
    finite = not is_memory_mapped(X)
    X = check_array(X, accept_sparse="csr", ensure_all_finite=finite, allow_nd=True)
    check_flat(X)
    return X


def _as_it_is(X: Any) -> Any:
    return X


def _reader(check_rows: Callable[..., Any], shape: tuple[int, ...], *, finite: bool) -> ReadRows:
    """Return what checks rows, which must have the shape of the first ones if none is known."""
    known = [shape] if shape else []

    def read_rows(X: Any) -> Any:
        mapped = is_memory_mapped(X)  # then each batch is checked, not the whole
        plain = type(X) is np.ndarray and X.dtype.kind in "fiub" and X.ndim > 1
        known_shape = plain and X.shape[1:] in known
        if not (known_shape and (mapped or finite or bool(np.isfinite(X).all()))):
            X = check_rows(X, reset=False, ensure_all_finite=not mapped)
        if not known:
            known.append(X.shape[1:])
        if X.shape[1:] != known[0]:
            raise ValueError(
                f"a row of X must have the shape {known[0]}, as in the tasks before, "
                f"got {X.shape[1:]}."
            )
        return X

    return read_rows
