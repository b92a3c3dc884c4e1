"""What the estimators of this family share: the network, its head and the inner steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..base import FewShotClassifier, FewShotEstimator, TaskSpec
from ..nn import NetworkLearner, TaskNetwork, embedding_size, task_network
from ..nn.functional import cross_entropy, squared_error
from ..nn.learner import State
from ..nn.task_network import Rates, refuse_written_buffers
from ..utils._sklearn import Integral, Interval, Real, StrOptions
from ..utils._tags import FewShotTags

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(FewShotEstimator):
    """A few-shot estimator whose tasks have networks of their own."""

    def _make_network(self, spec: TaskSpec) -> TaskNetwork:
        """Return a new network with the head that the parameters ask for."""
        backbone = self._build_backbone(spec.input_shape)
        n_features = embedding_size(backbone, spec.input_shape)
        head = nn.Linear(n_features, spec.n_outputs) if self._has_fixed_head(spec) else None
        loss = cross_entropy if self._estimator_type_is_classifier else squared_error
        network = task_network(backbone, head, n_features=n_features, loss=loss)
        refuse_written_buffers(backbone, spec.input_shape)
        return network

    def _has_fixed_head(self, spec: TaskSpec) -> bool:
        """Say whether every output has a learned start of its own."""
        return True


@dataclass(kw_only=True, eq=False, repr=False)
class InnerStepsEstimator(NetworkEstimator):
    """One that takes gradient steps on the support set."""

    n_inner_steps: int = 5
    inner_learning_rate: float = 0.01

    _adaptation_parameters: ClassVar[frozenset[str]] = FewShotEstimator._adaptation_parameters | {
        "n_inner_steps",
        "inner_learning_rate",
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "n_inner_steps": [Interval(Integral, 0, None, closed="left")],
        "inner_learning_rate": [Interval(Real, 0, None, closed="left")],
    }


class StepsLearner(NetworkLearner):
    """One whose tasks descend from the shared start, at rates that a subclass chooses.

    Attributes
    ----------
    first_order : bool
        Leave out the derivative of the inner gradients; False by default.
    """

    first_order: bool = False

    def rates(self) -> Rates:
        """Return how far each weight moves in each step."""
        raise NotImplementedError

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Take gradient steps from the shared start."""
        return self.network.descend(self.rates(), x, y, mask, first_order=self.first_order)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean over tasks of the query loss after the steps."""
        return self.network.outer_loss(self.rates(), batch, first_order=self.first_order)


class DescentLearner(NetworkLearner):
    """One that descends on the support loss, through whose steps the outer loss is differentiated.

    Parameters
    ----------
    network : TaskNetwork
        Where the descent starts, and the losses.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    first_order : bool
        Leave out the derivative of the inner gradients.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        first_order: bool,
    ) -> None:
        super().__init__(network)
        self.n_inner_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.first_order = first_order


@dataclass(kw_only=True, eq=False, repr=False)
class DescentEstimator(InnerStepsEstimator):
    """An estimator with a :class:`DescentLearner`, which a method names."""

    first_order: bool = False

    _learner_class: ClassVar[type[DescentLearner]]
    _adaptation_parameters: ClassVar[frozenset[str]] = (
        InnerStepsEstimator._adaptation_parameters | {"first_order"}
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **InnerStepsEstimator._parameter_constraints,
        "first_order": ["boolean"],
    }

    def _make_learner(self, spec: TaskSpec) -> DescentLearner:
        return self._learner_class(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class HeadClassifier(FewShotClassifier, NetworkEstimator):
    """A classifier that has the parameter ``head``."""

    head: str = "auto"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotClassifier._parameter_constraints,
        "head": [StrOptions({"auto", "shared", "per_class"})],
    }

    def _has_fixed_head(self, spec: TaskSpec) -> bool:
        return self._fixes_classes(spec.shared_classes)

    def _fixes_classes(self, shared_classes: bool) -> bool:
        return shared_classes if self.head == "auto" else self.head == "per_class"

    def __fewshot_tags__(self) -> FewShotTags:
        meta = self._user_meta()
        shared_classes = meta is not None and meta.spec.shared_classes
        return FewShotTags(permutes_classes=not self._fixes_classes(shared_classes))
