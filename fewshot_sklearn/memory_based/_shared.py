"""What the estimators of this family share: reading the support rows in their order."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .._incremental import IncrementalClassifier
from ..base import FewShotEstimator, FewShotRegressor, TaskSpec
from ..nn import IncrementalRecurrentLearner, RecurrentLearner, embedding_size
from ..nn.functional import squared_error
from ..nn.sequential import mean_outputs
from ..utils._sklearn import Integral, Interval
from ..utils._tags import FewShotTags


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
        raw = nn.Flatten() if self.backbone is None else None
        backbone = raw or self._build_backbone(spec.input_shape)
        size = embedding_size(backbone, spec.input_shape)
        return backbone, self._make_cell(size + spec.n_outputs)


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
