"""Reptile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..base import FewShotRegressor, TaskSpec
from ..nn import NetworkLearner, TaskNetwork
from ..nn.functional import all_rows
from ..nn.inner_optimizers import InnerOptimizer, adam, sgd
from ..nn.learner import State
from ..nn.outer_gradient import add_to_start, loss_gradient
from ..nn.row_batches import draw_row_batches
from ..utils._sklearn import Integral, Interval, StrOptions
from ._shared import HeadClassifier, InnerStepsEstimator

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

Gradient = Callable[[State], tuple[State, Tensor]]
OPTIMIZERS: dict[str, Callable[[float], InnerOptimizer]] = {
    "sgd": sgd,
    "adam": partial(adam, beta1=0.0),
}


class ReptileLearner(NetworkLearner):
    r"""Move the start towards the weights that training on each task leads to [1]_.

    With :math:`U_t^k` for k steps of an optimizer on minibatches of task t,

    .. math::
        \theta \leftarrow \theta + \epsilon \,
            \frac{1}{T} \sum_t \bigl( U_t^k(\theta) - \theta \bigr).

    Parameters
    ----------
    network : TaskNetwork
        theta and the losses.
    n_inner_steps : int
        Steps of :meth:`adapt`.
    n_training_steps : int
        k.
    inner_learning_rate : float
        Step size of U.
    inner_optimizer : {"sgd", "adam"}
        Of U; Adam is without momentum.
    inner_batch_size : int or None
        Rows in a minibatch of U; None for all. :meth:`adapt` always takes all.

    References
    ----------
    .. [1] Nichol, Achiam, Schulman (2018). "On first-order meta-learning algorithms."
       arXiv:1803.02999.
    """

    # Beside the start: the gradient and the optimizer's two running means. No step is kept.
    n_inner_steps = 3

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        n_training_steps: int,
        inner_learning_rate: float,
        inner_optimizer: str,
        inner_batch_size: int | None,
    ) -> None:
        super().__init__(network)
        self.n_steps = n_inner_steps
        self.n_training_steps = n_training_steps
        self.inner_learning_rate = inner_learning_rate
        self.inner_optimizer = inner_optimizer
        self.inner_batch_size = inner_batch_size

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Train on all support rows in every step."""
        with torch.no_grad():
            return self.train_on_all(x, y, mask, self.n_steps)

    def train_on_all(self, x: Tensor, y: Tensor, mask: Tensor | None, n_steps: int) -> State:
        """Take steps on all rows of every task."""
        if self.inner_optimizer == "sgd":
            rates = self.network.rates(self.inner_learning_rate, n_steps)
            return self.network.descend(rates, x, y, mask)
        gradient = partial(self.network.gradient, x=x, y=y, mask=mask)
        return self.follow([gradient] * n_steps, y)

    def train_on_some(self, x: Tensor, y: Tensor, mask: Tensor | None, batch_size: int) -> State:
        """Take k steps, each on some random rows of every task, of all its classes."""
        kept = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        rows, drawn = draw_row_batches(kept, self.n_training_steps, batch_size)
        tasks = torch.arange(len(x), device=x.device).unsqueeze(1)

        def gradient(weights: State, k: int) -> tuple[State, Tensor]:
            chosen = tasks, rows[:, k]

            def loss(outputs: Tensor) -> Tensor:
                outputs = self.network.known_outputs(outputs, y, mask)
                return self.loss(outputs, y[chosen], drawn[:, k])

            return loss_gradient(self.network, weights, x[chosen], loss)

        return self.follow([partial(gradient, k=k) for k in range(self.n_training_steps)], y)

    def follow(self, gradients: Iterable[Gradient], y: Tensor) -> State:
        """Follow gradients from the start with the inner optimizer."""
        weights = self.network.start(y)
        optimizer = OPTIMIZERS[self.inner_optimizer](self.inner_learning_rate)
        memory = optimizer.init(weights)
        for gradient in gradients:
            moves, memory = optimizer.update(gradient(weights)[0], memory)
            weights = {name: w + moves[name] for name, w in weights.items()}
        return weights

    def add_gradient(self, batch: TaskBatch, share: float) -> Tensor:
        """Add the start minus the trained weights; return the loss of the rows after training."""
        x, y, mask = all_rows(batch)
        size = self.inner_batch_size
        with torch.no_grad():
            if size is None or size >= x.shape[1]:
                state = self.train_on_all(x, y, mask, self.n_training_steps)
            else:
                state = self.train_on_some(x, y, mask, size)
            outputs = self.network.known_outputs(self.predict(state, x), y, mask)
            loss = self.loss(outputs, y, mask).mean() * share
            start, trained = self.network.shared_start(y), self.network.mean_weights(state)
            moved = {name: share * (w - trained[name]) for name, w in start.items()}
        add_to_start(self.network, y, moved)
        return loss


@dataclass(kw_only=True, eq=False, repr=False)
class _ReptileEstimator(InnerStepsEstimator):
    """What Reptile's classifier and regressor share."""

    n_inner_steps: int = 50
    n_training_steps: int = 5
    inner_learning_rate: float = 1e-3
    inner_optimizer: str = "adam"
    inner_batch_size: int | None = 10
    meta_batch_size: int = 5
    meta_optimizer: str = "sgd"
    meta_learning_rate: float = 1.0
    schedule: str = "linear"
    clip_norm: float | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **InnerStepsEstimator._parameter_constraints,
        "n_training_steps": [Interval(Integral, 1, None, closed="left")],
        "inner_optimizer": [StrOptions(set(OPTIMIZERS))],
        "inner_batch_size": [Interval(Integral, 1, None, closed="left"), None],
    }

    def _make_learner(self, spec: TaskSpec) -> ReptileLearner:
        return ReptileLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            n_training_steps=self.n_training_steps,
            inner_learning_rate=self.inner_learning_rate,
            inner_optimizer=self.inner_optimizer,
            inner_batch_size=self.inner_batch_size,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class ReptileClassifier(HeadClassifier, _ReptileEstimator):
    """Reptile: a start that training on any task moves little [1]_.

    ``meta_fit`` trains on each task by itself and moves the start towards the weights that came
    out; ``fit`` takes ``n_inner_steps`` steps from it. It needs no second derivatives and no query
    set: support and query rows of a training task are alike. Prefer it where the tasks of
    meta-training have many rows, or where many inner steps are to follow; from few rows and in few
    steps MAML's start is the better one. A meta-iteration costs ``n_training_steps`` forward and
    backward passes.

    Parameters
    ----------
    n_inner_steps : int, default=50
        Steps that ``fit`` takes, on all support rows each. An adaptation parameter.
    n_training_steps : int, default=5
        Steps that meta-training takes on each task, on minibatches of its support and query rows.
    inner_learning_rate : float, default=0.001
        Step size of both. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        What takes the steps: Adam without momentum (``beta1=0``), as in the paper, or gradient
        descent.
    inner_batch_size : int or None, default=10
        Rows in a minibatch of meta-training; None takes all.
    %(head_parameter)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The outer step is the paper's: ``meta_optimizer="sgd"`` moves the start by
    ``meta_learning_rate`` times the mean displacement, and the schedule is linear to zero.
    ``meta_loss_curve_`` holds the loss of a task's rows after training on them.

    Departures from the paper: Adam begins each task anew, where the authors' program carries the
    running mean of squares on from task to task; ``fit`` takes all support rows in every step, so
    that their order does not matter; no batch normalisation; the "shared" head, which starts
    every class at the zero vector and which "per_class" undoes.

    References
    ----------
    .. [1] Nichol, Achiam, Schulman (2018). "On first-order meta-learning algorithms."
       arXiv:1803.02999.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ReptileClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=10, random_state=0)
    >>> clf = ReptileClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_ReptileEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class ReptileRegressor(FewShotRegressor, _ReptileEstimator):
    """Reptile: a start that training on any task moves little [1]_.

    ``meta_fit`` trains on each task by itself and moves the start towards the weights that came
    out; ``fit`` takes ``n_inner_steps`` steps on the squared error from it. Prefer it where tasks
    are variations of one function and have many rows in meta-training.

    Parameters
    ----------
    n_inner_steps : int, default=32
        Steps that ``fit`` takes, on all support rows each. An adaptation parameter.
    n_training_steps : int, default=5
        Steps that meta-training takes on each task, on minibatches of its support and query rows.
    inner_learning_rate : float, default=0.02
        Step size of both. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="sgd"
        What takes the steps: Adam without momentum (``beta1=0``) or gradient descent.
    inner_batch_size : int or None, default=10
        Rows in a minibatch of meta-training; None takes all.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The outer step is the paper's: ``meta_optimizer="sgd"`` moves the start by
    ``meta_learning_rate`` times the mean displacement, and the schedule is linear to zero.
    ``meta_loss_curve_`` holds the loss of a task's rows after training on them.

    Departures from the paper: Adam begins each task anew; ``fit`` takes all support rows in every
    step, so that their order does not matter; targets are standardised with the meta-training
    tasks' mean and scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Nichol, Achiam, Schulman (2018). "On first-order meta-learning algorithms."
       arXiv:1803.02999.

    Examples
    --------
    >>> from fewshot_sklearn import ReptileRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(n_query=20, random_state=0)
    >>> reg = ReptileRegressor(max_iter=100, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    # The authors' settings for sine waves.
    n_inner_steps: int = 32
    inner_learning_rate: float = 0.02
    inner_optimizer: str = "sgd"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_ReptileEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
