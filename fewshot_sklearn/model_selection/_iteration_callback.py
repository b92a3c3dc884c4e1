"""Show the meta-iterations of a wrapped estimator to the callbacks of the one that wraps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.callback import AutoPropagatedCallback, CallbackContext


def has_own_callbacks(learner: Any) -> bool:
    """Return whether an estimator has callbacks that scikit-learn does not pass on."""
    return any(not isinstance(cb, AutoPropagatedCallback) for cb in _callbacks(learner))


@contextmanager
def repeat_iterations(
    estimator: Any, context: CallbackContext, data: dict[str, Any]
) -> Iterator[None]:
    """Repeat an estimator's meta-iterations as the learner's, for callbacks that stay with it.

    Parameters
    ----------
    estimator : estimator
        What is meta-fitted in this block.
    context : CallbackContext
        The learner's fit.
    data : dict
        What the learner's callbacks get: ``estimator``, which is the learner, ``X`` and ``y``.
    """
    if not (has_own_callbacks(data["estimator"]) and hasattr(estimator, "set_callbacks")):
        yield
        return
    inner = _callbacks(estimator)
    estimator.set_callbacks(*inner, _IterationCallback(inner, context, data))
    yield
    estimator.set_callbacks(*inner)


def _callbacks(estimator: Any) -> list[Any]:
    return list(getattr(estimator, "_skl_callbacks", []))


class _IterationCallback:
    """Makes each task within an estimator's meta-fit a task of the learner that wraps it."""

    def __init__(self, inner: list[Any], context: CallbackContext, data: dict[str, Any]) -> None:
        self._inner, self._context, self._data = inner, context, data

    def setup(self, estimator: Any, context: CallbackContext) -> None:
        self._meta_fit = context
        self._all = self._context.subcontext("meta-iterations", max_subtasks=context.max_subtasks)
        self._all.call_on_fit_task_begin(**self._data)

    def teardown(self, estimator: Any, context: CallbackContext) -> None:
        self._all.call_on_fit_task_end(**self._data)

    def on_fit_task_begin(self, estimator: Any, context: CallbackContext) -> None:
        if context is not self._meta_fit:
            self._step = self._all.subcontext(context.task_name)
            self._step.call_on_fit_task_begin(**self._data)

    def on_fit_task_end(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> bool:
        if context is self._meta_fit:
            return False
        state = None
        if fitted_estimator is not None:
            state = {"estimator_": fitted_estimator.set_callbacks(*self._inner)}
        return self._step.call_on_fit_task_end(**self._data, reconstruction_attributes=state)
