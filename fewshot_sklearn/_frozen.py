"""Transformers that are fitted once and kept as they are, and what was changed since."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Number
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if

from ._distributed import World
from .tasks import as_task_set, map_rows
from .tasks._transformed import RowPool, pool_rows

# Parameters of transformers that do not change what they do.
_HARMLESS = frozenset({"n_jobs", "verbose"})
# What a vocabulary of many words holds: nothing to look into.
_PLAIN = frozenset({bool, int, float, str, type(None), np.int32, np.int64, np.ndarray})


@dataclass(frozen=True)
class FrozenSteps:
    """The steps of a pipeline as ``meta_fit`` left them.

    Attributes
    ----------
    steps : tuple of (str, object)
        The fitted objects themselves.
    given : dict
        The transformers as they were before, by the name of the step: what they were fitted with.
    """

    steps: tuple[tuple[str, Any], ...]
    given: Mapping[str, Any]

    def transform(self, X: Any) -> Any:
        """Apply all steps but the last to rows."""
        for _, step in self.steps[:-1]:
            if not is_skipped(step):
                X = step.transform(X)
        return X

    def transform_tasks(self, tasks: Any, *, first_visit: bool = False) -> Any:
        """Apply all steps but the last to the rows of tasks, see :func:`map_rows`."""
        if all(is_skipped(step) for _, step in self.steps[:-1]):
            return tasks
        return map_rows(tasks, self.transform, first_visit=first_visit)

    def from_main(self, world: World) -> FrozenSteps:
        """Return the steps with the transformers of the main process; the last one is one's own."""
        if world.size == 1:
            return self
        given, last = self.given, self.steps[-1]
        sent = _pickled((self.steps[:-1], given)) if world.is_main else b""
        steps, given = pickle.loads(world.from_main(sent))
        return FrozenSteps((*steps, last), given)

    def part(self, where: slice) -> FrozenSteps:
        """Return some of the steps."""
        return FrozenSteps(self.steps[where], self.given)

    def check(self, steps: list[tuple[str, Any]]) -> None:
        """Raise a ValueError that names what was changed since, if anything was."""
        names, known = [name for name, _ in steps], [name for name, _ in self.steps]
        if names != known:
            raise ValueError(
                f"the steps {names} were changed after meta_fit, which had {known}; call meta_fit "
                "again, or set them back."
            )
        for (name, step), (_, kept) in zip(steps, self.steps, strict=True):
            if step is not kept and not (is_skipped(step) and is_skipped(kept)):
                raise ValueError(
                    f"the step {name!r} was exchanged after meta_fit; call meta_fit again, or put "
                    "back what it fitted."
                )
            for changed, now, then in _changes(step, self.given.get(name, step)):
                raise ValueError(
                    f"{name}__{changed}={now!r} was changed after meta_fit, which fitted this step "
                    f"with {name}__{changed}={then!r}; call meta_fit again, or set it back. To "
                    "search it over tasks, wrap the pipeline in TaskLearner."
                )


def is_skipped(step: Any) -> bool:
    """Return whether a step of a pipeline does nothing."""
    return step is None or (isinstance(step, str) and step == "passthrough")


def last_step_has(method: str) -> Callable[[Any], bool]:
    """Return a check of whether the last step has a method, which says what it must be."""

    def check(pipeline: Any) -> bool:
        last = pipeline.steps[-1][1]
        if not hasattr(last, method):
            raise AttributeError(
                f"the last step must be a few-shot estimator, with {method}, got {last!r}."
            )
        return True

    return check


def pipeline_has(method: str) -> Callable[[Any], bool]:
    """Return a check of whether a pipeline's steps give it a method of scikit-learn's Pipeline."""
    return lambda pipeline: callable(vars(Pipeline)[method].__get__(pipeline, type(pipeline)))


def with_check(method: str) -> Any:
    """Return a method of scikit-learn's Pipeline that first refuses transformers changed since."""
    inherited = getattr(Pipeline, method)

    @wraps(inherited)
    def call(pipeline: Any, *args: Any, **params: Any) -> Any:
        if pipeline._is_meta_fitted():
            pipeline._checked_frozen()
        return inherited(pipeline, *args, **params)

    return available_if(pipeline_has(method))(call)


def check_seeded(steps: Sequence[tuple[str, Any]]) -> None:
    """Refuse transformers that a second call would fit to the same rows with other draws.

    Raises
    ------
    ValueError
        When a ``random_state`` is no int; the message names it.
    """
    for step, transformer in steps[:-1]:
        given = {} if is_skipped(transformer) else transformer.get_params()
        for name, value in given.items():
            if name.rpartition("__")[2] == "random_state" and not isinstance(value, Integral):
                raise ValueError(
                    "a checkpoint needs transformers that the call that goes on fits alike, but "
                    f"{step}__{name} is {value!r}; set it to an int."
                )


def fit_transformers(
    steps: Sequence[tuple[str, Any]], tasks: Any, *, world: World, **options: Any
) -> tuple[FrozenSteps, Any]:
    """Fit clones of all steps but the last to the pooled rows of tasks.

    Parameters
    ----------
    steps : sequence of (str, estimator) tuples
        The last one is taken over as it is.
    tasks : TaskSet, list or iterable of tasks
    world : World
        Of several processes the main one fits, and all transform their tasks with its result.
    **options
        ``memory`` and ``verbose`` of scikit-learn's Pipeline.

    Returns
    -------
    frozen : FrozenSteps
    tasks : TaskSet or StreamTasks
        The transformed tasks.
    """
    tasks = as_task_set(tasks)
    name, last = steps[-1]
    new = [(key, step if is_skipped(step) else clone(step)) for key, step in steps[:-1]]
    given = {key: copy_estimator(step) for key, step in new if not is_skipped(step)}
    frozen = FrozenSteps(tuple(steps), given)
    if not given:
        return frozen, tasks
    rebuild = None
    if world.is_main:
        pool = pool_rows(tasks)
        front = Pipeline([*new, (name, "passthrough")], **options)
        Xt = _fit_transform(front, pool)
        frozen = FrozenSteps((*front.steps[:-1], (name, last)), given)
        rebuild = pool.rebuild if world.size == 1 else None
    frozen = frozen.from_main(world)
    return frozen, frozen.transform_tasks(tasks) if rebuild is None else rebuild(Xt)


def _fit_transform(front: Pipeline, pool: RowPool) -> Any:
    """Fit transformers to pooled rows; where they fail for want of labels, say why."""
    try:
        return front.fit_transform(pool.X, pool.y)
    except (TypeError, ValueError) as error:
        if pool.y is not None:
            raise
        raise ValueError(
            f"{error} The transformers were fitted without labels, because {pool.without_y}; "
            "where that is the cause, take transformers that need none."
        ) from error


def _pickled(transformers: Any) -> bytes:
    """Return what the other processes get."""
    try:
        return pickle.dumps(transformers)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            "in several processes the main one sends its transformers to the others, but these "
            f"cannot be pickled ({error}); define functions and classes at the top of a module."
        ) from error


def copy_estimator(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy an estimator and all estimators in it, fitted or not, but none of their arrays.

    Setting parameters of the copy, or fitting it again, leaves the original as it is.

    Parameters
    ----------
    value : object
        An estimator, or lists, tuples and dicts of estimators and other things.
    memo : dict or None, default=None
        What was copied already, by its identity.
    """
    if type(value) in _PLAIN:
        return value
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    if hasattr(value, "get_params") and not isinstance(value, type):
        new = memo[id(value)] = copy(value)
        for name, member in vars(value).items():
            vars(new)[name] = copy_estimator(member, memo)
        return new
    if type(value) is dict:
        if _PLAIN.issuperset(map(type, value.values())):
            return value.copy()
        return {key: copy_estimator(member, memo) for key, member in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copy_estimator(member, memo) for member in value)
    return value


def _changes(now: Any, then: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parameters of an estimator that differ, with both values, the innermost first."""
    if not hasattr(now, "get_params"):
        return
    new, old = now.get_params(), then.get_params()
    for name in sorted(old, key=lambda name: (-name.count("__"), name)):
        if name.rpartition("__")[2] not in _HARMLESS and not _same(new.get(name), old[name]):
            yield name, new.get(name), old[name]


def _same(a: Any, b: Any) -> bool:
    """Return whether two values of a parameter do the same."""
    if a is b:
        return True
    if isinstance(a, Number) and isinstance(b, Number):
        both_nan = a != a and b != b
        return both_nan or (a == b and isinstance(a, bool) == isinstance(b, bool))
    if type(a) is not type(b):
        return False
    if hasattr(a, "get_params"):
        return not any(True for _ in _changes(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return np.array_equal(a, b, equal_nan=True)
    return bool(np.all(a == b)) if np.shape(a) == np.shape(b) else False
