"""What the estimators of this family share: rows as they are, and reading them in order."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from torch import nn

from .._incremental import IncrementalClassifier
from .._inference import check_finite, encode_support
from ..base import (
    FewShotEstimator,
    FewShotRegressor,
    ProbabilisticFewShotRegressor,
    TaskSpec,
)
from ..nn import IncrementalRecurrentLearner, RecurrentLearner, embedding_size
from ..nn.functional import gaussian_nll, squared_error
from ..nn.recurrent import MeanAndStd
from ..nn.sequential import mean_distribution, mean_outputs
from ..utils._sklearn import Integral, Interval, StrOptions
from ..utils._tags import FewShotTags


def rows_or_backbone(estimator: FewShotEstimator, spec: TaskSpec) -> tuple[nn.Module, int]:
    """Return the network that embeds a row, none unless it was asked for, and its width."""
    raw = nn.Flatten() if estimator.backbone is None else None
    backbone = raw or estimator._build_backbone(spec.input_shape)
    return backbone, embedding_size(backbone, spec.input_shape)


@dataclass(kw_only=True, eq=False, repr=False)
class SequentialEstimator(FewShotEstimator):
    """A few-shot estimator that reads the support rows one after the other."""

    n_orders: int = 1

    _adaptation_parameters: ClassVar[frozenset[str]] = FewShotEstimator._adaptation_parameters | {
        "n_orders"
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "n_orders": [Interval(Integral, 1, None, closed="left")],
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(order_dependent=True, permutes_classes=False)


@dataclass(kw_only=True, eq=False, repr=False)
class RecurrentEstimator(SequentialEstimator):
    """One whose support rows a recurrent cell reads; a method makes the cell."""

    @abstractmethod
    def _make_cell(self, n_inputs: int) -> Any:
        """Return a new cell for inputs of that width."""

    def _rows_and_cell(self, spec: TaskSpec) -> tuple[nn.Module, Any]:
        """Return the network that embeds a row, none unless it was asked for, and the cell."""
        backbone, size = rows_or_backbone(self, spec)
        return backbone, self._make_cell(size + spec.n_outputs)


@dataclass(kw_only=True, eq=False, repr=False)
class MemoryCellEstimator(RecurrentEstimator):
    """One whose cell is a controller with a memory."""

    controller: str = "lstm"
    n_hidden: int = 100
    n_slots: int = 128
    slot_size: int = 20
    n_read_heads: int = 1
    meta_learning_rate: float = 3e-3
    schedule: str = "one_cycle"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentEstimator._parameter_constraints,
        "controller": [StrOptions({"lstm", "feedforward"})],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "n_slots": [Interval(Integral, 1, None, closed="left")],
        "slot_size": [Interval(Integral, 1, None, closed="left")],
        "n_read_heads": [Interval(Integral, 1, None, closed="left")],
    }

    def _sizes(self) -> dict[str, Any]:
        """Return the arguments that every cell with a memory takes."""
        return {
            "controller": self.controller,
            "n_hidden": self.n_hidden,
            "n_slots": self.n_slots,
            "slot_size": self.slot_size,
            "n_read_heads": self.n_read_heads,
        }


@dataclass(kw_only=True, eq=False, repr=False)
class RecurrentClassifier(IncrementalClassifier, RecurrentEstimator):
    """A classifier whose support rows a recurrent cell reads."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        **RecurrentEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> IncrementalRecurrentLearner:
        backbone, cell = self._rows_and_cell(spec)
        return IncrementalRecurrentLearner(backbone, cell, spec.n_outputs, n_orders=self.n_orders)

    def predict_sequence(self, X: ArrayLike, y: ArrayLike) -> NDArray[Any]:
        """Predict the label of each row of a sequence before that label is shown.

        The rows are those of a new task, in the order in which they come. Before the first row of a
        class the network can but guess, and it may guess a class that it has not seen. The last
        task that was fitted stays as it is.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_rows, n_features), or n-D array
        y : array-like of shape (n_rows,)
            Labels; each is shown one step after its row.

        Returns
        -------
        predictions : ndarray of shape (n_rows,)
            Labels of ``y``.

        Raises
        ------
        NotFittedError
            When the estimator is neither meta-fitted nor fitted.
        ValueError
            Where ``fit`` raises one.
        """
        meta = self._meta if "_adapted" in vars(self) else self._user_meta()
        if meta is None:
            raise NotFittedError(
                f"predict_sequence needs a meta-fitted {type(self).__name__}; call meta_fit first."
            )
        self._check_parameters(meta)
        X, y = self._check_support(X, y, reset=False)
        self._check_row_shape(X, meta.spec.support_shape)
        learner = cast("RecurrentLearner", self._current_learner(meta))
        make = self._tensor_maker()
        labels, columns = encode_support(meta, make, y, where="the sequence")
        with torch.no_grad():
            outputs, _ = learner.read_sequence(make.support(X), labels, None)
        return self._decode(check_finite(outputs[0].double().cpu().numpy()), columns, "predict")


@dataclass(kw_only=True, eq=False, repr=False)
class RecurrentRegressor(FewShotRegressor, RecurrentEstimator):
    """A regressor whose support rows a recurrent cell reads."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotRegressor._parameter_constraints,
        **RecurrentEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> RecurrentLearner:
        backbone, cell = self._rows_and_cell(spec)
        return RecurrentLearner(
            backbone,
            cell,
            spec.n_outputs,
            n_orders=self.n_orders,
            loss=squared_error,
            average=mean_outputs,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class ProbabilisticRecurrentRegressor(ProbabilisticFewShotRegressor, RecurrentEstimator):
    """A regressor with a spread whose support rows a recurrent cell reads."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ProbabilisticFewShotRegressor._parameter_constraints,
        **RecurrentEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> RecurrentLearner:
        backbone, cell = self._rows_and_cell(spec)
        return RecurrentLearner(
            backbone,
            cell,
            spec.n_outputs,
            output=MeanAndStd(cell.n_outputs, spec.n_outputs),
            n_orders=self.n_orders,
            loss=gaussian_nll,
            average=mean_distribution,
        )

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(order_dependent=True, permutes_classes=False, spread=True)
