"""How tasks are read: with features checked as scikit-learn does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._meta_state import MetaState
from .tasks import IndexedTaskSet, StreamTasks, TaskSet
from .tasks._batch import TaskLoader
from .tasks._rows import is_memory_mapped

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
    data_checked = False
    if isinstance(tasks, IndexedTaskSet):
        tasks.check_data(classifier=classifier)
        data_checked = True
    if reset:
        # scikit-learn compares later features with those of the first rows that it sees.
        first = tasks.X[:2] if isinstance(tasks, IndexedTaskSet) else None
        if first is None:
            head = tasks.head(1)[0] if isinstance(tasks, StreamTasks) else tasks[0]
            first = head.X_support
        estimator._check_rows(first, reset=True, ensure_all_finite=False)
    shape = [] if known is None else [known.spec.input_shape]

    def read_rows(X: Any) -> Any:
        mapped = is_memory_mapped(X)  # then each batch is checked, not the whole
        plain = type(X) is np.ndarray and X.dtype.kind in "fiub" and X.ndim > 1
        known_shape = plain and X.shape[1:] in shape
        if not (known_shape and (mapped or data_checked or bool(np.isfinite(X).all()))):
            X = estimator._check_rows(X, reset=False, ensure_all_finite=not mapped)
        if not shape:
            shape.append(X.shape[1:])
        if X.shape[1:] != shape[0]:
            raise ValueError(
                f"a row of X must have the shape {shape[0]}, as in the tasks before, "
                f"got {X.shape[1:]}."
            )
        return X

    maker = estimator._tensor_maker()
    read = (lambda X: X) if rows_checked else read_rows
    return TaskLoader(tasks, maker, read_rows=read, classifier=classifier)
