"""The package's own warnings and errors."""

__all__ = ["MetaTrainingError", "NotMetaFittedWarning", "SkippedTaskWarning", "TaskError"]


class NotMetaFittedWarning(UserWarning):
    """An estimator was fitted without any meta-training and adapts from its initial weights."""


class SkippedTaskWarning(UserWarning):
    """Tasks from which nothing can be learned were left out of meta-training."""


class TaskError(ValueError):
    """A task that cannot be used; the message names its index or its name."""


class MetaTrainingError(RuntimeError):
    """Meta-training produced a loss or a gradient that is not finite.

    Parameters
    ----------
    message : str
        What happened and what to do.
    iteration : int or None, default=None
        The meta-iteration at which it happened.

    Attributes
    ----------
    iteration : int or None
        The meta-iteration at which it happened.

    Examples
    --------
    >>> from fewshot_sklearn.exceptions import MetaTrainingError
    >>> MetaTrainingError("the loss is nan; lower meta_learning_rate.", iteration=7).iteration
    7
    """

    def __init__(self, message: str, *, iteration: int | None = None) -> None:
        super().__init__(message)
        self.iteration = iteration
