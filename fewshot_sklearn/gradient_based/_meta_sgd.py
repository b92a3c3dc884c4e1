"""Meta-SGD: the start of the weights and a step size for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..base import FewShotEstimator, FewShotRegressor, TaskSpec
from ..nn import TaskNetwork
from ..nn.task_network import Rates
from ..utils._sklearn import Interval, Real
from ._shared import HeadClassifier, InnerStepsEstimator, StepsLearner


class MetaSGDLearner(StepsLearner):
    r"""Learn weights and a step size for each, with which a gradient step solves a task [1]_.

    .. math::
        \theta_t^{(k+1)} = \theta_t^{(k)}
            - \alpha \circ \nabla_\theta L_{S_t}(\theta_t^{(k)}), \qquad
        \min_{\theta, \alpha} \sum_t L_{Q_t}(\theta_t^{(K)})

    A head that starts at zero has step sizes that its classes share, [D] and one for the bias, so
    that there can be any number of classes. Its first step moves the head alone.

    Parameters
    ----------
    network : TaskNetwork
        theta and the losses.
    n_inner_steps : int
        K, 1 in the paper.
    inner_learning_rate : float
        Where every entry of alpha starts.

    References
    ----------
    .. [1] Li, Zhou, Chen, Li (2017). "Meta-SGD: Learning to learn quickly for few-shot learning."
       arXiv:1707.09835.
    """

    def __init__(
        self, network: TaskNetwork, *, n_inner_steps: int, inner_learning_rate: float
    ) -> None:
        super().__init__(network)
        self.n_inner_steps = n_inner_steps
        shapes = [(network.n_features,), ()]
        if network.head is not None:
            shapes = [p.shape for p in network.head.parameters()]
        moves_body = n_inner_steps > (0 if network.head is not None else 1)

        def rates(shape: tuple[int, ...], learned: bool) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, inner_learning_rate), learned)

        self.backbone_rates = nn.ParameterList(
            [rates(p.shape, moves_body) for p in network.backbone.parameters()]
        )
        self.head_rates = nn.ParameterList([rates(shape, n_inner_steps > 0) for shape in shapes])

    def rates(self) -> Rates:
        """Return K times the step sizes, one for each entry of each weight."""
        names = [f"backbone.{name}" for name, _ in self.backbone.named_parameters()]
        rates = zip(
            [*names, "weight", "bias"], [*self.backbone_rates, *self.head_rates], strict=True
        )
        return [dict(rates)] * self.n_inner_steps


@dataclass(kw_only=True, eq=False, repr=False)
class _MetaSGDEstimator(InnerStepsEstimator):
    """What Meta-SGD's classifier and regressor share."""

    n_inner_steps: int = 1
    inner_learning_rate: Any = (0.005, 0.1)

    _adaptation_parameters: ClassVar[frozenset[str]] = FewShotEstimator._adaptation_parameters | {
        "n_inner_steps"
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **InnerStepsEstimator._parameter_constraints,
        "inner_learning_rate": [Interval(Real, 0, None, closed="neither"), tuple],
    }

    def _make_learner(self, spec: TaskSpec) -> MetaSGDLearner:
        network = self._make_network(spec)
        return MetaSGDLearner(
            network, n_inner_steps=self.n_inner_steps, inner_learning_rate=self._first_rate()
        )

    def _first_rate(self) -> float:
        """Return where the rates start, drawn where the parameter is a range."""
        if not isinstance(self.inner_learning_rate, tuple):
            return float(self.inner_learning_rate)
        ends = self.inner_learning_rate
        if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
            raise ValueError(
                "inner_learning_rate must be a number above zero or a range (low, high) with "
                f"0 < low <= high, got {ends}."
            )
        return torch.empty(()).uniform_(*ends).item()


@dataclass(kw_only=True, eq=False, repr=False)
class MetaSGDClassifier(HeadClassifier, _MetaSGDEstimator):
    """Meta-SGD: initial weights, and for each of them how far a gradient step moves it [1]_.

    ``meta_fit`` learns a start and step sizes of its shape, negative ones among them, so that
    the direction of a step is learned too; ``fit`` takes ``n_inner_steps`` such steps. Prefer it
    to MAML where one step must be enough, or where no inner rate suits all weights. A step costs
    what MAML's does; there are twice as many parameters to meta-learn.

    Parameters
    ----------
    n_inner_steps : int, default=2
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float or tuple (low, high), default=(0.005, 0.1)
        Where all step sizes start; of a range, a number that is drawn uniformly.
    head : {"auto", "shared", "per_class"}, default="auto"
        Where the linear head starts. "shared": every class starts at zero and has the same step
        sizes, so any number of classes works. "per_class": a learned vector, and step sizes, for
        each class, as in the paper, which fixes the number of classes and their order. "auto"
        takes "per_class" where the tasks share their labels and "shared" where labels are
        arbitrary per task.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: two steps in place of one, because the first step of the "shared"
    head moves the head alone (with "per_class" one is enough); no batch normalisation (the
    paper's is transductive). What gets no gradient in ``n_inner_steps`` steps keeps the step size
    that it started with.

    References
    ----------
    .. [1] Li, Zhou, Chen, Li (2017). "Meta-SGD: Learning to learn quickly for few-shot learning."
       arXiv:1707.09835.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, MetaSGDClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = MetaSGDClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    n_inner_steps: int = 2

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **HeadClassifier._parameter_constraints,
        **_MetaSGDEstimator._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class MetaSGDRegressor(FewShotRegressor, _MetaSGDEstimator):
    """Meta-SGD: initial weights, and for each of them how far a gradient step moves it [1]_.

    ``meta_fit`` learns a start and step sizes of its shape, negative ones among them; ``fit``
    takes ``n_inner_steps`` such steps on the squared error. Prefer it to MAML where one step must
    be enough.

    Parameters
    ----------
    n_inner_steps : int, default=1
        Steps on the support set. An adaptation parameter: more steps may be taken after
        meta-training than in it.
    inner_learning_rate : float or tuple (low, high), default=(0.005, 0.1)
        Where all step sizes start; of a range, a number that is drawn uniformly.
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
    .. [1] Li, Zhou, Chen, Li (2017). "Meta-SGD: Learning to learn quickly for few-shot learning."
       arXiv:1707.09835.

    Examples
    --------
    >>> from fewshot_sklearn import MetaSGDRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = MetaSGDRegressor(max_iter=300, meta_learning_rate=0.01, random_state=0)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.meta_fit(tasks).fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotRegressor._parameter_constraints,
        **_MetaSGDEstimator._parameter_constraints,
    }
