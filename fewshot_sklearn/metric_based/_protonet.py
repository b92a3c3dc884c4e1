"""Prototypical networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import Learner
from ..nn.functional import pairwise_cosine, pairwise_sqeuclidean, update_class_means
from ..utils._sklearn import Interval, Real, StrOptions


class ProtoNetLearner(Learner):
    r"""Classify by the nearest class mean in a learned embedding [1]_.

    .. math::
        c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f_\phi(x_i), \qquad
        p(y = k \mid x) = \frac{\exp(-d(f_\phi(x), c_k) / \tau)}
                               {\sum_{k'} \exp(-d(f_\phi(x), c_{k'}) / \tau)}

    Parameters
    ----------
    backbone : nn.Module
        f, rows [N, *] to embeddings [N, D].
    distance : {"sqeuclidean", "cosine"}
        d.
    temperature : float
        tau.

    References
    ----------
    .. [1] Snell, Swersky, Zemel (2017). "Prototypical networks for few-shot learning." NeurIPS.
    """

    def __init__(self, backbone: nn.Module, distance: str, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.similarity = _SIMILARITIES[distance]
        self.temperature = temperature

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Return the class means of the embedded support set (eq. 1)."""
        # No classes yet; a width of one broadcasts to that of the embedding.
        nothing = {"prototypes": y.new_zeros(len(y), 0, 1), "counts": y.new_zeros(len(y), 0)}
        return self.update(nothing, x, y, mask)

    def update(
        self, state: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Move the class means on by more rows."""
        z = self.embed(self.backbone, x)
        prototypes, counts = update_class_means(state["prototypes"], state["counts"], z, y, mask)
        return {"prototypes": prototypes, "counts": counts}

    def predict(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return minus the distance to each prototype over the temperature (eq. 2)."""
        z = self.embed(self.backbone, x)
        return self.similarity(z, state["prototypes"]) / self.temperature


def _negative_sqeuclidean(z: Tensor, prototypes: Tensor) -> Tensor:
    return -pairwise_sqeuclidean(z, prototypes)


_SIMILARITIES = {"sqeuclidean": _negative_sqeuclidean, "cosine": pairwise_cosine}


@dataclass(kw_only=True, eq=False, repr=False)
class ProtoNetClassifier(IncrementalClassifier):
    """Prototypical network: the nearest class mean in a learned embedding [1]_.

    ``meta_fit`` learns an embedding in which the mean of a few rows stands for their class;
    ``fit`` takes those means, which costs one pass through the backbone. Prefer it as a first
    method: it is the fastest, has the fewest parameters to choose, and takes any number of
    classes and rows.

    Parameters
    ----------
    distance : {"sqeuclidean", "cosine"}, default="sqeuclidean"
        How far a query is from a prototype. With "cosine" the similarity stands in place of
        minus the distance; it lies between -1 and 1, so lower the temperature too.
    temperature : float, default=1.0
        Divides the distances before the softmax. An adaptation parameter.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    Departures from the paper: none in the method. The backbone normalises each row by itself
    where the paper's uses batch normalisation, so that a prediction does not depend on the
    other query rows; the paper's episodes have more classes in training than at test, here
    they have what the tasks have.

    References
    ----------
    .. [1] Snell, Swersky, Zemel (2017). "Prototypical networks for few-shot learning." NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ProtoNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = ProtoNetClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.6
    True
    """

    distance: str = "sqeuclidean"
    temperature: float = 1.0

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        IncrementalClassifier._adaptation_parameters | {"temperature"}
    )
    _parameter_constraints: ClassVar[dict] = {
        **IncrementalClassifier._parameter_constraints,
        "distance": [StrOptions({"sqeuclidean", "cosine"})],
        "temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def _make_learner(self, spec: TaskSpec) -> ProtoNetLearner:
        backbone = self._build_backbone(spec.input_shape)
        return ProtoNetLearner(backbone, self.distance, self.temperature)
