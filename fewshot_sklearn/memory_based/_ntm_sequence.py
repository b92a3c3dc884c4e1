"""Neural Turing machines, differentiable neural computers and LSTMs from sequences to sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor

from ..utils._docs import insert_docs
from ._memory_sequence import DOCS, MemorySequenceEstimator
from ._sequences import Arrays, check_targets


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, y, reduction="none")


def _squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y) ** 2


@insert_docs(DOCS)
@dataclass(kw_only=True, eq=False, repr=False)
class NTMSequenceClassifier(ClassifierMixin, MemorySequenceEstimator):
    """Bits at every step of a sequence, by a network with a memory of slots [1]_.

    It learns from inputs and outputs what to write to its memory and where to look, such as to copy
    a sequence or to look something up in it. Prefer it to an LSTM, ``memory="lstm"``, where what
    must be kept is more than a state of fixed width holds, or where sequences get longer than
    those of training. It costs a recurrent step an input, several times that of an LSTM.

    It is an ordinary supervised estimator: ``fit`` trains it on sequences, there are no tasks and
    no ``meta_fit``.

    Parameters
    ----------
    %(memory_parameters)s
    %(supervised_parameters)s

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        0 and 1, the values of a bit.
    %(attributes)s
    %(supervised_attributes)s

    See Also
    --------
    NTMSequenceRegressor : The same for real targets.
    fewshot_sklearn.metrics.bits_per_sequence : The papers' score.

    Notes
    -----
    The loss is the mean cross-entropy of the bits that count. Batches are of sequences of like
    length; each pass sees every sequence once.

    Departures from [1]_: batches of several sequences, and Adam, where the paper has RMSProp with
    momentum; gradients are clipped by their norm and not each by itself. The LSTM's first
    state is zero, not learned.

    References
    ----------
    %(references)s

    Examples
    --------
    >>> from fewshot_sklearn import NTMSequenceClassifier
    >>> from fewshot_sklearn.datasets import make_copy_sequences
    >>> X, y = make_copy_sequences(300, lengths=(1, 3), n_bits=2, random_state=0)
    >>> clf = NTMSequenceClassifier(
    ...     n_slots=8, slot_size=6, n_hidden=20, learning_rate=0.01, max_iter=200, random_state=0
    ... )
    >>> round(clf.fit(X, y).score(X, y), 1)
    1.0
    """

    _output_loss: ClassVar[Callable[..., Tensor]] = staticmethod(_cross_entropy)

    def _describe(self, targets: Arrays) -> dict[str, Any]:
        _check_bits(targets)
        return {"classes_": np.array([0, 1])}

    def _decode(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(expit(raw))

    def predict(self, X: Any) -> Arrays:
        """Predict the bits of every step.

        Parameters
        ----------
        %(sequences)s

        Returns
        -------
        y : list of n_sequences int ndarrays of shape (length_i, n_outputs)
            Or (length_i,) where ``fit`` had such targets. Steps that do not count have bits too.
        """
        return self._shaped([(output > 0).astype(np.int64) for output in self._outputs(X)])

    def predict_proba(self, X: Any) -> Arrays:
        """Predict the probability that each bit is one.

        Parameters
        ----------
        %(sequences)s

        Returns
        -------
        probabilities : list of n_sequences ndarrays of shape (length_i, n_outputs)
            Or (length_i,) where ``fit`` had such targets.
        """
        return self._shaped([self._decode(output) for output in self._outputs(X)])

    def score(self, X: Any, y: Any) -> float:
        """Return the share of the bits that count, of all sequences, that are right.

        Parameters
        ----------
        %(fit)s

        Returns
        -------
        score : float
        """
        outputs = self._outputs(X)
        targets = check_targets(y, outputs, np.float64, self.n_outputs_)
        _check_bits(targets)
        truth, scores = np.concatenate(targets), np.concatenate(outputs)
        counts = ~np.isnan(truth)
        return float(((scores > 0) == truth)[counts].mean())


@insert_docs(DOCS)
@dataclass(kw_only=True, eq=False, repr=False)
class NTMSequenceRegressor(RegressorMixin, MemorySequenceEstimator):
    """Numbers at every step of a sequence, by a network with a memory of slots [1]_.

    It learns from inputs and outputs what to write to its memory and where to look. Prefer it to
    an LSTM, ``memory="lstm"``, where what must be kept is more than a state of fixed width holds.
    It costs a recurrent step an input, several times that of an LSTM.

    It is an ordinary supervised estimator: ``fit`` trains it on sequences, there are no tasks and
    no ``meta_fit``.

    Parameters
    ----------
    normalize_y : bool, default=True
        Standardise each output with the mean and scale of the targets of the first ``fit``.
    %(memory_parameters)s
    %(supervised_parameters)s

    Attributes
    ----------
    %(attributes)s
    %(supervised_attributes)s

    See Also
    --------
    NTMSequenceClassifier : The same for bits.

    Notes
    -----
    The paper has bits only. The loss is the mean squared error of the standardised targets that
    count; everything else is as for :class:`NTMSequenceClassifier`.

    References
    ----------
    %(references)s

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn import NTMSequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(3, 8), 1)) for _ in range(200)]
    >>> y = [np.r_[np.nan, x[:-1, 0]] for x in X]  # the input of the step before
    >>> reg = NTMSequenceRegressor(
    ...     n_slots=8, slot_size=6, n_hidden=20, learning_rate=0.01, max_iter=200, random_state=0
    ... )
    >>> bool(reg.fit(X, y).score(X, y) > 0.9)
    True
    """

    normalize_y: bool = True

    _output_loss: ClassVar[Callable[..., Tensor]] = staticmethod(_squared_error)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MemorySequenceEstimator._parameter_constraints,
        "normalize_y": ["boolean"],
    }

    def _describe(self, targets: Arrays) -> dict[str, Any]:
        pooled = np.concatenate(targets).astype(np.float64)
        mean, scale = np.zeros(pooled.shape[1]), np.ones(pooled.shape[1])
        if self.normalize_y:
            for i, column in enumerate(pooled.T):
                known = column[~np.isnan(column)]
                if len(known):
                    mean[i], scale[i] = known.mean(), known.std() or 1.0
        return {"_mean": mean, "_scale": scale}

    def _encode(self, targets: Arrays, learned: dict[str, Any]) -> Arrays:
        mean, scale = learned["_mean"], learned["_scale"]
        return [((t - mean) / scale).astype(t.dtype) for t in targets]

    def _decode(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return raw * self._scale + self._mean

    def predict(self, X: Any) -> Arrays:
        """Predict the targets of every step.

        Parameters
        ----------
        %(sequences)s

        Returns
        -------
        y : list of n_sequences ndarrays of shape (length_i, n_outputs)
            Or (length_i,) where ``fit`` had such targets. Steps that do not count have values too.
        """
        return self._shaped([self._decode(output) for output in self._outputs(X)])

    def score(self, X: Any, y: Any) -> float:
        """Return the coefficient of determination, the mean over outputs.

        Parameters
        ----------
        %(fit)s

        Returns
        -------
        score : float
            Of the targets that count, of all sequences together. Outputs without any are left out.
        """
        outputs = [self._decode(output) for output in self._outputs(X)]
        targets = check_targets(y, outputs, np.float64, self.n_outputs_)
        columns = zip(np.concatenate(targets).T, np.concatenate(outputs).T, strict=True)
        known = [(t[~np.isnan(t)], o[~np.isnan(t)]) for t, o in columns]
        return float(np.mean([r2_score(t, o) for t, o in known if len(t)]))


def _check_bits(targets: Arrays) -> None:
    for i, bits in enumerate(targets):
        if not np.isin(bits[~np.isnan(bits)], (0, 1)).all():
            raise ValueError(
                f"targets must be 0 or 1, or NaN where they do not count, but y[{i}] has others; "
                "one-hot encode classes, or use NTMSequenceRegressor for numbers."
            )
