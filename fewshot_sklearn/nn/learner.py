"""The torch half of a method: adapt to a support set, predict a query set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .functional import cross_entropy, mask_absent_classes

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

State = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def query_losses(loss: Loss, outputs: Tensor, batch: TaskBatch) -> Tensor:
    """Return the loss of every task [T] from the outputs of its query rows [T, Q, C]."""
    outputs = mask_absent_classes(outputs, batch.class_mask)
    return loss(outputs, batch.y_query, batch.query_mask)


class Learner(nn.Module):
    """A few-shot method as two verbs over a batch of tasks; subclass it to add a method.

    A subclass writes :meth:`adapt` and :meth:`predict`, :meth:`update` where its state allows
    that, and :meth:`refine` where it is transductive. Every tensor has the task axis first, and
    tasks never see each other.

    Parameters
    ----------
    loss : callable, default=cross_entropy
        ``loss(outputs, y, mask)`` [T]: one number a task.

    Attributes
    ----------
    n_outputs : int or None
        The number of output columns that the parameters fix. None, the default, says that
        the method takes any number of classes.
    transductive : bool
        Whether the query rows of a task help to predict each other, through :meth:`refine`. False
        by default.
    """

    n_outputs: int | None = None
    transductive: bool = False

    def __init__(self, loss: Loss = cross_entropy) -> None:
        super().__init__()
        self.loss = loss

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Learn each task from its support set.

        Parameters
        ----------
        x : Tensor of shape (T, S, *)
        y : Tensor of shape (T, S, C)
            One-hot labels, or real targets in regression; zero on padding rows.
        mask : bool Tensor of shape (T, S) or None
            False on padding rows.

        Returns
        -------
        state : dict of Tensor
            What the task taught; every tensor has T rows. Parameters and buffers stay as they are.
        """
        raise NotImplementedError

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Learn more support rows of each task: ``update(adapt(a), b)`` is ``adapt(a and b)``.

        Only a learner whose state allows this exactly defines it.

        Parameters
        ----------
        state : what :meth:`adapt` or :meth:`update` returned
            Stays as it is.
        x, y, mask : as in :meth:`adapt`
            Where ``n_outputs`` is None, ``y`` may have more columns than before: the last ones
            then are classes that are new.

        Returns
        -------
        state : dict of Tensor
        """
        raise NotImplementedError

    def refine(self, state: State, x: Tensor, mask: Tensor | None) -> State:
        """Move the state on with unlabelled query rows, at which it may look together.

        Only a transductive learner defines it.

        Parameters
        ----------
        state : what :meth:`adapt` or :meth:`update` returned
            Stays as it is.
        x : Tensor of shape (T, Q, *)
            All query rows of each task.
        mask : bool Tensor of shape (T, Q) or None
            False on padding rows.

        Returns
        -------
        state : dict of Tensor
            For :meth:`predict` of these rows.
        """
        raise NotImplementedError

    def for_queries(self, state: State, x: Tensor, mask: Tensor | None) -> State:
        """Return the state from which these query rows are predicted; as in :meth:`refine`."""
        return self.refine(state, x, mask) if self.transductive else state

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Predict query rows; no row looks at another.

        Parameters
        ----------
        state : what :meth:`adapt`, :meth:`update` or :meth:`refine` returned
        x : Tensor of shape (T, Q, *)

        Returns
        -------
        outputs : Tensor of shape (T, Q, C)
            Logits, or means in regression.
        """
        raise NotImplementedError

    def tasks_at_once(self, batch: TaskBatch) -> int:
        """Return how many tasks of a batch fit in memory together; by default all."""
        return len(batch)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean over tasks of the query loss of ``predict(adapt(support), query)``."""
        state = self.adapt(batch.x_support, batch.y_support, batch.support_mask)
        state = self.for_queries(state, batch.x_query, batch.query_mask)
        outputs = self.predict(state, batch.x_query)
        return query_losses(self.loss, outputs, batch).mean()

    def meta_gradient(self, batch: TaskBatch) -> Tensor:
        """Add the meta-gradient to every parameter's ``grad`` and return the detached loss."""
        loss = self.meta_loss(batch)
        loss.backward()
        return loss.detach()

    def embed(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """Send the rows of all tasks through a backbone at once: [T, N, *] -> [T, N, D]."""
        return backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
