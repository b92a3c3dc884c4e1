"""How a few-shot estimator answers scikit-learn's protocols: clone, pickle, callbacks, display."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin

from . import persistence
from ._meta_state import MetaState, is_alike, snapshot_parameters
from ._parameters import SharedParameters
from ._training import IterationHook
from .utils._sklearn import _clone_parametrized, estimator_html_repr

MakeHook = Callable[[Callable[[], MetaState]], IterationHook]


class EstimatorProtocols(CallbackSupportMixin, SharedParameters, BaseEstimator):
    """What an estimator with a meta state shows to scikit-learn."""

    def _user_meta(self) -> MetaState | None:
        """Return what ``meta_fit`` learned; what a plain ``fit`` learned belongs to that fit."""
        meta: MetaState | None = vars(self).get("_meta")
        return None if meta is None or meta.from_fit else meta

    def _publish(self, meta: MetaState) -> None:
        """Make a meta state this estimator's and show it in public attributes."""
        self._meta = meta
        self.__dict__.update(meta.features)
        self.n_meta_iter_ = self.n_iter_ = meta.log.n_iter
        self.meta_loss_curve_ = meta.log.losses
        self.validation_scores_ = meta.log.validation_scores

    @contextmanager
    def _callback_task(
        self, name: str, max_subtasks: int, X: Any = None, y: Any = None
    ) -> Iterator[MakeHook | None]:
        """Announce a fit to scikit-learn's callbacks.

        Yields what makes, from a function that returns the meta state of the moment, the hook that
        announces each iteration; None without callbacks.
        """
        data = {"estimator": self, "X": X, "y": y}
        root = self._init_callback_context(task_name=name, max_subtasks=max_subtasks)
        root.call_on_fit_task_begin(**data)

        def make_hook(now: Callable[[], MetaState]) -> IterationHook:
            @contextmanager
            def around(iteration: int) -> Iterator[Callable[[], bool]]:
                step = root.subcontext(task_name="meta-iteration")
                step.call_on_fit_task_begin(**data)
                yield lambda: step.call_on_fit_task_end(
                    **data, reconstruction_attributes=lambda: self._as_of(now(), X, y)
                )

            return around

        yield make_hook if hasattr(self, "_skl_callbacks") else None
        root.call_on_fit_task_end(**data, reconstruction_attributes=dict)

    def _as_of(self, meta: MetaState, X: Any, y: Any) -> dict[str, Any]:
        """Return the attributes that this estimator would have if training stopped now."""
        twin: Any = copy.copy(self)
        twin._publish(meta)
        if X is not None:
            twin._adapt(meta, *twin._check_support(X, y, reset=False))
        return vars(twin)

    def __sklearn_is_fitted__(self) -> bool:
        return "_adapted" in vars(self)

    def __sklearn_clone__(self) -> Self:
        clone: Self = _clone_parametrized(self)
        meta = self._user_meta()
        if meta is not None:
            # The clone's nn.Module parameters are copies: compare later changes with those.
            own, now = self._parameters(), snapshot_parameters(clone._parameters())
            then = meta.parameters.items()
            kept = {name: value for name, value in then if not is_alike(own[name], value)}
            clone._publish(replace(meta, parameters=now | kept))
        return clone

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        cpu = torch.device("cpu")
        if state.get("_meta") is not None:
            state["_meta"] = state["_meta"].on(cpu)
        if "_adapted" in state:
            learner, tensors, columns = state["_adapted"]
            device = next(iter(tensors.values())).device
            if device != cpu:
                tensors = {name: t.to(cpu) for name, t in tensors.items()}
                learner = replace(self._meta, learner=learner).on(cpu).learner
                state["_adapted"] = (learner, tensors, columns)
        return state

    def _html_repr(self) -> str:
        html = estimator_html_repr(self)
        status = "New" if self._user_meta() is None else "Meta-fitted"
        return html.replace("<span>Not fitted</span>", f"<span>{status}</span>", 1)

    def save(self, path: Any) -> None:
        """Write the meta-fitted estimator to a file that holds no code.

        Parameters
        ----------
        path : str or path-like
            A safetensors file with the parameters as JSON in its header; read it with
            :func:`fewshot_sklearn.load`. Needs the extra ``save``.
        """
        persistence.save(self, path)
