"""What few-shot classifiers and regressors have in common: meta_fit, fit and the way to outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import with_callbacks
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from . import _meta_fitting as meta_fitting
from ._distributed import current_world
from ._generators import own_generators
from ._inference import check_finite, encode_support, predict_tasks
from ._meta_state import (
    FEATURE_ATTRIBUTES,
    MetaState,
    TaskSpec,
    are_alike,
    changed_parameters,
    snapshot_parameters,
)
from ._parameters import DTYPES, NUMPY_DTYPES, SharedParameters
from ._plain_data import plain_rows
from ._protocols import EstimatorProtocols
from .nn import Learner, build_backbone
from .nn.learner import State
from .tasks import TaskSet, as_task_set
from .tasks._rows import check_flat
from .tasks._targets import ClassTargets, RealTargets
from .tasks._tensors import TensorMaker
from .utils._tags import FewShotTags

_QUERY_ROWS = 1024
_OF_A_TASK = ("_adapted", "_fit_parameters", "classes_")
_ROW_BLOCK = 8


def check_rows(owner: BaseEstimator, X: Any, *, reset: bool, **options: Any) -> Any:
    """Return rows that have the features that their owner knows; with ``reset`` it learns them."""
    if not reset and options.keys() == {"dtype"}:
        plain = plain_rows(owner, X, options["dtype"])
        if plain is not None:
            return plain
    options = {"accept_sparse": "csr", "allow_nd": True, "dtype": "numeric"} | options
    # scikit-learn refuses by name what the cast makes infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        return validate_data(owner, X, reset=reset, **options)


def _device_of(state: State) -> torch.device:
    """Return where the state of a task lies."""
    return next(iter(state.values())).device


@dataclass(kw_only=True, eq=False, repr=False)
class FewShotEstimator(EstimatorProtocols):
    """Base class of all few-shot estimators.

    A method derives from :class:`FewShotClassifier` or :class:`FewShotRegressor`, declares its
    parameters as dataclass fields and implements ``_make_learner(spec)``.

    Parameters
    ----------
    %(shared_parameters)s
    """

    # Whether meta-training learns parameters for what the columns of the tasks stand for.
    _uses_concepts: ClassVar[bool] = False

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
    def meta_fit(self, tasks: Any, validation_tasks: Any = None, *, checkpoint: Any = None) -> Self:
        """Learn to learn from a sequence of tasks.

        Parameters
        ----------
        tasks : TaskSet, list or iterable of tasks
            Each a :class:`Task` or a tuple ``(X_support, y_support, X_query, y_query)``.
        validation_tasks : like tasks, default=None
            Tasks whose score decides which weights are kept.
        checkpoint : str or path-like, default=None
            A file in which the state of meta-training is kept up to date, at most a twentieth
            of the time being spent on it. When it exists, meta-training goes on from it, and
            ends with the same weights, bit for bit, as if it had never been interrupted;
            a finished one is taken as it is. Needs the extra ``save``.

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
        ValueError
            When the checkpoint is damaged or belongs to another configuration or other tasks.
        """
        return self._meta_fit(tasks, validation_tasks, checkpoint, anew=not self.warm_start)

    @with_callbacks
    def partial_meta_fit(
        self, tasks: Any, validation_tasks: Any = None, *, checkpoint: Any = None
    ) -> Self:
        """Take ``max_iter`` more meta-iterations from what is there, optimizer state included.

        Parameters
        ----------
        tasks, validation_tasks, checkpoint : as in :meth:`meta_fit`

        Returns
        -------
        self : object
        """
        return self._meta_fit(tasks, validation_tasks, checkpoint, anew=False)

    def _meta_fit(self, tasks: Any, validation_tasks: Any, checkpoint: Any, *, anew: bool) -> Self:
        world = current_world(self._torch_device)
        with ExitStack() as stack:
            with world.together():
                self._validate_params()
                known = None if anew else self._user_meta()
                if known is not None:
                    self._check_unchanged(known, except_for=self._training_parameters)
                tasks = as_task_set(tasks)
                if validation_tasks is not None:
                    validation_tasks = as_task_set(validation_tasks)
                stack.enter_context(self._unless_nothing_was_learned())
                hook = None
                if world.is_main:
                    announced = self._callback_task("meta_fit", self.max_iter)
                    hook = stack.enter_context(announced)
                world.exchange(None)
            meta_fitting.meta_fit(
                self,
                tasks,
                validation_tasks,
                known,
                world=world,
                make_hook=hook,
                checkpoint=checkpoint,
            )
        return self

    @contextmanager
    def _unless_nothing_was_learned(self) -> Iterator[None]:
        """Forget the last task; put it back when an error comes before anything was learned."""
        known, before = vars(self).get("_meta"), vars(self).copy()
        for name in _OF_A_TASK:
            self.__dict__.pop(name, None)
        try:
            yield
        except BaseException:
            if vars(self).get("_meta") is known:
                for name in FEATURE_ATTRIBUTES:
                    self.__dict__.pop(name, None)
                kept = _OF_A_TASK + FEATURE_ATTRIBUTES
                self.__dict__.update({name: before[name] for name in kept if name in before})
            raise

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
        meta = self._user_meta()
        self._check_parameters(meta)
        reset = meta is None or self.__fewshot_tags__().any_features
        rows, labels = self._check_support(X, y, reset=reset)
        with self._callback_task("fit", self.max_iter if meta is None else 0, X, y) as hook:
            if meta is None:
                for fitted in ("_meta", "_adapted"):
                    self.__dict__.pop(fitted, None)
                meta_fitting.fit_from_scratch(self, rows, labels, make_hook=hook)
                meta = self._meta
            self._adapt(meta, rows, labels)
        return self

    def _adapt(self, meta: MetaState, X: Any, y: NDArray[Any]) -> None:
        """Learn one task from a checked support set."""
        self._check_row_shape(X, meta.spec.support_shape)
        learner = self._current_learner(meta)
        make = self._tensor_maker()
        target, decoder = encode_support(meta, make, y)
        with torch.no_grad():
            state = learner.adapt(make.support(X), target, None)
        self._adapted = (learner, state, decoder)
        self._fit_parameters = snapshot_parameters(self._parameters())

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the raw outputs [n_queries, C] of the adapted learner."""
        if "_adapted" not in vars(self):
            self._raise_not_fitted()
        precision = self._fit_parameters["precision"]
        rows = self._check_rows(X, reset=False, dtype=NUMPY_DTYPES[precision])
        self._check_row_shape(rows, self._meta.spec.input_shape)
        learner, state, _ = self._adapted
        make = TensorMaker(_device_of(state), DTYPES[precision])
        parts = []
        with torch.no_grad():
            if learner.transductive:  # otherwise the rows need not be tensors all at once
                state = learner.refine(state, make.features(rows).unsqueeze(0), None)
            for i in range(0, rows.shape[0], _QUERY_ROWS):
                x = make.features(rows[i : i + _QUERY_ROWS])
                # Matrix products round a last, incomplete block of rows differently; padding to
                # whole blocks makes a prediction the same bits whatever rows come with it.
                n_real = len(x)
                x = torch.cat([x, x.new_zeros(-n_real % _ROW_BLOCK, *x.shape[1:])])
                parts.append(learner.predict(state, x.unsqueeze(0))[0, :n_real])
        return check_finite(torch.cat(parts).double().cpu().numpy())

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
        self._check_parameters(meta)
        if meta is None:
            raise NotFittedError(
                f"predict_tasks needs a meta-fitted {type(self).__name__}; call meta_fit first."
            )
        tasks = as_task_set(tasks)
        if isinstance(tasks, TaskSet):
            return predict_tasks(self, meta, tasks, method)
        raise TypeError("predict_tasks needs a sequence of tasks, got an iterator; list it.")

    # ------------------------------------------------------------------ parameters and data

    def _check_parameters(self, meta: MetaState | None) -> None:
        """Refuse parameters out of range, and those changed that meta-training depended on.

        Where all are as ``meta_fit`` or the last ``fit`` had them, they were checked there.
        """
        now = self._parameters()
        if meta is not None and are_alike(now, meta.parameters):
            return
        if not are_alike(now, vars(self).get("_fit_parameters", {})):
            self._validate_params()
        if meta is not None:
            self._check_unchanged(meta)

    def _current_learner(self, meta: MetaState) -> Learner:
        """Return the meta-trained learner with this estimator's adaptation parameters."""
        now, device = self._parameters(), self._torch_device()
        own = self._adaptation_parameters - SharedParameters._adaptation_parameters
        if "_adapted" in vars(self) and not changed_parameters(now, self._fit_parameters, own):
            learner, state, _ = self._adapted
            if _device_of(state) == device:
                return learner
        meta = meta.on(device)
        if not changed_parameters(now, meta.parameters, own):
            return meta.learner
        with own_generators():
            learner = self._make_learner(meta.spec)
        # Buffers that are no part of the state dict follow the weights.
        learner.to(device, DTYPES[self.precision])
        learner.load_state_dict(meta.learner.state_dict(), assign=True)
        return learner.requires_grad_(False).eval()

    def _check_rows(self, X: Any, *, reset: bool, **options: Any) -> Any:
        """Check rows, those of queries at least, as scikit-learn does."""
        return check_rows(self, X, reset=reset, **options)

    def _check_support_rows(self, X: Any, *, reset: bool, **options: Any) -> Any:
        """Check rows of a support set."""
        return self._check_rows(X, reset=reset, **options)

    def _see_features(self, X_support: Any, X_query: Any) -> None:
        """Take the features of the first rows for those of all."""
        self._check_rows(X_support, reset=True, ensure_all_finite=False)

    def _check_row_shape(self, X: Any, shape: tuple[int, ...]) -> None:
        if self.__fewshot_tags__().any_features:
            check_flat(X)
            return
        if X.shape[1:] != shape:
            got = tuple(X.shape[1:])
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
