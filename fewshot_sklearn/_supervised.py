"""Classifiers whose rows hold all there is to know: no tasks and no support set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._generators import own_generators
from ._inference import check_finite
from ._meta_fitting import training_options
from ._parameters import SharedParameters
from ._training import meta_train
from ._training_run import TrainingLog
from .nn import Learner
from .tasks._random import resolve_random_state, stream

_MOST_ROWS = 1024


@dataclass(frozen=True)
class RowBatch:
    """Some rows with what is known of them.

    Attributes
    ----------
    x : Tensor of shape (N, *)
    y : int Tensor of shape (N,)
        The number of each row's class.
    extra : Tensor of shape (N, *) or None
        What else a method learns from.
    """

    x: Tensor
    y: Tensor
    extra: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> RowBatch:
        """Return some of the rows."""
        return RowBatch(
            self.x[rows], self.y[rows], None if self.extra is None else self.extra[rows]
        )


class RowLearner(Learner):
    """A learner without tasks: ``forward`` maps rows [N, *] to a score of each class [N, C].

    A subclass writes ``forward``, and ``meta_loss(batch)`` of a :class:`RowBatch`.
    """


@dataclass(kw_only=True, eq=False, repr=False)
class SupervisedClassifier(ClassifierMixin, SharedParameters, BaseEstimator):
    """Base class of classifiers that the loop of meta-training trains on rows.

    A method implements ``_make_learner`` and ``_check_rows``.

    Parameters
    ----------
    %(shared_parameters)s
    """

    meta_batch_size: int = 32

    @abstractmethod
    def _make_learner(self, X: NDArray[Any], n_classes: int) -> Any:
        """Return a new learner, made for rows such as these."""

    @abstractmethod
    def _check_rows(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Return checked rows."""

    def _check_extra(self, X: NDArray[Any], extra: Any) -> NDArray[Any] | None:
        """Return what else is known of each row, checked."""
        return None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Any:
        """Learn from rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        self : object
        """
        return self._fit_rows(X, y)

    def _fit_rows(self, X: Any, y: Any, extra: Any = None) -> Any:
        """Train on rows, with what else is known of each."""
        self._validate_params()
        if self.backbone is not None:
            raise ValueError(
                f"{type(self).__name__} has no backbone, got {self.backbone!r}; leave it None."
            )
        X = self._check_rows(X, reset=True)
        extra = self._check_extra(X, extra)
        classes, codes = np.unique(self._check_labels(X, y), return_inverse=True)
        key = resolve_random_state(self.random_state)[1]
        device = self._torch_device()
        seeds = [device] if device.type == "cuda" else []
        known = self._known(classes)
        known_of_rows = [a for a in (X, codes, extra) if a is not None]
        rows = RowBatch(*(torch.from_numpy(a).to(device) for a in known_of_rows))
        order = stream(key, 0, 1).permutation(len(X))
        n_held_out = -(-len(X) // 10) if self.early_stopping and len(X) > 1 else 0
        learn, held_out = order[n_held_out:], rows[torch.from_numpy(order[:n_held_out]).to(device)]
        with own_generators(int(key[0]) % 2**63, seeds):
            learner, log = known or (self._make_learner(X, len(classes)), TrainingLog())
            learner.to(device, self._tensor_maker().dtype).requires_grad_(True)
            meta_train(
                learner,
                # The loop hands each batch to the learner and looks at none.
                _batches(rows, learn, self.meta_batch_size, stream(key, 1, log.n_iter)),  # type: ignore[arg-type]
                training_options(self),
                log,
                validate=(lambda: _accuracy(learner, held_out)) if n_held_out else None,
            )
        self._learner, self._log = learner.requires_grad_(False), log
        self.classes_, self.n_iter_ = classes, log.n_iter
        self.meta_loss_curve_, self.validation_scores_ = log.losses, log.validation_scores
        return self

    def _known(self, classes: NDArray[Any]) -> tuple[Any, TrainingLog] | None:
        """Return copies of what to go on from; None to begin anew."""
        if not self.warm_start or not hasattr(self, "_learner"):
            return None
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start=True goes on with the classes {self.classes_.tolist()}, got "
                f"{classes.tolist()}; set it to False to begin anew."
            )
        return copy.deepcopy(self._learner), self._log.copy()

    def _check_labels(self, X: NDArray[Any], y: Any) -> NDArray[Any]:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        y = np.asarray(y)
        if y.shape != (len(X),):
            raise ValueError(f"y must have one label for each of the {len(X)} rows, got {y.shape}.")
        check_classification_targets(y)
        return y

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        """Return the score of each class [n_samples, C]."""
        return check_finite(self._compute(X, self._predict_rows).double().numpy())

    @staticmethod
    def _predict_rows(learner: Any, x: Tensor) -> Tensor:
        return learner(x)

    def _compute(self, X: Any, compute: Any) -> Tensor:
        """Return what is computed of checked rows, some of them at a time."""
        check_is_fitted(self, "_learner")
        x = torch.from_numpy(np.ascontiguousarray(self._check_rows(X, reset=False)))
        device = next(self._learner.parameters()).device
        with torch.no_grad():
            pieces = [compute(self._learner, part.to(device)).cpu() for part in x.split(_MOST_ROWS)]
        return torch.cat(pieces)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the class of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in :meth:`fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        numbers = self._outputs(X).argmax(axis=1)
        return self.classes_[numbers]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in :meth:`fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        return softmax(self._outputs(X), axis=1)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the score of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in :meth:`fit`.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the second score minus the first.
        """
        scores = self._outputs(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_learner" in state:
            state["_learner"] = copy.deepcopy(state["_learner"]).cpu()
        return state


def _batches(
    rows: RowBatch, numbers: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Iterator[RowBatch]:
    """Yield batches of rows without end, in a new order every time round."""
    size = min(size, len(numbers))
    while True:
        order = torch.from_numpy(rng.permutation(numbers)).to(rows.x.device)
        for part in order.split(size):
            if len(part) == size:
                yield rows[part]


def _accuracy(learner: Any, rows: RowBatch) -> float:
    pieces = [learner(x) for x in rows.x.split(_MOST_ROWS)]
    return float((torch.cat(pieces).argmax(dim=-1) == rows.y).double().mean())
