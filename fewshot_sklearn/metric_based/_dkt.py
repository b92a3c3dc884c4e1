"""Deep kernel transfer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import FewShotEstimator, ProbabilisticFewShotRegressor, TaskSpec
from ..nn import COVARIANCES, GaussianProcess, Learner, embedding_size
from ..nn.functional import all_rows, join_masks
from ..nn.learner import State
from ..utils._sklearn import Interval, Real, StrOptions

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class DKTLearner(Learner):
    r"""A Gaussian process on a learned embedding, whose prior the tasks share [1]_.

    .. math:: k(x, x') = k'(F_\phi(x), F_\phi(x') \mid \theta)

    Parameters
    ----------
    backbone : nn.Module
        F, rows [N, *] to embeddings [N, D].
    process : GaussianProcess
        Its covariance function is k', its parameters are theta.

    References
    ----------
    .. [1] Patacchiola, Turner, Crowley, O'Boyle, Storkey (2020). "Bayesian meta-learning for the
       few-shot setting via deep kernels." NeurIPS.
    """

    def __init__(self, backbone: nn.Module, process: GaussianProcess) -> None:
        super().__init__()
        self.backbone = backbone
        self.process = process

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Condition the process on the support rows."""
        return self.process.condition(self.embed(self.backbone, x), y, mask)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the mean and the standard deviation of a new target."""
        z = self.embed(self.backbone, x)
        mean = self.process.posterior_mean(state, z)
        std = (self.process.posterior_variance(state, z) + self.process.noise).sqrt()
        return torch.cat([mean, std.expand_as(mean)], dim=-1).to(z.dtype)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the log marginal likelihood of all rows of a task, averaged."""
        x, y, mask = all_rows(batch)
        n_rows = x.shape[1] if mask is None else mask.sum(dim=1, keepdim=True)
        log_p = self.process.log_marginal_likelihood(self.embed(self.backbone, x), y, mask) / n_rows
        present = torch.ones_like(log_p) if batch.class_mask is None else batch.class_mask
        return -((log_p * present).sum(dim=1) / present.sum(dim=1)).mean()


class DKTClassifierLearner(DKTLearner):
    r"""One process a class, against the rest, as regression of targets of 1 and -1.

    The processes have one prior. Their posterior means :math:`m_c(x)` decide,

    .. math:: c^* = \arg\max_c \sigma(m_c(x)) = \arg\max_c m_c(x) .

    Parameters
    ----------
    backbone, process : as in :class:`DKTLearner`
    temperature : float
        Divides the means.
    """

    def __init__(self, backbone: nn.Module, process: GaussianProcess, temperature: float) -> None:
        super().__init__(backbone, process)
        self.temperature = temperature

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Condition the process of each class on the support rows."""
        return super().adapt(x, 2 * y - 1, mask) | {"y": y}

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Condition on more rows too; for a class that is new all rows before are of the rest."""
        z = torch.cat([state["z"], self.embed(self.backbone, x).to(state["z"])], dim=1)
        y = torch.cat([F.pad(state["y"], (0, y.shape[-1] - state["y"].shape[-1])), y], dim=1)
        mask = join_masks((state["real"] > 0, mask), (state["z"], x))
        return self.process.condition(z, 2 * y - 1, mask) | {"y": y}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the posterior mean of each class over the temperature."""
        z = self.embed(self.backbone, x)
        return (self.process.posterior_mean(state, z) / self.temperature).to(z.dtype)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the log marginal likelihood of all rows, averaged over rows and classes."""
        y_support, y_query = 2 * batch.y_support - 1, 2 * batch.y_query - 1
        return super().meta_loss(replace(batch, y_support=y_support, y_query=y_query))


@dataclass(kw_only=True, eq=False, repr=False)
class _DKTEstimator(FewShotEstimator):
    """What the classifier and the regressor share."""

    kernel: str = "rbf"
    noise: float = 0.1

    _parameter_constraints: ClassVar[dict] = {
        **FewShotEstimator._parameter_constraints,
        "kernel": [StrOptions(set(COVARIANCES))],
        "noise": [Interval(Real, 0, None, closed="neither")],
    }

    def _make_parts(self, spec: TaskSpec, *, learned_noise: bool) -> tuple[nn.Module, Any]:
        """Return backbone and process."""
        backbone = self._build_backbone(spec.input_shape)
        covariance = COVARIANCES[self.kernel](embedding_size(backbone, spec.input_shape))
        return backbone, GaussianProcess(covariance, self.noise, learned_noise)


@dataclass(kw_only=True, eq=False, repr=False)
class DKTClassifier(IncrementalClassifier, _DKTEstimator):
    """Deep kernel transfer: Gaussian processes, one a class, on a learned embedding [1]_.

    ``meta_fit`` learns a kernel under which the labels of a task are likely; ``fit`` conditions
    on the support set in closed form. All support rows count, so that a class may be anything
    that the kernel can separate, not only a cloud around its mean. Learning a task costs one
    forward pass and the factorisation of a matrix with a row for each support row.

    Parameters
    ----------
    kernel : {"cosine", "linear", "rbf", "matern", "spectral"}, default="cosine"
        The covariance of two embeddings, each with an output scale that is learned. "rbf" and
        "matern" (nu = 5/2) have a learned length scale too, "spectral" is a mixture of waves.
    noise : float, default=0.1
        Variance of the noise on the targets of 1 and -1.
    temperature : float, default=0.5
        Divides the posterior means, which lie about between -1 and 1, before the softmax. It
        changes probabilities alone. An adaptation parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    As in the authors' code the noise is not learned, the prior mean is a learned constant, and
    the likelihood is averaged over rows and classes.

    Departures from the paper: all classes share the parameters of one kernel, so that any number
    of them works (the authors' code has a copy for each column, which arbitrary labels make
    alike). Length scale and output scale start so that the variance is about one whatever the
    width of the embedding. There is no "BNCosSim", whose batch normalisation would let rows see
    each other. The softmax of the means takes the place of their sigmoid, which leaves the
    decision as it is.

    References
    ----------
    .. [1] Patacchiola, Turner, Crowley, O'Boyle, Storkey (2020). "Bayesian meta-learning for the
       few-shot setting via deep kernels." NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import DKTClassifier, EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = DKTClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.6
    True
    """

    kernel: str = "cosine"
    temperature: float = 0.5

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        IncrementalClassifier._adaptation_parameters | {"temperature"}
    )
    _parameter_constraints: ClassVar[dict] = {
        **_DKTEstimator._parameter_constraints,
        "temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def _make_learner(self, spec: TaskSpec) -> DKTClassifierLearner:
        return DKTClassifierLearner(*self._make_parts(spec, learned_noise=False), self.temperature)


@dataclass(kw_only=True, eq=False, repr=False)
class DKTRegressor(ProbabilisticFewShotRegressor, _DKTEstimator):
    """Deep kernel transfer: an exact Gaussian process on a learned embedding [1]_.

    ``meta_fit`` learns the prior, kernel and embedding, under which the targets of a task are
    likely; ``fit`` conditions on the support set in closed form, and ``predict`` has
    ``return_std=True``. Prefer it as a first method for regression: it has no inner loop to
    tune. Learning a task costs one forward pass and the factorisation of a matrix with a row for
    each support row.

    Parameters
    ----------
    kernel : {"rbf", "matern", "linear", "cosine", "spectral"}, default="rbf"
        The covariance of two embeddings, each with an output scale that is learned. "rbf" and
        "matern" (nu = 5/2) have a learned length scale too; "spectral" is a mixture of waves, for
        functions that repeat themselves.
    noise : float, default=0.1
        Variance of the noise on standardised targets before any training. It is learned, and
        stays above 1e-4.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The standard deviation is that of a new target, noise included, as that of scikit-learn's
    Gaussian process is whose kernel has a ``WhiteKernel``. Several targets are independent
    processes with one prior, and so have the same one in standardised units. The prior mean is a
    learned constant.

    Departures from the paper: targets are standardised with the meta-training tasks' mean and
    scale unless ``normalize_y=False``. Length scale and output scale start so that the variance is
    about one whatever the width of the embedding. The step size is ten times the paper's, for
    as many fewer iterations. The waves of "spectral" run in learned directions, each with one
    length scale, instead of along every axis of the embedding.

    References
    ----------
    .. [1] Patacchiola, Turner, Crowley, O'Boyle, Storkey (2020). "Bayesian meta-learning for the
       few-shot setting via deep kernels." NeurIPS.

    Examples
    --------
    >>> from fewshot_sklearn import DKTRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = DKTRegressor(max_iter=150, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0.9
    True
    """

    meta_learning_rate: float = 1e-2

    _parameter_constraints: ClassVar[dict] = {
        **_DKTEstimator._parameter_constraints,
        **ProbabilisticFewShotRegressor._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> DKTLearner:
        return DKTLearner(*self._make_parts(spec, learned_noise=True))
