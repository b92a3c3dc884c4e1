"""ES-MAML: evolution strategies in place of the meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..base import FewShotRegressor, TaskSpec
from ..nn import NetworkLearner, TaskNetwork
from ..nn.functional import mask_absent_classes, task_mean
from ..nn.learner import State
from ..nn.outer_gradient import add_to_start
from ..utils._sklearn import Integral, Interval, Real, StrOptions
from ._shared import HeadClassifier, InnerStepsEstimator

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

Objective = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def accuracy(outputs: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return every task's share of rows whose class has the largest output: [T]."""
    right = outputs.argmax(dim=-1) == y.argmax(dim=-1)
    return task_mean(right.to(outputs.dtype), mask)


class ESMAMLLearner(NetworkLearner):
    r"""Learn weights from which a few gradient steps solve a task, by evolution strategies [1]_.

    With U(theta, t), the weights after the inner steps on task t, and a score F to be raised,

    .. math::
        \nabla_\theta \, \mathbb{E}_{g \sim N(0, I)} F_{Q_t}(U(\theta + \sigma g, t)) \approx
        \frac{1}{2 \sigma P} \sum_{p=1}^{P}
        \bigl[F_{Q_t}(U(\theta + \sigma g_{tp}, t)) - F_{Q_t}(U(\theta - \sigma g_{tp}, t))\bigr]
        \, g_{tp} .

    Parameters
    ----------
    network : TaskNetwork
        theta and the loss of the inner steps.
    objective : callable or None
        F: ``objective(outputs, y, mask)`` [T], which need not be differentiable. None is minus the
        loss.
    sigma : float
    n_perturbations : int
        P, antithetic pairs for each task.
    n_inner_steps : int
    inner_learning_rate : float

    References
    ----------
    .. [1] Song, Gao, Yang, Choromanski, Pacchiano, Tang (2020). "ES-MAML: simple Hessian-free
       meta learning." ICLR.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        objective: Objective | None,
        sigma: float,
        n_perturbations: int,
        n_inner_steps: int,
        inner_learning_rate: float,
    ) -> None:
        super().__init__(network)
        self.objective = objective
        self.sigma = sigma
        self.n_perturbations = n_perturbations
        self.n_inner_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate

    def adapt(
        self, x: Tensor, y: Tensor, mask: Tensor | None, start: Mapping[str, Tensor] | None = None
    ) -> State:
        """Take the inner steps from the shared start, or from where each task starts: U."""
        rates = self.network.rates(self.inner_learning_rate, self.n_inner_steps)
        return self.network.descend(rates, x, y, mask, start=start, first_order=True)

    def scores(self, batch: TaskBatch, start: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return every task's query score F [T] after the inner steps."""
        state = self.adapt(batch.x_support, batch.y_support, batch.support_mask, start)
        outputs = self.predict(state, batch.x_query)
        if self.objective is None:
            return -self.network.query_losses(outputs, batch)
        outputs = mask_absent_classes(outputs, batch.class_mask)
        scores = self.objective(outputs, batch.y_query, batch.query_mask)
        if scores.shape != (len(batch),):
            raise ValueError(
                "objective(outputs, y, mask) must return a score for each of the "
                f"{len(batch)} tasks, but its shape is {tuple(scores.shape)}; average over rows "
                "and outputs, not over tasks."
            )
        return scores.to(outputs.dtype)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the mean score over tasks."""
        return -self.scores(batch).mean()

    @torch.no_grad()
    def add_gradient(self, batch: TaskBatch, share: float) -> Tensor:
        """Add the estimate for some tasks, every perturbation of every task as one more task."""
        start = self.network.shared_start(batch.y_support)
        learned = {name: w for name, w in start.items() if w.requires_grad}
        gradient = {name: torch.zeros_like(w) for name, w in learned.items()}
        task = torch.arange(len(batch), device=batch.x_query.device)
        task, loss = task.repeat_interleave(self.n_perturbations), batch.x_query.new_zeros(())
        for piece in task.split(max(1, self.tasks_at_once(batch) // 2)):
            tasks = batch[piece]
            g = {n: torch.randn(len(piece), *w.shape).to(w) for n, w in learned.items()}
            up = self.scores(tasks, {n: w + self.sigma * g[n] for n, w in learned.items()})
            down = self.scores(tasks, {n: w - self.sigma * g[n] for n, w in learned.items()})
            slope = share * (up - down) / (2 * self.sigma * len(task))
            for name in gradient:
                gradient[name] -= torch.tensordot(slope, g[name], dims=1)
            loss -= share * (up + down).sum() / (2 * len(task))
        add_to_start(self.network, batch.y_support, gradient)
        return loss


@dataclass(kw_only=True, eq=False, repr=False)
class _ESMAMLEstimator(InnerStepsEstimator):
    """What ES-MAML's classifier and regressor share."""

    objective: Any = "loss"
    sigma: float = 0.1
    n_perturbations: int = 16

    _parameter_constraints: ClassVar[dict] = {
        **InnerStepsEstimator._parameter_constraints,
        "objective": [StrOptions({"loss"}), callable],
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "n_perturbations": [Interval(Integral, 1, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> ESMAMLLearner:
        named = {"loss": None, "accuracy": accuracy}
        known = isinstance(self.objective, str)
        return ESMAMLLearner(
            self._make_network(spec),
            objective=named[self.objective] if known else self.objective,
            sigma=self.sigma,
            n_perturbations=self.n_perturbations,
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class ESMAMLClassifier(HeadClassifier, _ESMAMLEstimator):
    """ES-MAML: weights to start from, learned from scores alone by evolution strategies [1]_.

    ``meta_fit`` tries random perturbations of the start, each adapted to its task, and moves
    towards those that scored well; ``fit`` takes ``n_inner_steps`` steps of gradient descent, as
    MAML does. Prefer it where what counts has no gradient, such as the accuracy or a cost from a
    table; for a differentiable loss MAML learns more from every iteration.

    Parameters
    ----------
    objective : {"loss", "accuracy"} or callable, default="loss"
        What meta-training raises on the query rows: minus the cross-entropy, the accuracy, or
        ``objective(outputs, y, mask)``, a score for each task [T], the higher the better. It gets
        the logits [T, Q, C], one-hot labels [T, Q, C], and a mask [T, Q], False on rows that are
        padding, or None; it need not be differentiable.
    sigma : float, default=0.1
        Standard deviation of the perturbations of every weight.
    n_perturbations : int, default=16
        Pairs of perturbations with opposite signs, for each task of a meta-iteration.
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter.
    inner_learning_rate : float, default=0.1
        Their step size. An adaptation parameter.
    head : {"auto", "shared", "per_class"}, default="auto"
        Where the linear head starts, as in :class:`MAMLClassifier`.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    ``meta_loss_curve_`` is minus the mean score at the perturbed starts.

    The paper leaves open how a task is adapted to, and in reinforcement learning does so by
    evolution strategies or hill climbing. Here it is gradient descent on the support loss, which
    has an exact gradient, so that only the outer estimate is random. Departure: the authors' code
    divides the scores by their standard deviation; with an optimizer that ignores the
    gradient's scale, such as Adam, that changes little.

    References
    ----------
    .. [1] Song, Gao, Yang, Choromanski, Pacchiano, Tang (2020). "ES-MAML: simple Hessian-free
       meta learning." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ESMAMLClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=5, n_query=5, random_state=0)
    >>> clf = ESMAMLClassifier(objective="accuracy", max_iter=20, random_state=0)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.meta_fit(tasks).fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **_ESMAMLEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
        "objective": [StrOptions({"loss", "accuracy"}), callable],
    }


@dataclass(kw_only=True, eq=False, repr=False)
class ESMAMLRegressor(FewShotRegressor, _ESMAMLEstimator):
    """ES-MAML: weights to start from, learned from scores alone by evolution strategies [1]_.

    ``meta_fit`` tries random perturbations of the start, each adapted to its task, and moves
    towards those that scored well; ``fit`` takes ``n_inner_steps`` steps of gradient descent, as
    MAML does. Prefer it where what counts has no gradient, such as the share of predictions that
    are near enough; for a differentiable loss MAML learns more from every iteration.

    Parameters
    ----------
    objective : {"loss"} or callable, default="loss"
        What meta-training raises on the query rows: minus the squared error, or
        ``objective(outputs, y, mask)``, a score for each task [T], the higher the better. It gets
        the predictions and targets [T, Q, C], standardised, and a mask [T, Q], False on rows that
        are padding, or None; it need not be differentiable.
    sigma : float, default=0.1
        Standard deviation of the perturbations of every weight.
    n_perturbations : int, default=16
        Pairs of perturbations with opposite signs, for each task of a meta-iteration.
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    As :class:`ESMAMLClassifier`. Targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Song, Gao, Yang, Choromanski, Pacchiano, Tang (2020). "ES-MAML: simple Hessian-free
       meta learning." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import ESMAMLRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = ESMAMLRegressor(max_iter=100, meta_learning_rate=0.01, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_ESMAMLEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
