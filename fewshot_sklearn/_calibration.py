"""How sure to be: the temperature that fits probabilities to validation tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from .nn import Learner
from .nn.functional import cross_entropy, mask_absent_classes
from .tasks._batch import TaskBatch

_LOWEST, _HIGHEST = math.log(1e-3), math.log(1e3)


def fit_temperature(learner: Learner, batches: Sequence[TaskBatch]) -> float:
    r"""Return the temperature of the logits with the least query loss over some tasks [1]_.

    .. math::
        \min_T \; -\sum_{(x, y)} \log \operatorname{softmax}(f(x) / T)_y

    Parameters
    ----------
    learner : Learner
        In evaluation mode; a classifier.
    batches : sequence of TaskBatch

    Returns
    -------
    temperature : float
        Between 0.001 and 1000. No class gets another rank by it.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger (2017). "On calibration of modern neural networks."
       ICML, section 4.2.
    """
    with torch.no_grad():
        logits = [_query_logits(learner, batch) for batch in batches]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        losses = [
            cross_entropy(
                mask_absent_classes(z * scale, b.class_mask), b.y_query.double(), b.query_mask
            )
            for z, b in zip(logits, batches, strict=True)
        ]
        return float(torch.cat(losses).mean())

    # The loss is convex in 1 / T, so that it has one minimum in log T too.
    found = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return math.exp(found.x)


def _query_logits(learner: Learner, batch: TaskBatch) -> Tensor:
    state = learner.adapt(batch.x_support, batch.y_support, batch.support_mask)
    return learner.predict(state, batch.x_query).double()
