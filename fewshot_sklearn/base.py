"""The shell: everything of a few-shot method that scikit-learn and the user see."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.callback import with_callbacks
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from . import _meta_fitting as meta_fitting
from ._meta_state import (
    MetaState,
    TaskSpec,
    changed_parameters,
    snapshot_parameters,
    target_scale,
)
from ._parameters import DTYPES, NUMPY_DTYPES, SharedParameters
from ._protocols import EstimatorProtocols
from .nn import Learner, build_backbone
from .tasks import TaskSet, as_task_set
from .tasks._batch import TensorMaker
from .tasks._targets import ClassTargets, RealTargets
from .utils._tags import FewShotTags

__all__ = ["FewShotClassifier", "FewShotEstimator", "FewShotRegressor", "TaskSpec"]

_QUERY_ROWS = 1024
_ROW_BLOCK = 8


@dataclass(kw_only=True, eq=False, repr=False)
class FewShotEstimator(EstimatorProtocols):
    """Base class of all few-shot estimators.

    A method derives from :class:`FewShotClassifier` or :class:`FewShotRegressor`, declares its
    parameters as dataclass fields and implements ``_make_learner(spec)``.

    Parameters
    ----------
    %(shared_parameters)s
    """

    # ------------------------------------------------------------------ what a method writes

    @abstractmethod
    def _make_learner(self, spec: TaskSpec) -> Learner:
        """Return a new learner for tasks of this kind."""

    def _build_backbone(self, input_shape: tuple[int, ...]) -> torch.nn.Module:
        """Return a new network from the ``backbone`` parameter."""
        return build_backbone(self.backbone, input_shape)

    def __fewshot_tags__(self) -> FewShotTags:
        """Return what the method promises beyond scikit-learn's tags."""
        return FewShotTags()

    # ------------------------------------------------------------------ meta-training

    @with_callbacks
    def meta_fit(self, tasks: Any, validation_tasks: Any = None) -> Self:
        """Learn to learn from a sequence of tasks.

        Parameters
        ----------
        tasks : TaskSet, list or iterable of tasks
            Each a :class:`Task` or a tuple ``(X_support, y_support, X_query, y_query)``.
        validation_tasks : like tasks, default=None
            Tasks whose score decides which weights are kept.

        Returns
        -------
        self : object
            Meta-fitted, not fitted.

        Raises
        ------
        TaskError
            When a task cannot be used; the message names it.
        MetaTrainingError
            When the loss or a gradient is not finite. What was learned until then is kept.
        """
        self._validate_params()
        known = self._user_meta() if self.warm_start else None
        return self._meta_fit(tasks, validation_tasks, known)

    @with_callbacks
    def partial_meta_fit(self, tasks: Any, validation_tasks: Any = None) -> Self:
        """Take ``max_iter`` more meta-iterations from what is there, optimizer state included.

        Parameters
        ----------
        tasks, validation_tasks : as in :meth:`meta_fit`

        Returns
        -------
        self : object
        """
        self._validate_params()
        return self._meta_fit(tasks, validation_tasks, self._user_meta())

    def _meta_fit(self, tasks: Any, validation_tasks: Any, known: MetaState | None) -> Self:
        if known is not None:
            self._check_unchanged(known, except_for=self._training_parameters)
        tasks = as_task_set(tasks)
        if validation_tasks is not None:
            validation_tasks = as_task_set(validation_tasks)
        for fitted in ("_adapted", "_fit_parameters", "classes_"):
            self.__dict__.pop(fitted, None)
        with self._callback_task("meta_fit", self.max_iter) as hook:
            meta_fitting.meta_fit(self, tasks, validation_tasks, known, make_hook=hook)
        return self

    # ------------------------------------------------------------------ one task

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn one task.

        A meta-fitted estimator adapts to the support set and keeps what it meta-learned. A new
        estimator first meta-trains on episodes cut from (X, y), then adapts to all of it.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of shape (n_support, n_features), or n-D array
            The support set's rows.
        y : array-like of shape (n_support,)
            Their labels. Regressors take several columns too.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            When a parameter that meta-training depends on was changed after ``meta_fit``, or
            the data do not fit what was meta-trained.
        """
        self._validate_params()
        meta = self._user_meta()
        if meta is not None:
            self._check_unchanged(meta)
        rows, labels = self._check_support(X, y, reset=meta is None)
        with self._callback_task("fit", self.max_iter if meta is None else 0, X, y) as hook:
            if meta is None:
                self.__dict__.pop("_meta", None)
                meta_fitting.fit_from_scratch(self, rows, labels, make_hook=hook)
                meta = self._meta
            self._adapt(meta, rows, labels)
        return self

    def _adapt(self, meta: MetaState, X: Any, y: NDArray[Any]) -> None:
        """Learn one task from a checked support set."""
        self._check_row_shape(X, meta)
        learner = self._current_learner(meta)
        make = self._tensor_maker()
        target, decoder = meta_fitting.encode_support(meta, make, y)
        with torch.no_grad():
            state = learner.adapt(make.features(X).unsqueeze(0), target, None)
        self._adapted = (learner, state, decoder)
        self._fit_parameters = snapshot_parameters(self._parameters())

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the raw outputs [n_queries, C] of the adapted learner."""
        if "_adapted" not in vars(self):
            self._raise_not_fitted()
        precision = self._fit_parameters["precision"]
        rows = self._check_rows(X, reset=False, dtype=NUMPY_DTYPES[precision])
        self._check_row_shape(rows, self._meta)
        learner, state, _ = self._adapted
        make = TensorMaker(next(iter(state.values())).device, DTYPES[precision])
        parts = []
        with torch.no_grad():
            for i in range(0, rows.shape[0], _QUERY_ROWS):
                x = make.features(rows[i : i + _QUERY_ROWS])
                # Matrix products round a last, incomplete block of rows differently; padding to
                # whole blocks makes a prediction the same bits whatever rows come with it.
                n_real = len(x)
                x = torch.cat([x, x.new_zeros(-n_real % _ROW_BLOCK, *x.shape[1:])])
                parts.append(learner.predict(state, x.unsqueeze(0))[0, :n_real])
        return meta_fitting.check_finite(torch.cat(parts).double().cpu().numpy())

    def _raise_not_fitted(self) -> None:
        state = "not fitted yet" if self._user_meta() is None else "meta-fitted but not fitted yet"
        raise NotFittedError(
            f"this {type(self).__name__} instance is {state}; "
            "call fit(X_support, y_support) with the task's labelled rows first."
        )

    def predict_tasks(self, tasks: Any, *, method: str = "predict") -> list[NDArray[Any]]:
        """Adapt to each task and predict its query set, many tasks at once.

        Parameters
        ----------
        tasks : TaskSet or list of tasks
        method : {"predict", "predict_proba", "decision_function"}, default="predict"

        Returns
        -------
        predictions : list of ndarray
            For each task what ``fit(X_support, y_support)`` and ``method(X_query)`` give, to
            rounding. The estimator itself stays as it is.

        Raises
        ------
        NotFittedError
            When the estimator is not meta-fitted.
        """
        meta = self._user_meta()
        if meta is None:
            raise NotFittedError(
                f"predict_tasks needs a meta-fitted {type(self).__name__}; call meta_fit first."
            )
        self._check_unchanged(meta)
        tasks = as_task_set(tasks)
        if isinstance(tasks, TaskSet):
            return meta_fitting.predict_tasks(self, meta, tasks, method)
        raise TypeError("predict_tasks needs a sequence of tasks, got an iterator; list it.")

    # ------------------------------------------------------------------ parameters and data

    def _current_learner(self, meta: MetaState) -> Learner:
        """Return the meta-trained learner with this estimator's adaptation parameters."""
        meta = meta.on(self._torch_device())
        own = self._adaptation_parameters - SharedParameters._adaptation_parameters
        if not changed_parameters(self._parameters(), meta.parameters, own):
            return meta.learner
        with torch.random.fork_rng(devices=[]):
            learner = self._make_learner(meta.spec)
        # Buffers that are no part of the state dict follow the weights.
        learner.to(self._torch_device(), DTYPES[self.precision])
        learner.load_state_dict(meta.learner.state_dict(), assign=True)
        return learner.requires_grad_(False).eval()

    def _check_rows(self, X: Any, *, reset: bool, **options: Any) -> Any:
        options = {"accept_sparse": "csr", "allow_nd": True, "dtype": "numeric"} | options
        # scikit-learn refuses by name what the cast makes infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            return validate_data(self, X, reset=reset, **options)

    def _check_row_shape(self, X: Any, meta: MetaState) -> None:
        if X.shape[1:] != meta.spec.input_shape:
            shape, got = meta.spec.input_shape, tuple(X.shape[1:])
            raise ValueError(f"a row of X must have the shape {shape} as in meta_fit, got {got}.")

    @abstractmethod
    def _check_support(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        """Return checked rows and labels."""

    @abstractmethod
    def _describe_targets(
        self, input_shape: tuple[int, ...], ys: list[NDArray[Any]], shared_classes: bool
    ) -> tuple[TaskSpec, ClassTargets | RealTargets]:
        """Return what some tasks' labels say of all tasks."""

    @abstractmethod
    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        """Turn raw outputs [Q, C] into what ``method`` returns."""


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

    def _adapt(self, meta: MetaState, X: Any, y: NDArray[Any]) -> None:
        super()._adapt(meta, X, y)
        self.classes_ = self._adapted[2].classes  # type: ignore[union-attr]

    def _decode(self, raw: NDArray[np.float64], decoder: Any, method: str) -> NDArray[Any]:
        logits = raw[:, decoder.positions]
        if method == "predict":
            return decoder.classes[logits.argmax(axis=1)]
        if method == "predict_proba":
            return softmax(logits, axis=1)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _check_support(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        X, y = self._check_rows(X, y=y, reset=reset, dtype=NUMPY_DTYPES[self.precision])
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
    """Base class of few-shot regressors.

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
        X, y = self._check_rows(X, y=y, reset=reset, **options)
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
