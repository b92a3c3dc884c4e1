"""Neural Turing machines, differentiable neural computers and LSTMs from sequences to sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Bunch
from torch import Tensor, nn

from .._inference import check_finite
from .._parameters import NUMPY_DTYPES
from .._supervised_base import SupervisedEstimator
from ..nn import DNCCell, LSTMCell, NTMCell, SequenceLearner
from ..nn.controllers import CONTROLLERS
from ..nn.learner import State
from ..tasks._tensors import TensorMaker
from ..utils._docs import insert_docs
from ..utils._sklearn import Integral, Interval, StrOptions
from ._sequences import (
    Arrays,
    check_inputs,
    check_targets,
    endless_batches,
    hold_out,
    map_sequences,
)

# Steps of all sequences, padding included, that are predicted at once.
_MOST_STEPS = 8192

DOCS = {
    "memory_parameters": """\
memory : {"ntm", "dnc", "lstm"}, default="ntm"
    The network: a neural Turing machine [1]_, a differentiable neural computer [2]_, or an
    LSTM, whose memory is its state.
n_hidden : int, default=100
    Width of the controller, or of each layer of the LSTM.
n_slots : int, default=128
    Memory slots. A DNC takes ``n_slots ** 2`` numbers a sequence and step.
slot_size : int, default=20
    Width of a slot.
n_read_heads : int, default=1
    Slots' worth that is read at a step.
n_write_heads : int, default=1
    The same of writing, for an NTM; a DNC has one.
shift_range : int, default=1
    How far a head of an NTM can move in a step.
controller : {"lstm", "feedforward"}, default="lstm"
    What controls the memory: an LSTM, or a layer that remembers nothing by itself.
n_layers : int, default=1
    Layers of the network of ``memory="lstm"``.""",
    "attributes": """\
n_features_in_ : int
    Inputs a step.
n_outputs_ : int
    Outputs a step.""",
    "sequences": """\
X : list of n_sequences array-likes of shape (length_i, n_features)
    The inputs. Lengths may differ.""",
    "fit": """\
X : list of n_sequences array-likes of shape (length_i, n_features)
    The inputs. Lengths may differ.
y : list of n_sequences array-likes of shape (length_i, n_outputs) or (length_i,)
    The targets of every step. Those that are NaN do not count.""",
    "raises": """\
ValueError, TypeError
    When a parameter is out of range or the sequences are not as above.""",
    "references": """\
.. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
.. [2] Graves et al. (2016). "Hybrid computing using a neural network with dynamic external
   memory." Nature.""",
}


@insert_docs(DOCS)
@dataclass(kw_only=True, eq=False, repr=False)
class MemorySequenceEstimator(SupervisedEstimator):
    """Base class of estimators that read a sequence with a memory and answer at each step.

    Parameters
    ----------
    %(memory_parameters)s
    %(supervised_parameters)s
    """

    memory: str = "ntm"
    n_hidden: int = 100
    n_slots: int = 128
    slot_size: int = 20
    n_read_heads: int = 1
    n_write_heads: int = 1
    shift_range: int = 1
    controller: str = "lstm"
    n_layers: int = 1

    # What all_estimators lists it under.
    _kind: ClassVar[str] = "sequence"
    _output_loss: ClassVar[Callable[..., Tensor]]
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SupervisedEstimator._parameter_constraints,
        "memory": [StrOptions({"ntm", "dnc", "lstm"})],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "n_slots": [Interval(Integral, 1, None, closed="left")],
        "slot_size": [Interval(Integral, 1, None, closed="left")],
        "n_read_heads": [Interval(Integral, 1, None, closed="left")],
        "n_write_heads": [Interval(Integral, 1, None, closed="left")],
        "shift_range": [Interval(Integral, 0, None, closed="left")],
        "controller": [StrOptions(set(CONTROLLERS))],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from sequences.

        Parameters
        ----------
        %(fit)s

        Returns
        -------
        self : object

        Raises
        ------
        %(raises)s
        MetaTrainingError
            When the loss or a gradient is not finite. What was learned until then is kept.
        """
        return self._fit(X, y, anew=not self.warm_start)

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Take ``max_iter`` more iterations, on these sequences, from what is there.

        Parameters
        ----------
        %(fit)s

        Returns
        -------
        self : object

        Raises
        ------
        %(raises)s
        """
        return self._fit(X, y, anew=False)

    def _fit(self, X: Any, y: Any, *, anew: bool) -> Self:
        self._validate_params()
        goes_on = self._goes_on(anew=anew)
        dtype = NUMPY_DTYPES[self.precision]
        X = check_inputs(X, dtype, self.n_features_in_ if goes_on else None)
        targets = check_targets(y, X, dtype, self.n_outputs_ if goes_on else None)
        learned = self._describe(targets)
        if goes_on:
            learned = {name: getattr(self, name) for name in learned}
        learned |= {"n_features_in_": X[0].shape[1], "n_outputs_": targets[0].shape[1]}
        encoded = self._encode(targets, learned)
        make, held_out = self._tensor_maker(), None
        if self.early_stopping:
            X, encoded, held_out = hold_out(X, encoded, make, self.random_state)

        def make_learner() -> SequenceLearner:
            cell = self._make_cell(learned["n_features_in_"])
            return SequenceLearner(cell, learned["n_outputs_"], type(self)._output_loss)

        self._train(
            make_learner,
            lambda rng: endless_batches(X, encoded, self.batch_size, make, rng),
            None if held_out is None else lambda learner: -float(learner.meta_loss(held_out)),
            learned=learned | {"_single": np.ndim(y[0]) == 1},
            anew=not goes_on,
        )
        return self

    def _describe(self, targets: Arrays) -> dict[str, Any]:
        """Return the attributes that the targets teach; refuse targets that are none."""
        raise NotImplementedError

    def _encode(self, targets: Arrays, learned: dict[str, Any]) -> Arrays:
        """Return targets as the network learns them."""
        return targets

    def _make_cell(self, n_inputs: int) -> nn.Module:
        """Return a new recurrent cell."""
        if self.memory == "lstm":
            return LSTMCell(n_inputs, self.n_hidden, n_layers=self.n_layers)
        common: dict[str, Any] = {
            "n_hidden": self.n_hidden,
            "n_slots": self.n_slots,
            "slot_size": self.slot_size,
            "n_read_heads": self.n_read_heads,
            "controller": self.controller,
        }
        if self.memory == "dnc":
            return DNCCell(n_inputs, **common)
        return NTMCell(
            n_inputs, n_write_heads=self.n_write_heads, shift_range=self.shift_range, **common
        )

    def _outputs(self, X: Any) -> Arrays:
        """Return the raw outputs (length_i, n_outputs) of each sequence."""
        self._check_trained()
        make = self._maker_of_trained()
        X = check_inputs(X, NUMPY_DTYPES[self.precision], self.n_features_in_)
        with torch.no_grad():
            outputs = map_sequences(self._learner, X, make, _MOST_STEPS)
        return [check_finite(output) for output in outputs]

    def _maker_of_trained(self) -> TensorMaker:
        weight = next(self._learner.parameters())
        return TensorMaker(weight.device, weight.dtype)

    def memory_trace(self, x: ArrayLike) -> Bunch:
        """Run over one sequence and tell where the memory was read and written.

        Parameters
        ----------
        x : array-like of shape (length, n_features)
            One sequence.

        Returns
        -------
        trace : Bunch
            ``outputs``, ndarray of shape (length, n_outputs): what :meth:`predict_proba` of a
            classifier, or :meth:`predict` of a regressor, returns; ``read_weights`` and
            ``write_weights``, ndarrays of shape (length, n_heads, n_slots): how much of each
            slot a head read or wrote.

        Raises
        ------
        ValueError
            When the network has no memory but its state, as with ``memory="lstm"``.
        """
        self._check_trained()
        if self._trained_parameters["memory"] == "lstm":
            raise ValueError(
                "memory='lstm' has no slots whose weights could be traced; use 'ntm' or 'dnc'."
            )
        x = check_inputs([x], NUMPY_DTYPES[self.precision], self.n_features_in_)[0]
        with torch.no_grad():
            rows = self._maker_of_trained().features(x[None])
            raw, seen = self._learner.run(rows, _weights)
        read, write = (torch.cat(w).double().cpu().numpy() for w in zip(*seen, strict=True))
        outputs = self._decode(raw[0].double().cpu().numpy())
        return Bunch(outputs=outputs, read_weights=read, write_weights=write)

    def _decode(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities or means from raw outputs."""
        raise NotImplementedError

    def _shaped(self, outputs: Arrays) -> Arrays:
        """Return outputs in the shape that targets had."""
        return [output[:, 0] for output in outputs] if self._single else outputs

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _weights(state: State) -> tuple[Tensor, Tensor]:
    return state["read_weights"], state["write_weights"]


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

    It is an ordinary supervised estimator: ``fit`` trains it on sequences, there are no tasks and no
    ``meta_fit``.

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

    It is an ordinary supervised estimator: ``fit`` trains it on sequences, there are no tasks and no
    ``meta_fit``.

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
