"""Body only update in the inner loop: the head stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..base import FewShotClassifier, FewShotRegressor
from ..nn.task_network import Rates
from ..utils._tags import FewShotTags
from ._shared import DescentEstimator, DescentLearner, StepsLearner


class BOILLearner(StepsLearner, DescentLearner):
    r"""Learn a head h, and the body from which a few gradient steps bring a task's rows to it [1]_.

    .. math::
        \theta_t^{(k+1)} = \theta_t^{(k)} - \alpha \nabla_\theta L_{S_t}(\theta_t^{(k)}, h), \qquad
        \min_{\theta, h} \sum_t L_{Q_t}(\theta_t^{(K)}, h)

    Parameters
    ----------
    network : TaskNetwork
        theta, h and the losses. It has a learned head: with zeros for h the body gets no gradient.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    first_order : bool
        Leave out the derivative of the inner gradients.

    References
    ----------
    .. [1] Oh, Yoo, Kim, Yun (2021). "BOIL: Towards representation change for few-shot learning."
       ICLR.
    """

    def rates(self) -> Rates:
        """Return the rates of the K steps of the body."""
        body = [f"backbone.{name}" for name, _ in self.backbone.named_parameters()]
        return self.network.rates(self.inner_learning_rate, self.n_inner_steps, body)


@dataclass(kw_only=True, eq=False, repr=False)
class BOILClassifier(FewShotClassifier, DescentEstimator):
    """Body only update in the inner loop: MAML whose gradient steps leave the last layer [1]_.

    ``meta_fit`` learns a vector for each class and the start of the backbone, ``fit`` takes
    ``n_inner_steps`` steps of gradient descent with the backbone, which move a class's rows to its
    vector. Prefer it to MAML where the new tasks come from another domain than those of
    meta-training, so that the embedding itself has to change. It costs as much as MAML.

    Parameters
    ----------
    n_inner_steps : int, default=1
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.5
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient: cheaper. It may change after
        ``meta_fit``, and acts in meta-training only.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The number of classes is that of meta-training: each has a learned vector, which no step
    moves. Were they zero, or equal, no step would move the backbone either.

    Departures from the paper: no batch normalisation (the paper's is transductive).

    References
    ----------
    .. [1] Oh, Yoo, Kim, Yun (2021). "BOIL: Towards representation change for few-shot learning."
       ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import BOILClassifier, EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = BOILClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    n_inner_steps: int = 1
    inner_learning_rate: float = 0.5

    _learner_class = BOILLearner
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DescentEstimator._parameter_constraints,
        **FewShotClassifier._parameter_constraints,
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(permutes_classes=False)


@dataclass(kw_only=True, eq=False, repr=False)
class BOILRegressor(FewShotRegressor, DescentEstimator):
    """Body only update in the inner loop: MAML whose gradient steps leave the last layer [1]_.

    ``meta_fit`` learns a linear model and the start of the features below it, ``fit`` takes
    ``n_inner_steps`` steps of gradient descent on the squared error with the features. Prefer it
    where tasks differ in the features they need more than in how these are combined.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient: cheaper. It may change after
        ``meta_fit``, and acts in meta-training only.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The paper has classification only; the regressor is the same algorithm with the squared error,
    as MAML's is. Targets are standardised with the meta-training tasks' mean and scale unless
    ``normalize_y=False``.

    References
    ----------
    .. [1] Oh, Yoo, Kim, Yun (2021). "BOIL: Towards representation change for few-shot learning."
       ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import BOILRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = BOILRegressor(max_iter=300, meta_learning_rate=0.003, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[3]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _learner_class = BOILLearner
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DescentEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
