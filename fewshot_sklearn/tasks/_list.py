"""Tasks that exist already, as a task set."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._labels import label_set
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._validation import as_task


class TaskList(TaskSet):
    """Tasks with a fixed support and query set.

    A visit does not change them: every visit of a task is the same task.

    Parameters
    ----------
    tasks : iterable of Task or 4-tuples
        Each a ``(X_support, y_support, X_query, y_query)``. Their arrays are not copied.
    shared_classes : bool or None, default=None
        Whether a label means the same in every task. None: it does if every task has the same set
        of labels.
    names : sequence or None, default=None
        A name for every task; None for the names that the tasks have, or their numbers.

    Raises
    ------
    TaskError
        If one of them is no task, is empty, or its rows and labels differ in number.
    TypeError
        If they are not iterable.
    ValueError
        If there are no tasks, or not one name for each.

    See Also
    --------
    as_task_set : Make a task set of whatever holds tasks.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import TaskList
    >>> X, y = np.eye(4), np.array([0, 1, 0, 1])
    >>> tasks = TaskList([(X[:2], y[:2], X[2:], y[2:]), (X[2:], y[2:], X[:2], y[:2])])
    >>> tasks.shared_classes, len(tasks[1:])
    (True, 1)
    """

    _tasks: tuple[Task, ...]
    _shared: bool | None

    def __init__(
        self,
        tasks: Iterable[Any],
        *,
        shared_classes: bool | None = None,
        names: Sequence[Any] | None = None,
    ) -> None:
        if not isinstance(tasks, Iterable):
            raise TypeError(
                "a TaskList is made of an iterable of tasks (X_support, y_support, X_query, "
                f"y_query), got {type(tasks).__name__}."
            )
        made = tuple(as_task(task, index) for index, task in enumerate(tasks))
        if not made:
            raise ValueError("a TaskList needs at least one task, got none.")
        if names is None:
            names = [i if task.name is None else task.name for i, task in enumerate(made)]
        super().__init__(len(made), names=names, random_state=0)
        del self.__dict__["shared_classes"]
        self._store(_tasks=made, _shared=shared_classes)

    @cached_property
    def shared_classes(self) -> bool:  # type: ignore[override]
        """Whether a label means the same in every task."""
        return same_labels(self._tasks) if self._shared is None else self._shared

    def _make_task(self, task_id: int, visit: int) -> Task:
        return self._tasks[task_id]


def same_labels(tasks: Sequence[Task]) -> bool:
    """Return whether all tasks have the same set of labels, support and query together."""
    first, *others = tasks
    labels = label_set(first.y_support, first.y_query)
    return all(label_set(task.y_support, task.y_query) == labels for task in others)
