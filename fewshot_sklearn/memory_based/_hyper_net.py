"""Hypernetworks: the support set generates the weights of the task's network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import FewShotEstimator, FewShotRegressor, TaskSpec
from ..nn import GeneratedMLP, Learner, embedding_size
from ..nn.dense import dense_network
from ..nn.functional import mean_row, squared_error, update_class_means
from ..nn.generated import HIDDEN_GAIN, activate
from ..nn.learner import State
from ..utils._sklearn import Integral, Interval


def standardise(t: Tensor) -> Tensor:
    """Return vectors [..., E] with mean zero and mean square one, for which generators start."""
    return F.layer_norm(t, t.shape[-1:])


class HyperNetLearner(Learner):
    r"""Generate a classifier from the mean embedding of every class.

    With class means :math:`e_k` of the embedding f, the task vector is
    :math:`t = \frac{1}{C} \sum_k \psi(e_k)`, standardised; the hidden layers :math:`g_t` are
    generated from t [1]_, and the weights of class k from what :math:`g_t` makes of its mean [2]_:

    .. math:: w_k = \Phi \, g_t(e_k), \qquad p(y = k \mid x) \propto
            \exp\bigl(w_k^\top g_t(f(x)) / \sqrt H\bigr)

    with H outputs of :math:`g_t`.

    Parameters
    ----------
    backbone : nn.Module
        f, rows [N, *] to embeddings [N, D].
    encoder : nn.Module
        psi, class means [T, C, D] to [T, C, E].
    network : GeneratedMLP
        g; an activation follows its last layer.
    head : nn.Linear
        Phi.

    References
    ----------
    .. [1] Ha, Dai, Le (2017). "HyperNetworks." ICLR.
    .. [2] Qiao, Liu, Shen, Yuille (2018). "Few-shot image recognition by predicting parameters
       from activations." CVPR.
    """

    def __init__(
        self, backbone: nn.Module, encoder: nn.Module, network: GeneratedMLP, head: nn.Linear
    ) -> None:
        super().__init__()
        self.backbone, self.encoder, self.network, self.head = backbone, encoder, network, head

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the weights of each task's network, and the class means that they come from."""
        nothing = {"means": y.new_zeros(len(y), 0, 1), "counts": y.new_zeros(len(y), 0)}
        return self.update(nothing, x, y, mask)

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Move the class means on by more rows, and generate from them anew."""
        z = self.embed(self.backbone, x)
        means, counts = update_class_means(state["means"], state["counts"], z, y, mask)
        return {"means": means, "counts": counts} | self.generate(means, counts > 0)

    def generate(self, means: Tensor, present: Tensor) -> State:
        """Return hidden layers and class weights from class means [T, C, D], some absent."""
        t = standardise(mean_row(self.encoder(means), present))
        weights = self.network.generate(t)
        return weights | {"head": self.head(self.hidden(weights, means))}

    def hidden(self, weights: State, z: Tensor) -> Tensor:
        """Return what each task's hidden layers make of embedded rows."""
        return activate(self.network(weights, z))

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of each task's own network."""
        a = self.hidden(state, self.embed(self.backbone, x))
        return a @ state["head"].transpose(1, 2) / a.shape[-1] ** 0.5


class HyperNetRegressionLearner(Learner):
    r"""Generate a regression network from the mean of the encoded support pairs.

    .. math:: t = \frac{1}{S} \sum_i \psi([f(x_i), y_i]), \qquad \hat y(x) = g_t(f(x))

    with t standardised and every weight of :math:`g_t` generated from it [1]_.

    Parameters
    ----------
    backbone : nn.Module
        f, rows [N, *] to embeddings [N, D].
    encoder : nn.Module
        psi, pairs [T, S, D + C] to [T, S, E].
    network : GeneratedMLP
        g.

    References
    ----------
    .. [1] Ha, Dai, Le (2017). "HyperNetworks." ICLR.
    """

    def __init__(self, backbone: nn.Module, encoder: nn.Module, network: GeneratedMLP) -> None:
        super().__init__(loss=squared_error)
        self.backbone, self.encoder, self.network = backbone, encoder, network

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the weights of each task's network."""
        pairs = self.encoder(torch.cat([self.embed(self.backbone, x), y], dim=-1))
        return self.network.generate(standardise(mean_row(pairs, mask)))

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of each task's own network."""
        return self.network(state, self.embed(self.backbone, x))


@dataclass(kw_only=True, eq=False, repr=False)
class _HyperNetEstimator(FewShotEstimator):
    """What the classifier and the regressor share."""

    hidden_layer_sizes: tuple[int, ...] = (64,)
    n_task_features: int = 64
    n_unit_features: int = 16
    n_hidden: int = 64

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
        "n_task_features": [Interval(Integral, 2, None, closed="left")],
        "n_unit_features": [Interval(Integral, 1, None, closed="left")],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
    }

    def _make_encoder(self, n_inputs: int) -> nn.Module:
        """Return what is averaged over the members of a set to describe it."""
        return dense_network(n_inputs, self.n_task_features, 2, self.n_task_features)

    def _make_network(self, sizes: Sequence[int], gain: float) -> GeneratedMLP:
        return GeneratedMLP(
            self.n_task_features,
            sizes,
            gain=gain,
            n_unit_features=self.n_unit_features,
            n_hidden=self.n_hidden,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class HyperNetClassifier(IncrementalClassifier, _HyperNetEstimator):
    """Hypernetwork: the support set generates the weights of the task's classifier.

    ``meta_fit`` learns an embedding and a network that turns the mean embeddings of the classes
    into the weights of further layers [1]_ and of each class's output [2]_. ``fit`` is one pass
    forward: it costs what :class:`ProtoNetClassifier` does and the generation of some matrices.
    Prefer it where the features that tell classes apart differ from task to task, which one
    fixed embedding cannot follow, and where gradient steps, as of :class:`MAMLClassifier`, take
    too long. It takes any number of classes and rows.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(64,)
        Units of each generated layer.
    n_task_features : int, default=64
        Width of the task vector, which describes the support set.
    n_unit_features : int, default=16
        Width of the vector that the generator has learned for each unit of a layer.
    n_hidden : int, default=64
        Hidden units of each layer's generator.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    CNAPSClassifier : The support set scales and shifts the layers of a network.

    Notes
    -----
    Ha et al. generate the layers of a network from learned vectors of layers; that a support set
    describes the layer is what makes it a few-shot method, and the class weights are those of
    Qiao et al., generated from what a class's mean is in the generated layers. The matrix that
    generates them starts as the identity, so that the untrained method compares class means.
    A generated row of a layer comes from a network with one hidden layer, where Ha et al. have
    two linear maps. Weights start with the variance that Chang et al. derive [3]_.

    References
    ----------
    .. [1] Ha, Dai, Le (2017). "HyperNetworks." ICLR.
    .. [2] Qiao, Liu, Shen, Yuille (2018). "Few-shot image recognition by predicting parameters
       from activations." CVPR.
    .. [3] Chang, Flokas, Lipson (2020). "Principled weight initialization for hypernetworks."
       ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, HyperNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = HyperNetClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.5
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        **_HyperNetEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> HyperNetLearner:
        backbone = self._build_backbone(spec.input_shape)
        sizes = [embedding_size(backbone, spec.input_shape), *self.hidden_layer_sizes]
        encoder = self._make_encoder(sizes[0])
        head = nn.Linear(sizes[-1], sizes[-1], bias=False)
        nn.init.eye_(head.weight)
        return HyperNetLearner(backbone, encoder, self._make_network(sizes, HIDDEN_GAIN), head)


@dataclass(kw_only=True, eq=False, repr=False)
class HyperNetRegressor(FewShotRegressor, _HyperNetEstimator):
    """Hypernetwork: the support set generates all weights of the task's network.

    ``meta_fit`` learns to encode labelled rows and to turn the mean of their codes into the weights
    of a multilayer perceptron [1]_. ``fit`` is one pass forward, ``predict`` one through a small
    network, so that both take a fraction of what gradient steps do, as of
    :class:`MAMLRegressor`. Prefer it where thousands of tasks have to be fitted fast, or
    predictions are many and must be cheap; :class:`CNPRegressor` is its sibling that keeps one
    decoder for all tasks and has a standard deviation.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(64,)
        Units of each generated layer; one of outputs comes on top.
    n_task_features : int, default=64
        Width of the task vector, which describes the support set.
    n_unit_features : int, default=16
        Width of the vector that the generator has learned for each unit of a layer.
    n_hidden : int, default=64
        Hidden units of each layer's generator.
    %(shared_parameters)s

    Attributes
    ----------
    %(regressor_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Ha et al. generate the layers of a network from learned vectors of layers; here the support set
    describes them, through the mean of encoded pairs of row and target, as neural processes
    encode it. A generated row of a layer comes from a network with one hidden layer, where Ha et
    al. have two linear maps. Weights start with the variance that Chang et al. derive [2]_.

    References
    ----------
    .. [1] Ha, Dai, Le (2017). "HyperNetworks." ICLR.
    .. [2] Chang, Flokas, Lipson (2020). "Principled weight initialization for hypernetworks."
       ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import HyperNetRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = HyperNetRegressor(max_iter=400, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotRegressor._parameter_constraints,
        **_HyperNetEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> HyperNetRegressionLearner:
        backbone = self._build_backbone(spec.input_shape)
        sizes = [
            embedding_size(backbone, spec.input_shape),
            *self.hidden_layer_sizes,
            spec.n_outputs,
        ]
        encoder = self._make_encoder(sizes[0] + spec.n_outputs)
        return HyperNetRegressionLearner(backbone, encoder, self._make_network(sizes, 1.0))
