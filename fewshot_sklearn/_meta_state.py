"""What meta-training learned, kept apart from the estimator that shows it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._training_run import TrainingLog
from .nn import BackboneSpec, Learner
from .tasks._targets import ClassTargets, RealTargets

# What scikit-learn's validation leaves on an estimator, and a meta state remembers.
FEATURE_ATTRIBUTES = (
    "n_features_in_",
    "feature_names_in_",
    "n_description_features_",
    "description_feature_names_",
)


@dataclass(frozen=True)
class TaskSpec:
    """What a learner has to know about the tasks before it is made.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one query row.
    n_outputs : int
        The largest number of classes of a task, or the number of targets.
    shared_classes : bool
        Whether a label means the same in every task; False in regression.
    support_shape : tuple of int
        Shape of one support row; by default that of a query row.
    n_concepts : int or None
        How many things the columns of the training tasks stand for, where the estimator pre-trains
        on them; otherwise None.
    shared_concepts : bool
        Whether a label is the same of these things in every task.
    concepts_of : str
        A checksum of the tasks whose concepts were numbered.
    n_support : int
        The number of support rows of the largest task.
    """

    input_shape: tuple[int, ...]
    n_outputs: int
    shared_classes: bool
    support_shape: tuple[int, ...] = ()
    n_concepts: int | None = None
    shared_concepts: bool = False
    concepts_of: str = ""
    n_support: int = 1

    def __post_init__(self) -> None:
        """Take the shape of a query row for that of a support row where none is given."""
        object.__setattr__(self, "support_shape", self.support_shape or self.input_shape)


@dataclass(frozen=True)
class MetaState:
    """The result of meta-training. Clones of an estimator share one; nobody changes it.

    Attributes
    ----------
    spec : TaskSpec
    learner : Learner
        In evaluation mode.
    log : TrainingLog
    targets : ClassTargets or RealTargets
    parameters : dict
        The estimator's parameters as they were.
    features : dict
        ``n_features_in_`` and, where known, ``feature_names_in_``; the same two of descriptions.
    n_epochs : int
        Visits of every task so far.
    temperature : float
        Divides a classifier's logits; 1 where no validation tasks taught another.
    from_fit : bool
        Whether a plain ``fit`` made it, to which it then belongs.
    """

    spec: TaskSpec
    learner: Learner
    log: TrainingLog
    targets: ClassTargets | RealTargets
    parameters: Mapping[str, Any]
    features: Mapping[str, Any]
    n_epochs: int = 0
    temperature: float = 1.0
    from_fit: bool = False

    def on(self, device: torch.device) -> MetaState:
        """Return the same state with its tensors on ``device``."""
        tensors = [*self.learner.parameters(), *self.learner.buffers()]
        if all(t.device == device for t in tensors):
            return self
        return replace(self, learner=copy.deepcopy(self.learner).to(device))


def snapshot_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters such that a later change of a specification does not reach them."""
    return {k: copy.copy(v) if isinstance(v, BackboneSpec) else v for k, v in values.items()}


def changed_parameters(
    now: Mapping[str, Any], then: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
    """Return which of the named parameters differ."""
    return [name for name in names if not _same(now[name], then[name])]


def are_alike(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    """Return whether all parameters are the same down to their types.

    What was checked of the ones then holds for the others.
    """
    return now.keys() == then.keys() and all(is_alike(a, then[name]) for name, a in now.items())


def is_alike(a: Any, b: Any) -> bool:
    """Return whether two values of a parameter are the same down to their type."""
    return a is b or (type(a) is type(b) and _same(a, b))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, BackboneSpec) and type(a) is type(b):
        others = b.get_params()
        return all(_same(value, others[name]) for name, value in a.get_params().items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Number) and isinstance(b, Number):
        return isinstance(a, (bool, np.bool_)) == isinstance(b, (bool, np.bool_)) and a == b
    return type(a) is type(b) and bool(np.all(a == b))


def target_scale(ys: list[NDArray[Any]], *, normalize: bool) -> RealTargets:
    """Return the standardisation of the targets of some tasks.

    Parameters
    ----------
    ys : list of ndarray of shape (n,) or (n, n_outputs)
    normalize : bool
        False leaves targets as they are.
    """
    single = ys[0].ndim == 1
    pooled = np.concatenate([np.asarray(y, dtype=np.float64).reshape(len(y), -1) for y in ys])
    n_outputs = pooled.shape[1]
    if not normalize:
        return RealTargets(np.zeros(n_outputs), np.ones(n_outputs), single)
    scale = pooled.std(axis=0)
    return RealTargets(pooled.mean(axis=0), np.where(scale > 0, scale, 1.0), single)
