"""MAML whose head starts from prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..base import FewShotClassifier, TaskSpec
from ..nn import NetworkLearner, TaskNetwork
from ..nn.functional import class_means
from ..nn.learner import State
from ._shared import InnerStepsEstimator


class ProtoMAMLLearner(NetworkLearner):
    r"""Start each class's output from its prototype, then take gradient steps on all weights [1]_.

    With the class means :math:`c_k` of the embedded support rows, a prototypical network's logits
    are linear in the embedding but for a term that all classes have in common,

    .. math::
        -\lVert f_\theta(x) - c_k \rVert^2 = w_k^T f_\theta(x) + b_k - \lVert f_\theta(x) \rVert^2,
        \qquad w_k = 2 c_k, \qquad b_k = -\lVert c_k \rVert^2 .

    Parameters
    ----------
    network : TaskNetwork
        Without a head.
    n_inner_steps : int
        Steps of gradient descent.
    inner_learning_rate : float
        Their size.
    first_order : bool
        Leave out the derivative of the inner gradients. That of the prototypes stays.

    References
    ----------
    .. [1] Triantafillou et al. (2020). "Meta-Dataset: a dataset of datasets for learning to learn
       from few examples." ICLR.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        n_inner_steps: int,
        inner_learning_rate: float,
        first_order: bool,
    ) -> None:
        super().__init__(network)
        self.n_inner_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.first_order = first_order

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Take gradient steps from the prototypes."""
        c = class_means(self.embed(self.backbone, x), y, mask)
        head = {"weight": 2 * c, "bias": -c.square().sum(dim=-1)}
        rates = self.network.rates(self.inner_learning_rate, self.n_inner_steps)
        return self.network.descend(rates, x, y, mask, start=head, first_order=self.first_order)


@dataclass(kw_only=True, eq=False, repr=False)
class ProtoMAMLClassifier(FewShotClassifier, InnerStepsEstimator):
    """Proto-MAML: gradient steps that start where a prototypical network would predict [1]_.

    ``meta_fit`` learns an embedding and initial weights at once; ``fit`` sets the linear head to
    the class means of the support set, then takes ``n_inner_steps`` steps of gradient descent on
    all weights. Prefer it to MAML for classes that are arbitrary per task: the first step
    already knows the classes, and any number of them works. Without steps it is a
    prototypical network.

    Parameters
    ----------
    n_inner_steps : int, default=5
        Gradient steps on the support set. An adaptation parameter.
    inner_learning_rate : float, default=0.01
        Their step size. An adaptation parameter.
    first_order : bool, default=False
        Leave the second derivatives out of the meta-gradient, as in the paper's experiments:
        cheaper. The gradient through the prototypes stays. An adaptation parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: second derivatives by default, which ``first_order=True`` leaves out;
    the backbone starts from random weights, not from those of a classifier of all training
    classes, unless it is given as a trained ``nn.Module``; no batch normalisation.

    References
    ----------
    .. [1] Triantafillou et al. (2020). "Meta-Dataset: a dataset of datasets for learning to learn
       from few examples." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ProtoMAMLClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = ProtoMAMLClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.5
    True
    """

    first_order: bool = False

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        InnerStepsEstimator._adaptation_parameters | {"first_order"}
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **InnerStepsEstimator._parameter_constraints,
        "first_order": ["boolean"],
    }

    def _has_fixed_head(self, spec: TaskSpec) -> bool:
        return False

    def _make_learner(self, spec: TaskSpec) -> ProtoMAMLLearner:
        return ProtoMAMLLearner(
            self._make_network(spec),
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
        )
