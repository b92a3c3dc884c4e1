"""Meta-learning with implicit gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..base import FewShotRegressor, TaskSpec
from ..nn import NetworkLearner, TaskNetwork
from ..nn.conjugate_gradients import conjugate_gradients
from ..nn.learner import State
from ..nn.outer_gradient import add_to_start, loss_gradient
from ..utils._sklearn import Integral, Interval, Real
from ._shared import HeadClassifier, InnerStepsEstimator

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class IMAMLLearner(NetworkLearner):
    r"""Stay near the start as a task is learned, and differentiate the optimum [1]_.

    .. math::
        \theta_t^*(\theta) = \arg\min_\phi L_{S_t}(\phi)
            + \frac{\lambda}{2} \lVert \phi - \theta \rVert^2, \qquad
        \nabla_\theta L_{Q_t}(\theta_t^*(\theta)) =
            \Bigl( I + \frac{1}{\lambda} \nabla^2 L_{S_t}(\theta_t^*) \Bigr)^{-1}
            \nabla L_{Q_t}(\theta_t^*)

    Parameters
    ----------
    network : TaskNetwork
        theta and the losses.
    n_inner_steps : int
        Steps of gradient descent towards the optimum.
    inner_learning_rate : float
        Their size.
    proximal_strength : float
        lambda.
    n_cg_steps : int
        Steps of conjugate gradients on the linear system. Without any its matrix counts as I.
    cg_damping : float
        Added to lambda in the linear system, and only there.

    References
    ----------
    .. [1] Rajeswaran, Finn, Kakade, Levine (2019). "Meta-learning with implicit gradients."
       NeurIPS.
    """

    # The query's gradient and five vectors of conjugate gradients. No step is kept.
    n_inner_steps = 6

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        proximal_strength: float,
        n_cg_steps: int,
        cg_damping: float,
    ) -> None:
        super().__init__(network)
        self.n_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.proximal_strength = proximal_strength
        self.n_cg_steps = n_cg_steps
        self.cg_damping = cg_damping

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Descend on the support loss plus the squared distance from the start (eq. 3)."""
        with torch.no_grad():
            weights = start = self.network.start(y)
            for _ in range(self.n_steps):
                gradient, _ = self.network.gradient(weights, x, y, mask)
                weights = {
                    name: w
                    - self.inner_learning_rate
                    * (gradient[name] + self.proximal_strength * (w - start[name]))
                    for name, w in weights.items()
                }
        return weights

    def add_gradient(self, batch: TaskBatch, share: float) -> Tensor:
        """Add the implicit meta-gradient (eq. 6) and return the query loss."""
        support = batch.x_support, batch.y_support, batch.support_mask
        optimum = self.adapt(*support)
        query_losses = partial(self.network.query_losses, batch=batch)
        outer, losses = loss_gradient(self.network, optimum, batch.x_query, query_losses)
        hessian = self.network.curvature(optimum, *support)
        strength = self.proximal_strength + self.cg_damping

        def product(v: State) -> State:
            image = hessian(v)
            return {name: v[name] + image[name] / strength for name in v}

        implicit = conjugate_gradients(product, outer, self.n_cg_steps)
        mean = {name: g.mean(dim=0) * share for name, g in implicit.items()}
        add_to_start(self.network, batch.y_support, mean)
        return losses.mean() * share


@dataclass(kw_only=True, eq=False, repr=False)
class _IMAMLEstimator(InnerStepsEstimator):
    """What the classifier and the regressor share."""

    n_inner_steps: int = 16
    proximal_strength: float = 2.0
    n_cg_steps: int = 5
    cg_damping: float = 22.0

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        InnerStepsEstimator._adaptation_parameters | {"proximal_strength"}
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **InnerStepsEstimator._parameter_constraints,
        "proximal_strength": [Interval(Real, 0, None, closed="neither")],
        "n_cg_steps": [Interval(Integral, 0, None, closed="left")],
        "cg_damping": [Interval(Real, 0, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> IMAMLLearner:
        return IMAMLLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            proximal_strength=self.proximal_strength,
            n_cg_steps=self.n_cg_steps,
            cg_damping=self.cg_damping,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class IMAMLClassifier(HeadClassifier, _IMAMLEstimator):
    """Implicit MAML: a start near which every task has a good solution [1]_.

    ``fit`` minimises the support loss plus a penalty on the distance from a learned start;
    ``meta_fit`` differentiates the minimum itself, not the steps that led to it, so its memory
    does not grow with them. Prefer it to MAML where many inner steps are wanted.

    Parameters
    ----------
    n_inner_steps : int, default=16
        Gradient steps towards the minimum. An adaptation parameter.
    inner_learning_rate : float, default=0.1
        Their step size. An adaptation parameter.
    proximal_strength : float, default=2.0
        lambda, the weight of half the squared distance from the start. The larger, the nearer to
        the start the weights stay. An adaptation parameter.
    n_cg_steps : int, default=5
        Steps of conjugate gradients on the linear system of the meta-gradient, each about two
        passes over the support rows. None of them, 0, leaves the second derivatives out.
    cg_damping : float, default=22.0
        Added to lambda in that system. 0 is the paper's formula, which needs inner steps that
        arrive at a minimum; a large value approaches the first-order gradient.
    %(head_parameter)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The meta-gradient is that of the minimum, so it is exact only where the inner steps arrive
    there and ``cg_damping=0``. A network after a few steps bends down along some directions, where
    the undamped system has no useful solution; conjugate gradients that meet a direction of
    negative curvature stop for that task with what they have.

    Departures from the paper: the damping, which the authors' program has too, of 22 for lambda 2
    in these units; conjugate gradients start from the right-hand side, so that ``n_cg_steps=0`` is
    the first-order gradient; gradient descent is the only inner solver; no batch normalisation;
    the "shared" head, which starts every class at the zero vector and which "per_class" undoes.

    References
    ----------
    .. [1] Rajeswaran, Finn, Kakade, Levine (2019). "Meta-learning with implicit gradients."
       NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, IMAMLClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = IMAMLClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_IMAMLEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class IMAMLRegressor(FewShotRegressor, _IMAMLEstimator):
    """Implicit MAML: a start near which every task has a good solution [1]_.

    ``fit`` minimises the squared error plus a penalty on the distance from a learned start;
    ``meta_fit`` differentiates the minimum itself, not the steps that led to it, so its memory
    does not grow with them. Prefer it to MAML where many inner steps are wanted.

    Parameters
    ----------
    n_inner_steps : int, default=16
        Gradient steps towards the minimum. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    proximal_strength : float, default=2.0
        lambda, the weight of half the squared distance from the start. The larger, the nearer to
        the start the weights stay. An adaptation parameter.
    n_cg_steps : int, default=5
        Steps of conjugate gradients on the linear system of the meta-gradient, each about two
        passes over the support rows. None of them, 0, leaves the second derivatives out.
    cg_damping : float, default=22.0
        Added to lambda in that system. 0 is the paper's formula, which needs inner steps that
        arrive at a minimum; a large value approaches the first-order gradient.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The meta-gradient is that of the minimum, so it is exact only where the inner steps arrive
    there and ``cg_damping=0``. A network after a few steps bends down along some directions, where
    the undamped system has no useful solution; conjugate gradients that meet a direction of
    negative curvature stop for that task with what they have.

    Departures from the paper: the damping, which the authors' program has too; conjugate gradients
    start from the right-hand side, so that ``n_cg_steps=0`` is the first-order gradient; targets
    are standardised with the meta-training tasks' mean and scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Rajeswaran, Finn, Kakade, Levine (2019). "Meta-learning with implicit gradients."
       NeurIPS.

    Examples
    --------
    >>> from fewshot_sklearn import IMAMLRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = IMAMLRegressor(max_iter=30, meta_learning_rate=0.01, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_IMAMLEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
