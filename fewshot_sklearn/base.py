"""The shell: everything of a few-shot method that scikit-learn and the user see."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from ._estimator import FewShotEstimator
from ._meta_state import MetaState, TaskSpec, target_scale
from ._parameters import NUMPY_DTYPES
from ._plain_data import are_plain_labels
from .tasks._targets import ClassTargets, RealTargets
from .utils._tags import FewShotTags

__all__ = [
    "FewShotClassifier",
    "FewShotEstimator",
    "FewShotRegressor",
    "ProbabilisticFewShotRegressor",
    "TaskSpec",
]


@dataclass(kw_only=True, eq=False, repr=False)
class FewShotClassifier(ClassifierMixin, FewShotEstimator):
    """Base class of few-shot classifiers.

    Parameters
    ----------
    %(shared_parameters)s
    """

    _estimator_type_is_classifier: ClassVar[bool] = True

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the class of query rows.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_queries, n_features), or n-D array

        Returns
        -------
        y : ndarray of shape (n_queries,)
            Labels of the support set.
        """
        return self._decode(self._outputs(X), self._adapted[2], "predict")

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_queries, n_features), or n-D array

        Returns
        -------
        probabilities : ndarray of shape (n_queries, n_classes)
            In the order of ``classes_``.
        """
        return self._decode(self._outputs(X), self._adapted[2], "predict_proba")

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the logit of each class.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_queries, n_features), or n-D array

        Returns
        -------
        scores : ndarray of shape (n_queries, n_classes), or (n_queries,) for two classes
            For two classes the second logit minus the first.
        """
        return self._decode(self._outputs(X), self._adapted[2], "decision_function")

    def _publish(self, meta: MetaState) -> None:
        super()._publish(meta)
        self.calibration_temperature_ = meta.temperature

    def _adapt(self, meta: MetaState, X: Any, y: NDArray[Any]) -> None:
        super()._adapt(meta, X, y)
        self.classes_ = self._adapted[2].classes  # type: ignore[union-attr]

    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        logits = raw[:, decoder.positions] / self._meta.temperature
        if method == "predict":
            return decoder.classes[logits.argmax(axis=1)]
        if method == "predict_proba":
            return softmax(logits, axis=1)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _check_support(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        dtype = NUMPY_DTYPES[self.precision]
        if are_plain_labels(y):
            X = self._check_support_rows(X, reset=reset, dtype=dtype)
            check_consistent_length(X, y)
            return X, y
        X, y = self._check_support_rows(X, y=y, reset=reset, dtype=dtype)
        with warnings.catch_warnings():
            # A row a class is what few-shot learning is about.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            check_classification_targets(y)
        return X, y

    def _describe_targets(
        self, input_shape: tuple[int, ...], ys: list[NDArray[Any]], shared_classes: bool
    ) -> tuple[TaskSpec, ClassTargets]:
        labels = np.unique(np.concatenate(ys))
        spec = TaskSpec(input_shape, len(labels), shared_classes)
        return spec, ClassTargets(labels if shared_classes else None)


@dataclass(kw_only=True, eq=False, repr=False)
class FewShotRegressor(RegressorMixin, FewShotEstimator):
    """Base class of few-shot regressors that predict a value.

    Parameters
    ----------
    %(shared_parameters)s
    %(regressor_parameters)s
    """

    normalize_y: bool = True

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "normalize_y": ["boolean"],
    }
    _estimator_type_is_classifier: ClassVar[bool] = False

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the target of query rows.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_queries, n_features), or n-D array

        Returns
        -------
        y : ndarray of shape (n_queries,) or (n_queries, n_outputs)
            In the units of the support set's targets.
        """
        return self._decode(self._outputs(X), self._adapted[2], "predict")

    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        return decoder.decode(raw)

    def _check_support(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        dtype = NUMPY_DTYPES[self.precision]
        options = {"multi_output": True, "y_numeric": True, "dtype": dtype}
        X, y = self._check_support_rows(X, y=y, reset=reset, **options)
        return X, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    def _describe_targets(
        self, input_shape: tuple[int, ...], ys: list[NDArray[Any]], shared_classes: bool
    ) -> tuple[TaskSpec, RealTargets]:
        targets = target_scale(ys, normalize=self.normalize_y)
        return TaskSpec(input_shape, len(targets.mean), False), targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@dataclass(kw_only=True, eq=False, repr=False)
class ProbabilisticFewShotRegressor(FewShotRegressor):
    """Base class of few-shot regressors that predict a value and its spread.

    The learner's outputs [T, Q, 2 C] are the means of C standardised targets, then their standard
    deviations; :func:`~fewshot_sklearn.nn.functional.gaussian_nll` is a loss of such outputs.

    Parameters
    ----------
    %(shared_parameters)s
    %(regressor_parameters)s
    """

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict the target of query rows.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_queries, n_features), or n-D array
        return_std : bool, default=False
            Return the standard deviation of each prediction too.

        Returns
        -------
        y : ndarray of shape (n_queries,) or (n_queries, n_outputs)
            In the units of the support set's targets.
        y_std : ndarray of the same shape
            Only with ``return_std=True``, in the same units.
        """
        raw, targets = self._outputs(X), cast("RealTargets", self._adapted[2])
        y = self._decode(raw, targets, "predict")
        if not return_std:
            return y
        spread = np.split(raw, 2, axis=1)[1] * targets.scale
        return y, spread[:, 0] if targets.single else spread

    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        return super()._decode(np.split(raw, 2, axis=1)[0], decoder, method)

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(spread=True)
