"""CAVIA: fast context adaptation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import FewShotClassifier, FewShotRegressor, TaskSpec
from ..nn import FiLMContext, InputContext, NetworkLearner, TaskNetwork
from ..nn.learner import State
from ..nn.task_map import has_convolutions
from ..utils._sklearn import Integral, Interval
from ..utils._tags import FewShotTags
from ._shared import InnerStepsEstimator


class CAVIALearner(NetworkLearner):
    r"""Learn a network whose context, a short vector, a few gradient steps adapt [1]_.

    .. math::
        \phi_t^{(0)} = 0, \qquad
        \phi_t^{(k+1)} = \phi_t^{(k)} - \alpha \nabla_\phi L_{S_t}(\phi_t^{(k)}, \theta), \qquad
        \min_\theta \sum_t L_{Q_t}(\phi_t^{(K)}, \theta)

    Parameters
    ----------
    network : TaskNetwork
        theta, but for the parameters of ``context``, and the losses.
    context : InputContext or FiLMContext
        How phi enters the network.
    n_context : int
        Width of phi.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    first_order : bool
        Leave out the derivative of the inner gradients.

    References
    ----------
    .. [1] Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019). "Fast context adaptation via
       meta-learning." ICML.
    """

    def __init__(
        self,
        network: TaskNetwork,
        context: nn.Module,
        *,
        n_context: int,
        n_inner_steps: int,
        inner_learning_rate: float,
        first_order: bool,
    ) -> None:
        super().__init__(network)
        self.context = context
        self.n_context = n_context
        self.n_inner_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.first_order = first_order

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Take K gradient steps on the context, from zero."""
        differentiable = torch.is_grad_enabled() and not self.first_order
        with torch.enable_grad():
            phi = x.new_zeros(len(x), self.n_context, requires_grad=True)
            for _ in range(self.n_inner_steps):
                outputs = self.network.known_outputs(self.outputs(phi, x), y, mask)
                # No task's loss depends on another's context.
                loss = self.loss(outputs, y, mask).sum()
                # With a graph in any case: without one torch 2.13 crashes where the scale and
                # shift of a channels-last group norm are all that a gradient is asked for.
                (gradient,) = torch.autograd.grad(loss, phi, create_graph=True)
                if not differentiable:
                    gradient = gradient.detach()
                phi = phi - self.inner_learning_rate * gradient
        return {"context": phi if differentiable else phi.detach()}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run each task's query rows through the shared network with its context."""
        return self.outputs(state["context"], x)

    def outputs(self, phi: Tensor, x: Tensor) -> Tensor:
        """Return the outputs [T, N, C] for contexts [T, P] and rows [T, N, *]."""
        return self.head(self.context(self.backbone, phi, x))  # type: ignore[misc]


@dataclass(kw_only=True, eq=False, repr=False)
class _CAVIAEstimator(InnerStepsEstimator):
    """What CAVIA's classifier and regressor share."""

    n_context: int = 5
    inner_learning_rate: float = 1.0
    first_order: bool = False

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        InnerStepsEstimator._adaptation_parameters | {"first_order"}
    )
    _parameter_constraints: ClassVar[dict] = {
        **InnerStepsEstimator._parameter_constraints,
        "n_context": [Interval(Integral, 1, None, closed="left")],
        "first_order": ["boolean"],
    }

    def _make_learner(self, spec: TaskSpec) -> CAVIALearner:
        if has_convolutions(self._build_backbone(spec.input_shape)):
            network = self._make_network(spec)
            context: nn.Module = FiLMContext(network.backbone, self.n_context)
        else:
            network, context = self._make_widened_network(spec), InputContext()
        return CAVIALearner(
            network,
            context,
            n_context=self.n_context,
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
        )

    def _make_widened_network(self, spec: TaskSpec) -> TaskNetwork:
        """Return a network for flat rows with the context behind their features."""
        width = torch.Size(spec.input_shape).numel() + self.n_context
        try:
            return self._make_network(replace(spec, input_shape=(width,)))
        except RuntimeError as error:
            raise ValueError(
                f"{type(self).__name__} appends n_context={self.n_context} values to each flat "
                f"row, so the backbone must take rows of {width} features, but it does not: "
                f"{error}. Give a specification such as MLP() or a callable, which are told the "
                "width, or a module that is made for it."
            ) from error


@dataclass(kw_only=True, eq=False, repr=False)
class CAVIAClassifier(FewShotClassifier, _CAVIAEstimator):
    """CAVIA: a shared network with a short context vector that gradient steps adapt [1]_.

    ``meta_fit`` learns one network for all tasks; ``fit`` finds the context, ``n_context`` numbers
    that enter the network beside the row, by a few steps of gradient descent. Prefer it to MAML
    where tasks differ in few ways: a task is described by a short vector, large networks
    do not overfit to a task, and the inner step size matters little. For any number of classes
    take MAML, whose head can adapt.

    Parameters
    ----------
    n_context : int, default=100
        Length of the context vector.
    n_inner_steps : int, default=2
        Gradient steps on the support set. An adaptation parameter.
    inner_learning_rate : float, default=1.0
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient. An adaptation parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Where the backbone has no convolution, the context is appended to the features of the flat row,
    as in the paper's regression; where it has one, the context modulates the third normalisation
    (the last one where there are fewer) feature-wise, as in the paper's image classification.

    The last layer is meta-learned and the same in every task. So the number of classes is
    that of meta-training, and classes that are arbitrary per task can only be told apart by what
    the context does to the embedding.

    Departures from the paper: no batch normalisation, which lets a prediction depend on the other
    queries; the modulation acts on the normalisation itself, before pooling instead of
    behind it; the first modulation is none instead of random.

    References
    ----------
    .. [1] Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019). "Fast context adaptation via
       meta-learning." ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn import CAVIAClassifier, GroupedTasks
    >>> rng = np.random.default_rng(0)
    >>> X, assay = rng.normal(size=(2000, 4)), np.arange(2000) % 40
    >>> y = np.where(X[:, 0] + rng.uniform(-1, 1, 40)[assay] > 0, "active", "inactive")
    >>> tasks = GroupedTasks(X, y, assay, n_support=16, random_state=0)
    >>> clf = CAVIAClassifier(max_iter=100, random_state=0).meta_fit(tasks[:30])
    >>> X_support, y_support, X_query, y_query = tasks[30]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.7
    True
    """

    n_context: int = 100
    n_inner_steps: int = 2

    _parameter_constraints: ClassVar[dict] = {
        **_CAVIAEstimator._parameter_constraints,
        **FewShotClassifier._parameter_constraints,
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(permutes_classes=False)


@dataclass(kw_only=True, eq=False, repr=False)
class CAVIARegressor(FewShotRegressor, _CAVIAEstimator):
    """CAVIA: a shared network with a short context vector that gradient steps adapt [1]_.

    ``meta_fit`` learns one network for all tasks; ``fit`` finds the context, ``n_context`` numbers
    that enter the network beside the row, by a few steps of gradient descent on the squared
    error. Prefer it to MAML where tasks are variations of one function with few parameters.

    Parameters
    ----------
    n_context : int, default=5
        Length of the context vector.
    n_inner_steps : int, default=1
        Gradient steps on the support set. An adaptation parameter.
    inner_learning_rate : float, default=1.0
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient. An adaptation parameter.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    Where the backbone has no convolution, the context is appended to the features of the flat row,
    as in the paper; where it has one, the context modulates the third normalisation (the last one
    where there are fewer) feature-wise, as in the paper's image classification.

    Departures from the paper: targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``; the gradient of a meta-iteration is clipped as a
    whole (``clip_norm``), not number by number for each task.

    References
    ----------
    .. [1] Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019). "Fast context adaptation via
       meta-learning." ICML.

    Examples
    --------
    >>> from fewshot_sklearn import CAVIARegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = CAVIARegressor(max_iter=300, meta_learning_rate=0.01, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    n_inner_steps: int = 1

    _parameter_constraints: ClassVar[dict] = {
        **_CAVIAEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
