"""Almost no inner loop: only the head adapts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..base import FewShotRegressor
from ..nn import TaskNetwork, task_network
from ..nn.learner import State
from ..nn.network_learner import room_for_tasks
from ._shared import DescentEstimator, DescentLearner, HeadClassifier

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class ANILLearner(DescentLearner):
    r"""Learn an embedding f, and the head w from which a few gradient steps solve a task [1]_.

    .. math::
        w_t^{(k+1)} = w_t^{(k)} - \alpha \nabla_w L_{S_t}(w_t^{(k)}, f), \qquad
        \min_{f, w} \sum_t L_{Q_t}(w_t^{(K)}, f)

    Parameters
    ----------
    network : TaskNetwork
        f, w and the losses.
    n_inner_steps : int
        K.
    inner_learning_rate : float
        alpha.
    first_order : bool
        Leave out the derivative of the inner gradients, through which the support rows teach f.

    References
    ----------
    .. [1] Raghu, Raghu, Bengio, Vinyals (2020). "Rapid learning or feature reuse? Towards
       understanding the effectiveness of MAML." ICLR.
    """

    def __init__(self, network: TaskNetwork, **options: Any) -> None:
        super().__init__(network, **options)
        self.heads = task_network(
            nn.Identity(), network.head, n_features=network.n_features, loss=network.loss
        )

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Take K gradient steps with the head, on rows that are embedded once."""
        z = self.embed(self.backbone, x)
        rates = self.heads.rates(self.inner_learning_rate, self.n_inner_steps)
        return self.heads.descend(rates, z, y, mask, first_order=self.first_order)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run each task's head on its embedded query rows."""
        return self.heads.forward(state, self.embed(self.backbone, x))

    def tasks_at_once(self, batch: TaskBatch) -> int:
        """Return how many tasks' rows go through the backbone at once."""
        bytes_per_row = getattr(self.backbone, "bytes_per_row", None)
        if bytes_per_row is None:
            return super().tasks_at_once(batch)
        n_rows = batch.x_support.shape[1] + batch.x_query.shape[1]
        # The largest activation is followed by a few that are as large, and by smaller ones.
        per_task = 4 * n_rows * bytes_per_row
        return max(1, room_for_tasks(batch.x_support.device) // per_task)


@dataclass(kw_only=True, eq=False, repr=False)
class ANILClassifier(HeadClassifier, DescentEstimator):
    """Almost no inner loop: MAML whose gradient steps move the last layer alone [1]_.

    ``meta_fit`` learns an embedding and the start of a linear head, ``fit`` takes
    ``n_inner_steps`` steps of gradient descent with the head. Prefer it to MAML where an
    embedding serves all tasks: the rows go through the backbone once, however many steps follow,
    and the accuracy is about the same. A meta-iteration costs little more than ProtoNet's.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.1
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave out what the support rows teach the embedding through the inner gradients. It saves
        less than in MAML.
    %(head_parameter)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: no batch normalisation (the paper's is transductive); the "shared"
    head, which "per_class" undoes.

    References
    ----------
    .. [1] Raghu, Raghu, Bengio, Vinyals (2020). "Rapid learning or feature reuse? Towards
       understanding the effectiveness of MAML." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import ANILClassifier, EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = ANILClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    inner_learning_rate: float = 0.1

    _learner_class = ANILLearner
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DescentEstimator._parameter_constraints,
        **HeadClassifier._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class ANILRegressor(FewShotRegressor, DescentEstimator):
    """Almost no inner loop: MAML whose gradient steps move the last layer alone [1]_.

    ``meta_fit`` learns features and the start of a linear model on them, ``fit`` takes
    ``n_inner_steps`` steps of gradient descent on the squared error with the linear model. Prefer
    it to MAML where the tasks are combinations of the same features; where the solution of
    the linear model is wanted rather than a few steps towards it, see ``RidgeNetRegressor``.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave out what the support rows teach the features through the inner gradients.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Raghu, Raghu, Bengio, Vinyals (2020). "Rapid learning or feature reuse? Towards
       understanding the effectiveness of MAML." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import ANILRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = ANILRegressor(max_iter=300, meta_learning_rate=0.01, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _learner_class = ANILLearner
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DescentEstimator._parameter_constraints,
        **FewShotRegressor._parameter_constraints,
    }
