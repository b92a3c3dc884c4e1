"""How the shell predicts: from labels to tensors, and from outputs back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._loading import make_loader
from ._meta_state import MetaState
from .nn import Learner
from .tasks import TaskSet
from .tasks._batch import TaskBatch
from .tasks._targets import Columns, RealTargets
from .tasks._tensors import TensorMaker

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator

_METHODS = ("predict", "predict_proba", "decision_function")
# Query rows that go through a learner at once: they bound its memory.
MOST_QUERY_ROWS = 4096


def query_outputs(learner: Learner, batch: TaskBatch) -> torch.Tensor:
    """Adapt to every task of a batch and return the outputs of its query rows [T, Q, C]."""
    size = learner.tasks_at_once(batch)
    if size < len(batch):
        parts = [batch[i : i + size] for i in range(0, len(batch), size)]
        return torch.cat([query_outputs(learner, part) for part in parts])
    state = learner.adapt(batch.x_support, batch.y_support, batch.support_mask)
    state = learner.for_queries(state, batch.x_query, batch.query_mask)
    pieces = batch.x_query.split(max(1, MOST_QUERY_ROWS // len(batch)), dim=1)
    return torch.cat([learner.predict(state, x) for x in pieces], dim=1)


def encode_support(
    meta: MetaState, make: TensorMaker, y: NDArray[Any], *, where: str = "the support set"
) -> tuple[torch.Tensor, Columns | RealTargets]:
    """Return the labels of one support set as [1, S, C], and what turns outputs back."""
    if isinstance(meta.targets, RealTargets):
        targets = replace(meta.targets, single=y.ndim == 1)
        return make.features(targets.encode(y, where=where)).unsqueeze(0), targets
    codes, _, columns = meta.targets.encode(y, None, where=where)
    n_columns = meta.targets.width([columns])
    return make.one_hot(codes[None], None, n_columns), columns


def check_finite(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outputs, or say why some of them mean nothing."""
    if not np.isfinite(outputs).all():
        raise ValueError(
            "the outputs must be finite, but some are NaN or infinite: the support or query rows "
            "are too large for the network, or the adaptation diverged; scale the features or "
            "take smaller inner steps (a lower inner_learning_rate)."
        )
    return outputs


def predict_tasks(
    estimator: FewShotEstimator, meta: MetaState, tasks: TaskSet, method: str
) -> list[NDArray[Any]]:
    """Adapt to and predict every task, in batches of tasks of like size."""
    if method not in _METHODS or not hasattr(estimator, method):
        raise ValueError(
            f"{type(estimator).__name__} has no method {method!r} for tasks; use one of "
            f"{[m for m in _METHODS if hasattr(estimator, m)]}."
        )
    learner = estimator._current_learner(meta)
    loader = make_loader(estimator, tasks, reset=False, known=meta)
    loader.targets = meta.targets
    predictions: list[Any] = [None] * len(tasks)
    for numbers, batch, columns in loader.in_order(with_query_labels=False):
        with torch.no_grad():
            outputs = query_outputs(learner, batch).double().cpu().numpy()
        lengths = [outputs.shape[1]] * len(numbers)
        if batch.query_mask is not None:
            lengths = batch.query_mask.sum(dim=1).tolist()
        decoders: list[Any] = columns or [meta.targets] * len(numbers)
        for i, raw, length, decoder in zip(numbers, outputs, lengths, decoders, strict=True):
            predictions[i] = estimator._decode(check_finite(raw[:length]), decoder, method)
    return predictions
