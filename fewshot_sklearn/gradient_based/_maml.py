"""Model-agnostic meta-learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..base import FewShotRegressor, TaskSpec
from ..nn import TaskNetwork
from ..nn.task_network import Rates
from ..utils._sklearn import Integral, Interval, StrOptions
from ._shared import DescentEstimator, DescentLearner, HeadClassifier, StepsLearner
from ._step_rates import LayerStepRates

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class MAMLLearner(StepsLearner, DescentLearner):
    r"""Learn the weights from which a few gradient steps solve a task [1]_.

    .. math::
        \theta_t^{(k+1)} = \theta_t^{(k)} - \alpha \nabla_\theta L_{S_t}(\theta_t^{(k)}), \qquad
        \min_\theta \sum_t L_{Q_t}(\theta_t^{(K)})

    Parameters
    ----------
    network : TaskNetwork
        theta and the losses.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    first_order : bool
        Leave out the derivative of the inner gradients (FOMAML).

    References
    ----------
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.
    """

    def rates(self) -> Rates:
        """Return the rates of the K steps."""
        return self.network.rates(self.inner_learning_rate, self.n_inner_steps)


class MAMLPlusPlusLearner(MAMLLearner):
    r"""MAML++ [1]_: the loss after every step, learned rates, and second derivatives later.

    .. math::
        \theta_{t,l}^{(k+1)} = \theta_{t,l}^{(k)}
            - \alpha_{kl} \nabla_{\theta_l} L_{S_t}(\theta_t^{(k)}), \qquad
        \min_{\theta, \alpha} \sum_t \sum_{k=1}^K v_k L_{Q_t}(\theta_t^{(k)})

    The weights v begin equal and move to the last step over the first iterations of
    meta-training. The learner counts them itself, in a buffer that is saved with the weights.

    Parameters
    ----------
    network, n_inner_steps, inner_learning_rate, first_order : as in :class:`MAMLLearner`
    learned_rates : bool
        Learn the rates of every layer in every step; otherwise all are ``inner_learning_rate``.
    multi_step_iter : int
        Iterations until v is at the last step.
    first_order_iter : int
        Iterations without the derivative of the inner gradients, before those with it.

    References
    ----------
    .. [1] Antoniou, Edwards, Storkey (2019). "How to train your MAML." ICLR.
    """

    n_meta_iter: Tensor

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        first_order: bool,
        learned_rates: bool,
        multi_step_iter: int,
        first_order_iter: int,
    ) -> None:
        super().__init__(
            network,
            n_inner_steps=n_inner_steps,
            inner_learning_rate=inner_learning_rate,
            first_order=first_order,
        )
        self.multi_step_iter, self.first_order_iter = multi_step_iter, first_order_iter
        self.layer_step_rates = (
            LayerStepRates(network, n_inner_steps, inner_learning_rate) if learned_rates else None
        )
        self.register_buffer("n_meta_iter", torch.zeros((), dtype=torch.int64))

    def rates(self) -> Rates:
        """Return the rates of the K steps, each the same for the weights of a layer."""
        if self.layer_step_rates is None:
            return super().rates()
        return self.layer_step_rates(self.n_inner_steps, self.inner_learning_rate)

    def step_weights(self) -> list[float]:
        """Return v [K] in this iteration, or [1] where the last step counts alone."""
        n_steps, done = self.n_inner_steps, int(self.n_meta_iter)
        if not self.training or done >= self.multi_step_iter or n_steps < 2:
            return [1.0]
        # Linear, and down to a floor only, as in the authors' code.
        early = max(1 - done / self.multi_step_iter, 0.03) / n_steps
        return [early] * (n_steps - 1) + [1 - (n_steps - 1) * early]

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean over tasks of the query losses after every step, weighted by v."""
        early = self.training and int(self.n_meta_iter) < self.first_order_iter
        given: Any = (self.rates(), batch.x_support, batch.y_support, batch.support_mask)
        options: Any = {"first_order": self.first_order or early}
        v = self.step_weights()
        if len(v) == 1:
            states = [self.network.descend(*given, **options)]
        else:
            states = self.network.trajectory(*given, **options)[1:]
        outputs = [self.predict(state, batch.x_query) for state in states]
        losses = torch.stack([self.network.query_losses(o, batch).mean() for o in outputs])
        return (losses * losses.new_tensor(v)).sum()

    def meta_gradient(self, batch: TaskBatch) -> Tensor:
        """Add the meta-gradient to every parameter's ``grad``, and count the iteration."""
        loss = super().meta_gradient(batch)
        self.n_meta_iter += 1
        return loss


@dataclass(kw_only=True, eq=False, repr=False)
class _MAMLEstimator(DescentEstimator):
    """What MAML's classifier and regressor share."""

    learned_rates: str | None = None
    multi_step_iter: int = 0
    first_order_iter: int = 0

    _learner_class = MAMLLearner
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DescentEstimator._parameter_constraints,
        "learned_rates": [StrOptions({"per_layer_per_step"}), None],
        "multi_step_iter": [Interval(Integral, 0, None, closed="left")],
        "first_order_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> DescentLearner:
        if not (self.learned_rates or self.multi_step_iter or self.first_order_iter):
            return super()._make_learner(spec)
        if self.learned_rates and not self.inner_learning_rate:
            raise ValueError(
                "inner_learning_rate is where learned_rates start, which must be above zero, got "
                f"{self.inner_learning_rate}; set it to 0.01 or so, or learned_rates to None."
            )
        return MAMLPlusPlusLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
            learned_rates=self.learned_rates is not None,
            multi_step_iter=self.multi_step_iter,
            first_order_iter=self.first_order_iter,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class MAMLClassifier(HeadClassifier, _MAMLEstimator):
    """Model-agnostic meta-learning: weights from which a few gradient steps solve a task [1]_.

    ``meta_fit`` learns a starting point; ``fit`` takes ``n_inner_steps`` steps of gradient descent
    from it. Prefer it where an embedding alone is not enough: tasks that weigh the features
    differently, or classes that are not clusters. A meta-iteration costs several times
    ProtoNet's, because it differentiates through the inner steps.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.1
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient (FOMAML): cheaper, nearly as good.
        It may change after ``meta_fit``, and acts in meta-training only.
    learned_rates : {"per_layer_per_step"} or None, default=None
        Learn a rate for every layer in every inner step, as MAML++ [2]_ does.
        ``inner_learning_rate`` is where they start; another value after meta-training scales all
        of them. Steps beyond those that were trained take the rates of the last.
    multi_step_iter : int, default=0
        Meta-iterations in which the query loss after every inner step counts, as in MAML++. The
        weights are equal at first and move linearly to the last step, which counts alone
        afterwards. It makes training steadier and costs a pass over the query rows a step. On
        mini-ImageNet the authors spend 15 % of the meta-iterations on it.
    first_order_iter : int, default=0
        Meta-iterations without second derivatives, before those with them, as in MAML++.
    %(head_parameter)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The "shared" head starts every class at the zero vector. A learned common vector :math:`w`
    would change nothing: :math:`w^T z` adds the same number to every logit of a row, which the
    softmax cancels, in the predictions and in every gradient. As all classes start equal,
    :math:`\\partial L / \\partial z = \\sum_c (p_c - y_c) w_c = 0`, so the first inner step moves
    the head alone and at least two steps are needed before the backbone adapts.

    Departures from the paper: no batch normalisation (the paper's is transductive: a prediction
    depends on the other query rows), and so none of MAML++'s batch statistics and weights a step;
    the "shared" head, which "per_class" undoes. MAML++ anneals its loss a step an epoch, here it
    is a step an iteration; its cosine schedule of the meta learning rate is left to ``schedule``.

    References
    ----------
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.
    .. [2] Antoniou, Edwards, Storkey (2019). "How to train your MAML." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, MAMLClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = MAMLClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **_MAMLEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class MAMLRegressor(FewShotRegressor, _MAMLEstimator):
    """Model-agnostic meta-learning: weights from which a few gradient steps solve a task [1]_.

    ``meta_fit`` learns a starting point; ``fit`` takes ``n_inner_steps`` steps of gradient descent
    on the squared error from it. Prefer it where tasks are variations of one function.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient (FOMAML): cheaper, nearly as good.
        It may change after ``meta_fit``, and acts in meta-training only.
    learned_rates : {"per_layer_per_step"} or None, default=None
        Learn a rate for every layer in every inner step, as MAML++ [2]_ does.
        ``inner_learning_rate`` is where they start; another value after meta-training scales all
        of them. Steps beyond those that were trained take the rates of the last.
    multi_step_iter : int, default=0
        Meta-iterations in which the query loss after every inner step counts, as in MAML++. The
        weights are equal at first and move linearly to the last step, which counts alone
        afterwards. It makes training steadier and costs a pass over the query rows a step. On
        mini-ImageNet the authors spend 15 % of the meta-iterations on it.
    first_order_iter : int, default=0
        Meta-iterations without second derivatives, before those with them, as in MAML++.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``. MAML++ anneals its loss a step an epoch, here it is a step
    an iteration.

    References
    ----------
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.
    .. [2] Antoniou, Edwards, Storkey (2019). "How to train your MAML." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import MAMLRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = MAMLRegressor(max_iter=300, meta_learning_rate=0.01, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_MAMLEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
