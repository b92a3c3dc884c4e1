"""The LSTM whose cell state is the weights of a learner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import FewShotRegressor, TaskSpec
from ..nn import CoordinatewiseLearner, TaskNetwork, log_and_sign
from ..nn.coordinatewise import Memory
from ..utils._sklearn import Integral, Interval, Real
from ._shared import HeadClassifier, InnerStepsEstimator


class LSTMMetaLearner(CoordinatewiseLearner):
    r"""An LSTM whose cell state is the weights of a task's network [1]_.

    .. math::
        \theta_k = f_k \circ \theta_{k-1} - i_k \circ \nabla_{\theta_{k-1}} L_k, \qquad
        \min \sum_t L_{Q_t}(\theta_K)

    Parameters
    ----------
    network : TaskNetwork
        theta_0, the first cell state, and the losses.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        What the input gates i_k are near to before meta-training.
    n_hidden : int
        Width of the first LSTM.

    References
    ----------
    .. [1] Ravi, Larochelle (2017). "Optimization as a model for few-shot learning." ICLR.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        n_hidden: int,
    ) -> None:
        super().__init__(network, n_inner_steps=n_inner_steps)
        self.numbers_per_weight = 10 * n_hidden
        self.lstm = nn.LSTMCell(4, n_hidden)
        self.input_gate = nn.Linear(n_hidden + 2, 1)
        self.forget_gate = nn.Linear(n_hidden + 2, 1)
        for module in (self.lstm, self.input_gate, self.forget_gate):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -0.01, 0.01)
        # So that it begins as gradient descent.
        odds = inner_learning_rate / (1 - inner_learning_rate)
        nn.init.constant_(self.input_gate.bias, math.log(odds))
        nn.init.uniform_(self.forget_gate.bias, 4.0, 5.0)

    def begin(self, theta: Tensor) -> Memory:
        """Return the hidden state and cell of the first LSTM and both gates, all zero."""
        hidden = theta.new_zeros(theta.numel(), self.lstm.hidden_size)
        gate = theta.new_zeros(theta.shape)
        return hidden, hidden, gate, gate

    def move(
        self, theta: Tensor, gradient: Tensor, losses: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Take a step with gates of its own for every weight."""
        hidden, cell, i, f = memory
        # The first LSTM reads the gradient and the loss, the gates its output:
        loss = log_and_sign(losses).unsqueeze(1).expand(*gradient.shape, 2)
        row = torch.cat([log_and_sign(gradient), loss], dim=-1).flatten(0, 1)
        hidden, cell = self.lstm(row, (hidden, cell))
        h = hidden.view(*theta.shape, -1)
        # i_k = sigmoid(W_I [h, theta_{k-1}, i_{k-1}] + b_I), f_k likewise
        i = self._gate(self.input_gate, h, theta, i)
        f = self._gate(self.forget_gate, h, theta, f)
        # c_k = f_k c_{k-1} + i_k c~_k, with c = theta and c~ = -gradient
        return f * theta - i * gradient, (hidden, cell, i, f)

    @staticmethod
    def _gate(layer: nn.Linear, h: Tensor, theta: Tensor, before: Tensor) -> Tensor:
        row = torch.cat([h, theta.unsqueeze(-1), before.unsqueeze(-1)], dim=-1)
        return layer(row).squeeze(-1).sigmoid()


@dataclass(kw_only=True, eq=False, repr=False)
class _LSTMMetaLearnerEstimator(InnerStepsEstimator):
    """What the classifier and the regressor share."""

    n_hidden: int = 20

    # The rate is where the gates begin, so it acts in meta-training alone.
    _adaptation_parameters: ClassVar[frozenset[str]] = (
        InnerStepsEstimator._adaptation_parameters - {"inner_learning_rate"}
    )
    _parameter_constraints: ClassVar[dict] = {
        **InnerStepsEstimator._parameter_constraints,
        "inner_learning_rate": [Interval(Real, 0, 1, closed="neither")],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> LSTMMetaLearner:
        return LSTMMetaLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            n_hidden=self.n_hidden,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMMetaLearnerClassifier(HeadClassifier, _LSTMMetaLearnerEstimator):
    """LSTM meta-learner: a learned start and a learned rate for every weight and step [1]_.

    An LSTM takes the steps that gradient descent takes in MAML. Its cell state is the weights of
    the task's network, its input gate the step size of each weight, its forget gate how much of
    the weight is kept; both are learned, with the start. Prefer it where a few steps have to
    suffice and no single step size fits. Every weight runs an LSTM of its own at every step, so
    use small networks: with 5,000 weights a step of one task costs some milliseconds.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it, but the gates were not trained for them.
    inner_learning_rate : float, default=0.1
        What the input gates are near to before meta-training.
    n_hidden : int, default=20
        Width of the first LSTM, which reads the gradients and the losses.
    head : {"auto", "shared", "per_class"}, default="auto"
        Where the linear head starts. "shared": every class starts at the zero vector, so any
        number of classes works. "per_class": a learned vector for each class, as in the paper,
        which fixes the number of classes and their order. "auto" takes "per_class" where the
        tasks share their labels and "shared" where labels are arbitrary per task.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    As in the paper, gradients and losses are constants in the meta-gradient, the meta-learner's
    weights are shared by all weights of the network, and the forget gates begin near one.

    Departures from the paper: every step sees the whole support set, where the paper has batches of
    it; the input gates begin near ``inner_learning_rate``, where the authors' begin near 0.01; no
    batch normalisation, neither in the network, where the paper's averages statistics over
    tasks, nor in the gates; the "shared" head, which "per_class" undoes.

    References
    ----------
    .. [1] Ravi, Larochelle (2017). "Optimization as a model for few-shot learning." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import MLP, EpisodicTasks, LSTMMetaLearnerClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = LSTMMetaLearnerClassifier(
    ...     backbone=MLP(hidden_layer_sizes=(16,)), max_iter=20, random_state=0
    ... ).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **_LSTMMetaLearnerEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
        "inner_learning_rate": [Interval(Real, 0, 1, closed="neither")],
    }


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMMetaLearnerRegressor(FewShotRegressor, _LSTMMetaLearnerEstimator):
    """LSTM meta-learner: a learned start and a learned rate for every weight and step [1]_.

    An LSTM takes the steps that gradient descent takes in MAML. Its cell state is the weights of
    the task's network, its input gate the step size of each weight, its forget gate how much of
    the weight is kept; both are learned, with the start. Prefer it where a few steps have to
    suffice and no single step size fits. Every weight runs an LSTM of its own at every step, so
    use small networks: with 5,000 weights a step of one task costs some milliseconds.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it, but the gates were not trained for them.
    inner_learning_rate : float, default=0.01
        What the input gates are near to before meta-training.
    n_hidden : int, default=20
        Width of the first LSTM, which reads the gradients and the losses.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    As in the paper, gradients and losses are constants in the meta-gradient, the meta-learner's
    weights are shared by all weights of the network, and the forget gates begin near one.

    Departures from the paper: it has no regression; every step sees the whole support set, where
    the paper has batches of it; targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``; no batch normalisation.

    References
    ----------
    .. [1] Ravi, Larochelle (2017). "Optimization as a model for few-shot learning." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import MLP, LSTMMetaLearnerRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = LSTMMetaLearnerRegressor(
    ...     backbone=MLP(hidden_layer_sizes=(16,)), max_iter=60, meta_learning_rate=0.01,
    ...     random_state=0,
    ... ).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_LSTMMetaLearnerEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
