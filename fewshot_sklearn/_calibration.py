"""How sure to be: the temperature that fits probabilities to validation tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ._inference import query_outputs
from .nn import Learner
from .nn.functional import cross_entropy, mask_absent_classes
from .tasks._batch import TaskBatch

_LOWEST, _HIGHEST = math.log(1e-3), math.log(1e3)


def fit_temperature(learner: Learner, batches: Sequence[TaskBatch]) -> float:
    r"""Return the temperature of the logits with the least query loss over some tasks [1]_.

    .. math::
        \min_T \; -\sum_{(x, y)} \sum_k t_k \log \operatorname{softmax}(f(x) / T)_k

    The targets t are not quite one-hot but what Platt takes [2]_: with N rows, one of N + 2 goes to
    all classes alike. Where every row is predicted rightly, no finite number of rows then makes the
    probabilities certain.

    Parameters
    ----------
    learner : Learner
        In evaluation mode; a classifier.
    batches : sequence of TaskBatch

    Returns
    -------
    temperature : float
        Between 0.001 and 1000; 1 where no task has two classes. No class gets another rank by it.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger (2017). "On calibration of modern neural networks."
       ICML, section 4.2.
    .. [2] Platt (1999). "Probabilistic outputs for support vector machines." Advances in Large
       Margin Classifiers.
    """
    if not any(_n_classes(batch).max() > 1 for batch in batches):
        return 1.0
    with torch.no_grad():
        logits = [query_outputs(learner, batch).double() for batch in batches]
    n_rows = sum(int(batch.y_query.sum()) for batch in batches)
    targets = [_smoothed(batch, 1 / (n_rows + 2)) for batch in batches]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        losses = [
            cross_entropy(mask_absent_classes(z * scale, b.class_mask), t, b.query_mask)
            for z, t, b in zip(logits, targets, batches, strict=True)
        ]
        return float(torch.cat(losses).mean())

    # The loss is convex in 1 / T, so that it has one minimum in log T too.
    found = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return math.exp(found.x)


def _n_classes(batch: TaskBatch) -> Tensor:
    """Return the number of classes of each task [T]."""
    if batch.class_mask is None:
        return torch.full((len(batch),), batch.y_query.shape[-1])
    return batch.class_mask.sum(dim=-1)


def _smoothed(batch: TaskBatch, share: float) -> Tensor:
    """Return one-hot labels [T, Q, C] of which a share goes to all classes of the task alike."""
    y = batch.y_query.double()
    present = torch.ones_like(y[:, :1]) if batch.class_mask is None else batch.class_mask[:, None]
    return (1 - share) * y + share * present / present.sum(dim=-1, keepdim=True)
