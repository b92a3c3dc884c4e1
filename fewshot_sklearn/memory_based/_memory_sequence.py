"""What estimators share that read sequences with a memory and answer at each step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
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
    hold_out_sequences,
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
            X, encoded, held_out = hold_out_sequences(X, encoded, make, self.random_state)

        def validate(learner: Any) -> float:
            return -float(learner.meta_loss(held_out))

        def make_learner() -> SequenceLearner:
            cell = self._make_cell(learned["n_features_in_"])
            return SequenceLearner(cell, learned["n_outputs_"], type(self)._output_loss)

        self._train(
            make_learner,
            lambda rng: endless_batches(X, encoded, self.batch_size, make, rng),
            None if held_out is None else validate,
            learned=learned | {"_single": np.ndim(y[0]) == 1},
            anew=not goes_on,
        )
        return self

    @abstractmethod
    def _describe(self, targets: Arrays) -> dict[str, Any]:
        """Return the attributes that the targets teach; refuse targets that are none."""

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
        learner: Any = self._learner
        x = check_inputs([x], NUMPY_DTYPES[self.precision], self.n_features_in_)[0]
        with torch.no_grad():
            rows = self._maker_of_trained().features(x[None])
            raw, seen = learner.run(rows, _weights)
        read, write = (torch.cat(w).double().cpu().numpy() for w in zip(*seen, strict=True))
        outputs = self._decode(raw[0].double().cpu().numpy())
        return Bunch(outputs=outputs, read_weights=read, write_weights=write)

    @abstractmethod
    def _decode(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities or means from raw outputs."""

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
