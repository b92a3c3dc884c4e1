"""How the shell judges the weights during meta-training: by tasks that they do not learn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ._distributed import World
from ._inference import query_outputs
from ._loading import make_loader
from ._meta_state import MetaState
from .exceptions import TaskError
from .nn import Learner
from .nn.functional import mask_absent_classes, task_mean
from .tasks import StreamTasks, TaskSet
from .tasks._batch import TaskBatch
from .tasks._random import stream
from .tasks._targets import ClassTargets

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator


def hold_out(
    tasks: TaskSet | StreamTasks, key: NDArray[np.uint64]
) -> tuple[TaskSet | StreamTasks, TaskSet]:
    """Split a tenth of the tasks off for validation."""
    if isinstance(tasks, StreamTasks) or len(tasks) < 2:
        raise ValueError(
            "early_stopping=True holds out a tenth of the tasks, which needs a sequence of at "
            "least two; pass validation_tasks, or early_stopping=False."
        )
    order = stream(key, 0, 1).permutation(len(tasks))
    n_held_out = max(1, len(tasks) // 10)
    return tasks[np.sort(order[n_held_out:])], tasks[np.sort(order[:n_held_out])]


def validation_batches(
    estimator: FewShotEstimator, meta: MetaState, tasks: TaskSet | StreamTasks | None
) -> list[TaskBatch]:
    """Return the tasks that every validation scores; none without validation tasks."""
    if tasks is None:
        return []
    if isinstance(tasks, StreamTasks):
        raise ValueError(
            "validation_tasks must be a sequence, such as a TaskSet or a list, because every "
            "validation scores the same tasks; got an iterator."
        )
    loader = make_loader(estimator, tasks, reset=False, rows_checked=meta.from_fit, known=meta)
    loader.targets = meta.targets
    try:
        return [batch for _, batch, _ in loader.in_order()]
    except TaskError as error:
        raise TaskError(f"validation_tasks: {error}") from error


def validate(meta: MetaState, batches: list[TaskBatch], world: World) -> float:
    """Score the learner: the higher the better. Each process scores a part of the tasks."""
    classes = isinstance(meta.targets, ClassTargets)
    with world.together():
        scores = [
            score
            for batch in batches[world.rank :: world.size]
            for score in _task_scores(meta.learner, batch, classes=classes).tolist()
        ]
        totals, counts = zip(*world.exchange((math.fsum(scores), len(scores))), strict=True)
    return math.fsum(totals) / sum(counts)


def _task_scores(learner: Learner, batch: TaskBatch, *, classes: bool) -> torch.Tensor:
    """Return each task's accuracy, or minus its mean squared error."""
    outputs = query_outputs(learner, batch)
    if classes:
        outputs = mask_absent_classes(outputs, batch.class_mask)
        rows = (outputs.argmax(-1) == batch.y_query.argmax(-1)).to(batch.y_query.dtype)
    else:
        means = outputs[..., : batch.y_query.shape[-1]]
        rows = -(means - batch.y_query).square().mean(dim=-1)
    return task_mean(rows, batch.query_mask)
