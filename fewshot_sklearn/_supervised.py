"""Classifiers whose rows hold all there is to know: no tasks and no support set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from ._inference import check_finite
from ._supervised_base import SupervisedEstimator, hold_out
from .nn import Learner

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

    def __getitem__(self, rows: NDArray[np.int64]) -> RowBatch:
        """Return some of the rows."""
        numbers = torch.from_numpy(rows).to(self.x.device)
        extra = None if self.extra is None else self.extra[numbers]
        return RowBatch(self.x[numbers], self.y[numbers], extra)


class RowLearner(Learner):
    """A learner without tasks: ``forward`` maps rows [N, *] to a score of each class [N, C].

    A subclass writes ``forward``, and ``meta_loss(batch)`` of a :class:`RowBatch`.
    """


@dataclass(kw_only=True, eq=False, repr=False)
class SupervisedClassifier(ClassifierMixin, SupervisedEstimator):
    """Base class of classifiers of rows that the training loop trains.

    A method implements ``_make_learner`` and ``_check_rows``.

    Parameters
    ----------
    %(supervised_parameters)s
    """

    batch_size: int = 32

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
        goes_on = self._goes_on(anew=not self.warm_start)
        X = self._check_rows(X, reset=not goes_on)
        extra = self._check_extra(X, extra)
        classes, codes = np.unique(self._check_labels(X, y), return_inverse=True)
        if goes_on and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start=True goes on with the classes {self.classes_.tolist()}, got "
                f"{classes.tolist()}; set it to False to begin anew."
            )
        device = self._torch_device()
        known_of_rows = [a for a in (X, codes, extra) if a is not None]
        rows = RowBatch(*(torch.from_numpy(a).to(device) for a in known_of_rows))
        learned = np.arange(len(X))
        held_out = None
        if self.early_stopping and len(X) > 1:
            learned, numbers = hold_out(len(X), self.random_state)
            held_out = rows[numbers]
        self._train(
            lambda: self._make_learner(X, len(classes)),
            lambda rng: _batches(rows, learned, self.batch_size, rng),
            None if held_out is None else partial(_score, rows=held_out),
            learned={"classes_": classes},
            anew=not goes_on,
        )
        return self

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
        outputs = self._compute(X, lambda learner, x: learner(x))
        return check_finite(outputs.double().numpy())

    def _compute(self, X: Any, compute: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """Return what the learner computes of checked rows, some of them at a time."""
        self._check_trained()
        x = torch.from_numpy(self._check_rows(X, reset=False))
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


def _score(learner: Any, rows: RowBatch) -> float:
    """Return minus the loss of rows."""
    return -float(learner.meta_loss(rows))


def _batches(
    rows: RowBatch, numbers: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Iterator[RowBatch]:
    """Yield batches of rows without end, in a new order every time round."""
    size = min(size, len(numbers))
    while True:
        order = rng.permutation(numbers)
        for start in range(0, len(order) - size + 1, size):
            yield rows[order[start : start + size]]
