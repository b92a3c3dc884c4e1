"""Fine-tuning: pre-training on all tasks, then training of a new head, or of all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..base import FewShotClassifier, FewShotRegressor, TaskSpec
from ..nn import LinearHead, task_network
from ..nn.functional import cross_entropy, squared_error
from ..nn.inner_optimizers import InnerOptimizer, minimize
from ..nn.learner import State
from ..utils._sklearn import StrOptions
from ._inner_training import _InnerTrainingEstimator
from ._pretraining import PretrainedLearner, _PretrainedEstimator


class FineTuneLearner(PretrainedLearner):
    r"""Train a new linear head on the support set, alone or with the pre-trained backbone [1]_.

    .. math::
        \min_{W_t, b_t, \phi_t} L_{S_t}(W_t^\top f_{\phi_t}(x) + b_t), \qquad
        W_t^{(0)} = 0, \quad b_t^{(0)} = 0, \quad \phi_t^{(0)} = \phi

    Parameters
    ----------
    optimizer : InnerOptimizer
    n_inner_steps : int
        Its steps, each on the whole support set.
    fine_tune : {"all", "head"}
        "head" leaves phi as pre-training left it.
    **pretraining
        The parameters of :class:`PretrainedLearner`.

    References
    ----------
    .. [1] Chen, Liu, Kira, Wang, Huang (2019). "A closer look at few-shot classification." ICLR.
    """

    def __init__(
        self,
        *,
        optimizer: InnerOptimizer,
        n_inner_steps: int,
        fine_tune: str,
        **pretraining: Any,
    ) -> None:
        super().__init__(**pretraining)
        self.optimizer = optimizer
        self.n_inner_steps = n_inner_steps
        self.fine_tune = fine_tune
        trained = self.backbone if fine_tune == "all" else nn.Identity()
        n_features: int = self.head.linear.in_features  # type: ignore[union-attr,assignment]
        self.network = task_network(trained, None, n_features=n_features, loss=self.loss)

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Train the network of each task."""
        rows = self.frozen(x)
        return minimize(self.network, self.optimizer, rows, y, mask, n_steps=self.n_inner_steps)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run each task's query rows through its own network."""
        return self.network.forward(state, self.frozen(x))

    def frozen(self, x: Tensor) -> Tensor:
        """Return what the trained layers see of rows: themselves, or their frozen embeddings."""
        return x if self.fine_tune == "all" else self.embed(self.backbone, x)


@dataclass(kw_only=True, eq=False, repr=False)
class _FineTuneEstimator(_InnerTrainingEstimator, _PretrainedEstimator):
    """What the classifier and the regressor share."""

    fine_tune: str = "all"

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        _InnerTrainingEstimator._adaptation_parameters | {"fine_tune"}
    )
    _parameter_constraints: ClassVar[dict] = {
        **_InnerTrainingEstimator._parameter_constraints,
        "fine_tune": [StrOptions({"all", "head"})],
    }

    def _make_learner(self, spec: TaskSpec) -> FineTuneLearner:
        loss = cross_entropy if self._estimator_type_is_classifier else squared_error
        return FineTuneLearner(
            fine_tune=self.fine_tune,
            **self._inner_training(),
            **self._pretraining(spec, LinearHead),
            loss=loss,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class FineTuneClassifier(FewShotClassifier, _FineTuneEstimator):
    """Pre-train on all tasks, then fine-tune the network on each task [1]_ [2]_.

    ``meta_fit`` trains the backbone with a linear head on all classes of the training tasks at
    once, or with a head for each task where tasks have classes of their own; ``fit`` puts a new
    head on it and goes on training on the support set, all layers or the head alone. Use it as
    the yardstick of any method that learns a start for gradient steps: it shows what of that
    ordinary transfer learning has too.

    Parameters
    ----------
    fine_tune : {"all", "head"}, default="all"
        The layers that ``fit`` trains. An adaptation parameter.
    n_inner_steps : int, default=50
        Steps of the optimizer, each on the whole support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        The optimizer of ``fit``, without momentum beyond Adam's own and without weight decay. An
        adaptation parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The new head starts at zero: no class is preferred, there can be any number of them, and a
    task has one result. While it is zero no gradient reaches the backbone, so that the first
    step moves the head alone.

    Departures from the papers: the head starts at zero instead of at random, and a step takes the
    whole support set instead of four rows; pre-training draws its rows by tasks.

    References
    ----------
    .. [1] Chen, Liu, Kira, Wang, Huang (2019). "A closer look at few-shot classification." ICLR.
    .. [2] Dhillon, Chaudhari, Ravichandran, Soatto (2020). "A baseline for few-shot image
       classification." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, FineTuneClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=5, n_query=5, random_state=0)
    >>> clf = FineTuneClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_FineTuneEstimator._parameter_constraints,
        **FewShotClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class FineTuneRegressor(FewShotRegressor, _FineTuneEstimator):
    """Pre-train on all tasks, then fine-tune the network on each task.

    ``meta_fit`` trains the backbone with a linear head for each of the training tasks; ``fit``
    puts a new head on it and goes on training on the support set, all layers or the head alone.
    Use it as the yardstick of any method that learns a start for gradient steps.

    Parameters
    ----------
    fine_tune : {"all", "head"}, default="all"
        The layers that ``fit`` trains. An adaptation parameter.
    n_inner_steps : int, default=50
        Steps of the optimizer, each on the whole support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        The optimizer of ``fit``, without momentum beyond Adam's own and without weight decay. An
        adaptation parameter.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The new head starts at zero, that is, at the mean of the meta-training tasks' targets unless
    ``normalize_y=False``.

    With one network for all tasks, as in the comparisons of Finn et al. [1]_, pre-training can at
    best learn the mean of the tasks. A head for each of them is the stronger baseline.

    References
    ----------
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.

    Examples
    --------
    >>> from fewshot_sklearn import FineTuneRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(n_tasks=100, random_state=0)
    >>> reg = FineTuneRegressor(max_iter=300, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_FineTuneEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
