"""An optimizer that is a recurrent network, and is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..base import FewShotRegressor, TaskSpec
from ..nn import CoordinatewiseLearner, TaskNetwork, log_and_sign
from ..nn.coordinatewise import LOG_SCALE, Memory
from ..utils._sklearn import Integral, Interval
from ._shared import HeadClassifier, InnerStepsEstimator

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# The logit of a gate that is open.
_OPEN = 4.0


class LearnedOptimizerLearner(CoordinatewiseLearner):
    r"""Two layers of LSTM, one row for each weight, say how far the weight moves [1]_.

    .. math::
        (g_k, h_{k+1}) = m_\phi(\nabla_{\theta_k} L_S(\theta_k), h_k), \qquad
        \theta_{k+1} = \theta_k + \alpha g_k, \qquad
        \min_\phi \sum_t \frac{1}{K} \sum_{k=1}^K L_{Q_t}(\theta_k)

    Parameters
    ----------
    network : TaskNetwork
        theta_0 and the losses.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    n_hidden : int
        Width of both layers.
    learned_start : bool
        Learn theta_0 as well.

    References
    ----------
    .. [1] Andrychowicz et al. (2016). "Learning to learn by gradient descent by gradient
       descent." NeurIPS.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        n_hidden: int,
        learned_start: bool,
    ) -> None:
        super().__init__(network, n_inner_steps=n_inner_steps)
        self.requires_grad_(learned_start)  # so far the parameters are those of the network
        self.inner_learning_rate = inner_learning_rate
        self.numbers_per_weight = 14 * n_hidden
        cells = nn.LSTMCell(2, n_hidden), nn.LSTMCell(n_hidden, n_hidden)
        self.layers, self.output = nn.ModuleList(cells), nn.Linear(n_hidden, 1)
        begin_as_descent(*cells, self.output)

    def begin(self, theta: Tensor) -> Memory:
        """Return the hidden states and cells of both layers, all zero."""
        zero = theta.new_zeros(theta.numel(), self.output.in_features)
        return (zero, zero) * len(self.layers)

    def move(
        self, theta: Tensor, gradient: Tensor, losses: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Move every weight by what the optimizer makes of its gradients so far."""
        z, after = log_and_sign(gradient.flatten()), []
        for layer, cell in enumerate(self.layers):
            z, c = cell(z, memory[2 * layer : 2 * layer + 2])
            after += [z, c]
        return theta + self.inner_learning_rate * self.output(z).view(theta.shape), tuple(after)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean query loss of the weights after every step."""
        steps = self.trajectory(batch.x_support, batch.y_support, batch.support_mask)
        outputs = [self.predict(weights, batch.x_query) for weights in steps[1:] or steps]
        return torch.stack([self.network.query_losses(o, batch).mean() for o in outputs]).mean()


def begin_as_descent(first: nn.LSTMCell, second: nn.LSTMCell, output: nn.Linear) -> None:
    r"""Set one unit of each layer so that the output is near to minus the gradient.

    The unit forgets everything at each step. In the first layer its input gate is
    :math:`\sigma(\log |g|) = |g| / (1 + |g|)` and the sign of the gradient goes in; in the second
    it passes this on. The other units stay random, and the output all but ignores them.
    """
    with torch.no_grad():
        for cell in (first, second):
            for parameter in cell.parameters():
                parameter.unflatten(0, (4, -1))[:, 0] = 0
            # Gates in torch's order: input, forget, cell, output.
            gates = parameter.new_tensor([_OPEN, -_OPEN, 0.0, _OPEN])
            cell.bias_ih.unflatten(0, (4, -1))[:, 0] = gates
        first.bias_ih[0] = 0
        first.weight_ih[0, 0] = LOG_SCALE
        first.weight_ih[2 * first.hidden_size, 1] = 1
        second.weight_ih[2 * second.hidden_size, 0] = 1
        nn.init.uniform_(output.weight, -0.01, 0.01)
        nn.init.zeros_(output.bias)
        output.weight[0, 0] = -((1 + math.exp(-_OPEN)) ** 3) / math.tanh(1)


@dataclass(kw_only=True, eq=False, repr=False)
class _LearnedOptimizerEstimator(InnerStepsEstimator):
    """What the classifier and the regressor share."""

    inner_learning_rate: float = 0.03
    n_hidden: int = 20
    learned_start: bool = True

    _parameter_constraints: ClassVar[dict] = {
        **InnerStepsEstimator._parameter_constraints,
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "learned_start": ["boolean"],
    }

    def _make_learner(self, spec: TaskSpec) -> LearnedOptimizerLearner:
        return LearnedOptimizerLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            n_hidden=self.n_hidden,
            learned_start=self.learned_start,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class LearnedOptimizerClassifier(HeadClassifier, _LearnedOptimizerEstimator):
    """Learned optimizer: a recurrent network that trains the network of a task [1]_.

    In place of gradient descent a small LSTM, the same for every weight, turns the gradients that
    a weight has seen into its next move. The start is learned with it; ``learned_start=False``
    learns the optimizer alone, as the paper does. Prefer it to study learned optimizers, or where
    no rule written by hand descends well. Every weight runs the LSTM at every step, so use small
    networks: with 5,000 weights a step of one task costs some milliseconds.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.1
        A constant that scales the optimizer's output, whose size it sets. An adaptation parameter.
    n_hidden : int, default=20
        Width of both layers of the LSTM.
    learned_start : bool, default=True
        Learn the weights that every task starts from too. False: they stay as they were drawn.
    head : {"auto", "shared", "per_class"}, default="auto"
        Where the linear head starts. "shared": every class starts at the zero vector, so any
        number of classes works. "per_class": a vector of its own for each class, which fixes the
        number of classes and their order. "auto" takes "per_class" where the tasks share their
        labels and "shared" where labels are arbitrary per task.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    As in the paper, the optimizer is a two-layer LSTM that is the same for all weights, it reads
    the logarithm and the sign of a gradient, gradients are constants in the meta-gradient, and
    what is minimised is the mean loss over all steps. The paper takes each of these losses, like
    each gradient, on rows drawn anew; here the gradients are those of the support set and the
    losses those of the query set.

    Departures from the paper: every task starts from the same weights, learned ones, or with
    ``learned_start=False`` one random draw, where the paper draws a start for each; before
    meta-training one unit of the LSTM is set so that it follows the gradient with the rate
    ``inner_learning_rate``, where the paper's begins at random; the derivative goes through all
    steps, which are few, where the paper's is cut every 20 of 100.

    References
    ----------
    .. [1] Andrychowicz et al. (2016). "Learning to learn by gradient descent by gradient
       descent." NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import MLP, EpisodicTasks, LearnedOptimizerClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = LearnedOptimizerClassifier(
    ...     backbone=MLP(hidden_layer_sizes=(16,)), max_iter=20, random_state=0
    ... ).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **_LearnedOptimizerEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class LearnedOptimizerRegressor(FewShotRegressor, _LearnedOptimizerEstimator):
    """Learned optimizer: a recurrent network that trains the network of a task [1]_.

    In place of gradient descent a small LSTM, the same for every weight, turns the gradients that
    a weight has seen into its next move. The start is learned with it; ``learned_start=False``
    learns the optimizer alone, as the paper does. Prefer it to study learned optimizers, or where
    no rule written by hand descends well. Every weight runs the LSTM at every step, so use small
    networks: with 5,000 weights a step of one task costs some milliseconds.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.03
        A constant that scales the optimizer's output, whose size it sets. An adaptation parameter.
    n_hidden : int, default=20
        Width of both layers of the LSTM.
    learned_start : bool, default=True
        Learn the weights that every task starts from too. False: they stay as they were drawn.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    As in the paper, the optimizer is a two-layer LSTM that is the same for all weights, it reads
    the logarithm and the sign of a gradient, gradients are constants in the meta-gradient, and
    what is minimised is the mean loss over all steps. The paper takes each of these losses, like
    each gradient, on rows drawn anew; here the gradients are those of the support set and the
    losses those of the query set.

    Departures from the paper: every task starts from the same weights, learned ones, or with
    ``learned_start=False`` one random draw, where the paper draws a start for each; before
    meta-training one unit of the LSTM is set so that it follows the gradient with the rate
    ``inner_learning_rate``, where the paper's begins at random; the derivative goes through all
    steps, which are few, where the paper's is cut every 20 of 100; targets are standardised
    with the meta-training tasks' mean and scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Andrychowicz et al. (2016). "Learning to learn by gradient descent by gradient
       descent." NeurIPS.

    Examples
    --------
    >>> from fewshot_sklearn import MLP, LearnedOptimizerRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = LearnedOptimizerRegressor(
    ...     backbone=MLP(hidden_layer_sizes=(16,)), max_iter=60, meta_learning_rate=0.01,
    ...     random_state=0,
    ... ).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_LearnedOptimizerEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
