"""Training from scratch: what a network learns of a task without any older one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor

from ..base import FewShotClassifier, FewShotRegressor, TaskSpec
from ..nn import Learner, TaskNetwork, embedding_size, task_network
from ..nn.functional import cross_entropy, squared_error
from ..nn.inner_optimizers import InnerOptimizer, minimize
from ..nn.learner import State
from ..utils._tags import FewShotTags
from ._inner_training import _InnerTrainingEstimator

if TYPE_CHECKING:
    from .._meta_state import MetaState
    from ..tasks._batch import TaskBatch


class FromScratchLearner(Learner):
    r"""Train a network on the support set from weights that were drawn at random.

    .. math::
        \min_{W_t, b_t, \phi_t} L_{S_t}(W_t^\top f_{\phi_t}(x) + b_t), \qquad
        W_t^{(0)} = 0, \quad b_t^{(0)} = 0, \quad \phi_t^{(0)} \text{ random}

    Parameters
    ----------
    network : TaskNetwork
        Its weights are those drawn; they stay as they are, so that there is nothing to meta-train.
    optimizer : InnerOptimizer
    n_inner_steps : int
        Its steps, each on the whole support set.
    """

    def __init__(
        self, network: TaskNetwork, *, optimizer: InnerOptimizer, n_inner_steps: int
    ) -> None:
        super().__init__(network.loss)
        self.network = network
        self.backbone = network.backbone.requires_grad_(False)
        self.optimizer = optimizer
        self.n_inner_steps = n_inner_steps

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Train the network of each task."""
        return minimize(self.network, self.optimizer, x, y, mask, n_steps=self.n_inner_steps)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run each task's query rows through its own network."""
        return self.network.forward(state, x)

    def meta_gradient(self, batch: TaskBatch) -> Tensor:
        """Return the meta-loss; there is no parameter to get a gradient."""
        return self.meta_loss(batch).detach()


@dataclass(kw_only=True, eq=False, repr=False)
class _FromScratchEstimator(_InnerTrainingEstimator):
    """What the classifier and the regressor share."""

    def _make_learner(self, spec: TaskSpec) -> FromScratchLearner:
        backbone = self._build_backbone(spec.input_shape)
        n_features = embedding_size(backbone, spec.input_shape)
        loss = cross_entropy if self._estimator_type_is_classifier else squared_error
        network = task_network(backbone, None, n_features=n_features, loss=loss)
        return FromScratchLearner(network, **self._inner_training())

    def _adapt(self, meta: MetaState, X: Any, y: NDArray[Any]) -> None:
        super()._adapt(meta, X, y)
        self.n_iter_ = self.n_inner_steps

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(meta_trains=False)


@dataclass(kw_only=True, eq=False, repr=False)
class FromScratchClassifier(FewShotClassifier, _FromScratchEstimator):
    """Train the network on the support set alone, from random weights.

    ``meta_fit`` learns nothing from the tasks: it notes what they are like and draws the
    weights that every ``fit`` starts from. The difference to any other method with the same network
    is what that method has learned from older tasks.

    Parameters
    ----------
    n_inner_steps : int, default=50
        Steps of the optimizer, each on the whole support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        The optimizer, without momentum beyond Adam's own and without weight decay. An adaptation
        parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    n_features_in_ : int
        Number of features, seen in ``meta_fit`` or ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X was a DataFrame with string column names.
    n_meta_iter_ : int
        Zero.
    n_iter_ : int
        After ``fit`` its ``n_inner_steps``.
    meta_loss_curve_, validation_scores_ : list
        Empty.

    Notes
    -----
    The weights are a function of ``random_state``, the same in every ``fit``; the head starts at
    zero, so that there can be any number of classes and none is preferred. The parameters of
    meta-training, from ``max_iter`` to ``tol``, change nothing.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, FromScratchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=5, n_query=5, random_state=0)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf = FromScratchClassifier(random_state=0).fit(X_support, y_support)
    >>> clf.score(X_query, y_query) > 0.6
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_FromScratchEstimator._parameter_constraints,
        **FewShotClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class FromScratchRegressor(FewShotRegressor, _FromScratchEstimator):
    """Train the network on the support set alone, from random weights.

    ``meta_fit`` learns nothing from the tasks but the mean and scale of their targets: it draws
    the weights that every ``fit`` starts from. The difference to any other method with the same
    network is what that method has learned from older tasks.

    Parameters
    ----------
    n_inner_steps : int, default=50
        Steps of the optimizer, each on the whole support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        The optimizer, without momentum beyond Adam's own and without weight decay. An adaptation
        parameter.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    n_features_in_ : int
        Number of features, seen in ``meta_fit`` or ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X was a DataFrame with string column names.
    n_meta_iter_ : int
        Zero.
    n_iter_ : int
        After ``fit`` its ``n_inner_steps``.
    meta_loss_curve_, validation_scores_ : list
        Empty.

    Notes
    -----
    As :class:`FromScratchClassifier`.

    Examples
    --------
    >>> from fewshot_sklearn import FromScratchRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(n_tasks=100, random_state=0)
    >>> reg = FromScratchRegressor(random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **_FromScratchEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
