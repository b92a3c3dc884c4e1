"""Pre-training on all tasks at once, which several methods begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import FewShotEstimator, TaskSpec
from ..nn import Learner, embedding_size
from ..nn.functional import all_rows, cross_entropy, mask_absent_classes
from ..nn.learner import Loss

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class PretrainedLearner(Learner):
    r"""Learn the backbone by predicting all training rows with one head [1]_ [2]_.

    Where a label is the same concept in every task, as in episodes cut from one data set, there
    is one softmax over all concepts of the training set,

    .. math:: \min_{\phi, w} \; -\sum_{(x, y)} \log \frac{\exp s(w_y, f_\phi(x))}
                                                  {\sum_{k} \exp s(w_k, f_\phi(x))},

    otherwise each task has concepts of its own, which the sum runs over: multi-task learning.

    A subclass writes ``adapt`` and ``predict``, which leave the head alone.

    Parameters
    ----------
    backbone : nn.Module
        f, rows [N, *] to embeddings [N, D].
    head : nn.Module
        s: ``head(z, concepts)``, as :class:`~fewshot_sklearn.nn.LinearHead`.
    n_concepts : int
    shared_concepts : bool
        Whether tasks have concepts in common.
    loss : callable, default=cross_entropy

    References
    ----------
    .. [1] Chen, Liu, Kira, Wang, Huang (2019). "A closer look at few-shot classification." ICLR.
    .. [2] Stanley et al. (2021). "FS-Mol: a few-shot learning dataset of molecules." NeurIPS
       datasets and benchmarks.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        n_concepts: int,
        shared_concepts: bool,
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(loss)
        self.backbone = backbone
        self.head = head
        self.n_concepts = n_concepts
        self.shared_concepts = shared_concepts

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean over tasks of the mean loss of their rows, support and query alike."""
        if batch.concepts is None:
            raise ValueError("pre-training needs batch.concepts, what each column stands for.")
        x, y, mask = all_rows(batch)
        z = self.embed(self.backbone, x)
        if self.shared_concepts:
            numbers = torch.arange(self.n_concepts, device=y.device)
            one_hot = (batch.concepts.unsqueeze(-1) == numbers).to(y.dtype)
            outputs, y = self.head(z, None), y @ one_hot
        else:
            outputs = self.head(z, batch.concepts.clamp_min(0))
            outputs = mask_absent_classes(outputs, batch.class_mask)
        return self.loss(outputs, y, mask).mean()


@dataclass(kw_only=True, eq=False, repr=False)
class _PretrainedEstimator(FewShotEstimator):
    """What the estimators with pre-training share."""

    _uses_concepts: ClassVar[bool] = True

    def _pretraining(
        self, spec: TaskSpec, make_head: Callable[[int, int], nn.Module]
    ) -> dict[str, Any]:
        """Return the parameters of :class:`PretrainedLearner`."""
        if spec.n_concepts is None:
            raise ValueError(
                f"{type(self).__name__} learns a vector for each class of its training tasks, so "
                "the TaskSpec must say how many there are: n_concepts is None."
            )
        backbone = self._build_backbone(spec.input_shape)
        n_features = embedding_size(backbone, spec.input_shape)
        return {
            "backbone": backbone,
            "head": make_head(n_features, spec.n_concepts),
            "n_concepts": spec.n_concepts,
            "shared_concepts": spec.shared_concepts,
        }
