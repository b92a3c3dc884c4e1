"""Model-agnostic meta-learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..base import FewShotClassifier, FewShotEstimator, FewShotRegressor, TaskSpec
from ..nn import Learner, embedding_size, gradient_descent, map_tasks, should_loop
from ..nn.functional import cross_entropy, mask_absent_classes, present_classes, squared_error
from ..nn.learner import Loss
from ..utils._sklearn import Integral, Interval, Real, StrOptions
from ..utils._tags import FewShotTags


class MAMLLearner(Learner):
    r"""Learn the weights from which a few gradient steps solve a task [1]_.

    .. math::
        \theta_t^{(k+1)} = \theta_t^{(k)} - \alpha \nabla_\theta L_{S_t}(\theta_t^{(k)}), \qquad
        \min_\theta \sum_t L_{Q_t}(\theta_t^{(K)})

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D].
    head : nn.Linear or None
        The start of the linear head. None starts every class at the zero vector.
    loss : callable
        Inner and outer loss, ``loss(outputs, y, mask)``.
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

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Linear | None,
        *,
        n_features: int,
        loss: Loss,
        n_inner_steps: int,
        inner_learning_rate: float,
        first_order: bool,
    ) -> None:
        super().__init__(loss)
        _refuse_running_statistics(backbone)
        self.backbone = backbone
        self.head = head
        self.n_features = n_features
        self.n_outputs = None if head is None else head.out_features
        self.n_inner_steps = n_inner_steps
        self.inner_learning_rate = inner_learning_rate
        self.first_order = first_order

    def start(self, y: Tensor) -> dict[str, Tensor]:
        """Return theta, the parameters that every task starts from."""
        theta = {f"backbone.{name}": p for name, p in self.backbone.named_parameters()}
        if self.head is not None:
            return theta | {"weight": self.head.weight, "bias": self.head.bias}
        n_classes = y.shape[-1]
        return theta | {
            "weight": y.new_zeros(n_classes, self.n_features),
            "bias": y.new_zeros(n_classes),
        }

    def forward_task(self, theta: dict[str, Tensor], x: Tensor) -> Tensor:
        """Run the network of one task: [N, *] -> [N, C]."""
        weights = {k.removeprefix("backbone."): p for k, p in theta.items() if "." in k}
        z = functional_call(self.backbone, weights, (x,))
        return F.linear(z, theta["weight"], theta["bias"])

    def inner_loss(self, outputs: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Return one task's support loss over the classes that its support set has."""
        if self.loss is cross_entropy:
            outputs = mask_absent_classes(outputs, present_classes(y, mask))
        return self.loss(outputs, y, mask)

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Take K gradient steps from the shared start."""
        return gradient_descent(
            self.forward_task,
            self.inner_loss,
            self.start(y),
            x,
            y,
            mask,
            n_steps=self.n_inner_steps,
            learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
            loop=should_loop(self.backbone, x),
        )

    def predict(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        """Run each task's query rows through its adapted network."""
        return map_tasks(self.forward_task, should_loop(self.backbone, x), (0, 0))(state, x)


def _refuse_running_statistics(backbone: nn.Module) -> None:
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"MAML cannot adapt the layer {name!r} ({type(module).__name__}): batch "
                "normalisation mixes the rows of a task and writes running statistics while the "
                "weights are adapted; use a per-sample norm, such as nn.GroupNorm or "
                "Conv4(norm='group')."
            )


@dataclass(kw_only=True, eq=False, repr=False)
class _MAMLEstimator(FewShotEstimator):
    """What MAML's classifier and regressor share."""

    n_inner_steps: int = 5
    inner_learning_rate: float = 0.01
    first_order: bool = False

    _adaptation_parameters: ClassVar[frozenset[str]] = FewShotEstimator._adaptation_parameters | {
        "n_inner_steps",
        "inner_learning_rate",
        "first_order",
    }
    _parameter_constraints: ClassVar[dict] = {
        **FewShotEstimator._parameter_constraints,
        "n_inner_steps": [Interval(Integral, 0, None, closed="left")],
        "inner_learning_rate": [Interval(Real, 0, None, closed="left")],
        "first_order": ["boolean"],
    }

    def _make_maml(self, spec: TaskSpec, *, fixed_head: bool, loss: Loss) -> MAMLLearner:
        backbone = self._build_backbone(spec.input_shape)
        n_features = embedding_size(backbone, spec.input_shape)
        return MAMLLearner(
            backbone,
            nn.Linear(n_features, spec.n_outputs) if fixed_head else None,
            n_features=n_features,
            loss=loss,
            n_inner_steps=self.n_inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            first_order=self.first_order,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class MAMLClassifier(FewShotClassifier, _MAMLEstimator):
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
    head : {"auto", "shared", "per_class"}, default="auto"
        Where the linear head starts. "shared": every class starts alike, so any number of
        classes works. "per_class": a learned vector for each class, as in the paper, which fixes
        the number of classes and their order. "auto" takes "per_class" where the tasks share
        their labels and "shared" where labels are arbitrary per task.
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
    depends on the other query rows); the "shared" head, which "per_class" undoes.

    References
    ----------
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.

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

    head: str = "auto"
    inner_learning_rate: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **_MAMLEstimator._parameter_constraints,
        "head": [StrOptions({"auto", "shared", "per_class"})],
    }

    def _make_learner(self, spec: TaskSpec) -> MAMLLearner:
        fixed = spec.shared_classes if self.head == "auto" else self.head == "per_class"
        return self._make_maml(spec, fixed_head=fixed, loss=cross_entropy)

    def __fewshot_tags__(self) -> FewShotTags:
        meta = self._user_meta()
        shared_labels = meta is not None and meta.spec.shared_classes
        fixed = shared_labels if self.head == "auto" else self.head == "per_class"
        return FewShotTags(permutes_classes=not fixed)


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
    .. [1] Finn, Abbeel, Levine (2017). "Model-agnostic meta-learning for fast adaptation of deep
       networks." ICML.

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

    def _make_learner(self, spec: TaskSpec) -> MAMLLearner:
        return self._make_maml(spec, fixed_head=True, loss=squared_error)
