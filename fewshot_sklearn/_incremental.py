"""``partial_fit``: learn a task in pieces, for methods whose state allows that exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.multiclass import unique_labels

from . import _meta_fitting as meta_fitting
from ._meta_state import MetaState, snapshot_parameters
from .base import FewShotClassifier
from .tasks._targets import ClassTargets, Columns

_WHERE = "the support set"


@dataclass(kw_only=True, eq=False, repr=False)
class IncrementalClassifier(FewShotClassifier):
    """Base class of few-shot classifiers whose learner defines ``update``.

    Parameters
    ----------
    %(shared_parameters)s
    """

    @with_callbacks
    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Learn more rows of the task that was fitted last, or the first rows of one.

        On a meta-fitted estimator, any number of calls learn what one ``fit`` on all their rows
        learns. A new estimator meta-trains on the rows of the first call, as ``fit`` does; later
        calls do not meta-train. ``fit`` begins another task.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_rows, n_features), or n-D array
            One row or more.
        y : array-like of shape (n_rows,)
            Their labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that can occur, passed in the first call. Until there is a row of it, a
            class has the probability 0 and the logit minus infinity. Without ``classes`` a label
            may appear in any call, unless the method fixes the column of each class.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            When a label is not among ``classes``, or these are others than in the first call;
            when the method needs ``classes`` for a label that is new; and where ``fit`` raises
            one.
        """
        meta = self._meta if "_adapted" in vars(self) else self._user_meta()
        self._check_parameters(meta)
        rows, labels = self._check_support(X, y, reset=meta is None)
        declared = self._check_classes(classes, labels)
        n_iter = self.max_iter if meta is None else 0
        with self._callback_task("partial_fit", n_iter, X, y) as make_hook:
            if meta is None:
                meta_fitting.fit_from_scratch(
                    self, rows, labels, make_hook=make_hook, classes=declared
                )
                meta = self._meta
            self._learn_rows(meta, rows, labels, declared)
        return self

    def _check_classes(
        self, classes: ArrayLike | None, labels: NDArray[Any]
    ) -> NDArray[Any] | None:
        """Return the labels that were declared, now or before; None where any may occur."""
        before: Columns | None = vars(self).get("_adapted", (None,) * 3)[2]
        if before is not None:
            unique_labels(before.classes, labels)  # refuses numbers among strings
        if classes is None:
            if before is None or before.seen is None:
                return None
            declared = before.classes
        else:
            declared = unique_labels(classes)
            if before is not None and not np.array_equal(declared, before.classes):
                raise ValueError(
                    f"classes={declared.tolist()} must be the classes of the calls before, "
                    f"{before.classes.tolist()}; leave classes out after the first call, or call "
                    "fit to begin another task."
                )
        unknown = np.setdiff1d(labels, declared)
        if len(unknown):
            raise ValueError(
                f"every label must be among classes={declared.tolist()}, got {unknown.tolist()}; "
                "pass all labels that can occur as classes= to the first call of partial_fit."
            )
        return declared

    def _learn_rows(
        self, meta: MetaState, X: Any, y: NDArray[Any], declared: NDArray[Any] | None
    ) -> None:
        """Adapt to the first rows of a task, or update its state with more."""
        self._check_row_shape(X, meta.spec.support_shape)
        learner, make = self._current_learner(meta), self._tensor_maker()
        targets = cast("ClassTargets", meta.targets)
        _, state, columns = vars(self).get("_adapted", (None, None, None))
        if columns is None:
            labels = y if declared is None else declared
            columns = targets.encode(labels, None, where=_WHERE)[2]
        if declared is not None and columns.seen is None:
            columns = replace(columns, seen=np.full(len(declared), state is not None))
        codes, columns = targets.extend(columns, y, where=_WHERE)
        target = make.one_hot(codes[None], None, targets.width([columns]))
        x = make.support(X)
        with torch.no_grad():
            if state is None:
                state = learner.adapt(x, target, None)
            else:
                state = {name: tensor.to(make.device) for name, tensor in state.items()}
                state = learner.update(state, x, target, None)
        self._adapted = (learner, state, columns)
        self._fit_parameters = snapshot_parameters(self._parameters())
        self.classes_ = columns.classes

    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        return super()._decode(decoder.without_unseen(raw), decoder, method)
