"""Whatever a user passes for tasks, made a task set or a stream of tasks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._list import TaskList, same_labels
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._validation import as_task

_FOUR = "(X_support, y_support, X_query, y_query)"
_N_HEAD = 16


class StreamTasks:
    """Tasks pulled from an iterable on demand.

    When the iterable ends, the tasks seen before come again in the same order, from the first.

    Parameters
    ----------
    tasks : iterable of Task or 4-tuples
        May be endless; it is read no further than is asked for.
    shared_classes : bool or None, default=None
        Whether a label means the same in every task. None: it does if the first 16 tasks have the
        same set of labels.
    n_remembered : int, default=10000
        How many of the first tasks are kept to be revisited, so that an endless stream does not
        fill the memory.

    Attributes
    ----------
    n_seen : int
        How many tasks were pulled.
    exhausted : bool
        Whether the iterable has ended.

    See Also
    --------
    as_task_set : Makes a StreamTasks of a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import as_task_set
    >>> X, y = np.eye(2), np.array([0, 1])
    >>> tasks = as_task_set((X, y, X, y) for _ in range(3))
    >>> [task.name for task in tasks.next_tasks(5)]
    [0, 1, 2, 0, 1]
    """

    def __init__(
        self,
        tasks: Iterable[Any],
        *,
        shared_classes: bool | None = None,
        n_remembered: int = 10_000,
    ) -> None:
        self._source = iter(tasks)
        self._given_shared_classes = shared_classes
        self._n_remembered = n_remembered
        self._seen: list[Task] = []
        self._ahead: list[Task] = []
        self._position = 0
        self.n_seen = 0
        self.exhausted = False

    def _pull(self) -> Task | None:
        """Return the next new task, None once there is none."""
        try:
            candidate = next(self._source)
        except StopIteration:
            self.exhausted = True
            if not self.n_seen:
                raise ValueError(
                    "the iterable of tasks is empty; pass at least one task. A generator can be "
                    "used once: make a new one for a second call."
                ) from None
            return None
        task = as_task(candidate, self.n_seen)
        if task.name is None:
            task = replace(task, name=self.n_seen)
        self.n_seen += 1
        if len(self._seen) < self._n_remembered:
            self._seen.append(task)
        return task

    def __iter__(self) -> Iterator[Task]:
        """Iterate without end: new tasks first, then the remembered ones again and again."""
        return self

    def __next__(self) -> Task:
        """Return the next task.

        Raises
        ------
        ValueError
            If the iterable has none at all.
        TaskError
            If what it yields is no task.
        """
        if self._ahead:
            return self._ahead.pop(0)
        task = None if self.exhausted else self._pull()
        if task is None:
            task = self._seen[self._position % len(self._seen)]
            self._position += 1
        return task

    def next_tasks(self, n_tasks: int) -> list[Task]:
        """Return the next tasks.

        Parameters
        ----------
        n_tasks : int
            How many.

        Returns
        -------
        list of Task
            Nameless tasks are named by their position in the stream.

        Raises
        ------
        ValueError
            If the iterable has none at all.
        TaskError
            If what it yields is no task.
        """
        return [next(self) for _ in range(n_tasks)]

    def head(self, n_tasks: int) -> list[Task]:
        """Return the tasks that come next without using them up.

        Parameters
        ----------
        n_tasks : int
            At most how many; fewer if the iterable ends.

        Returns
        -------
        list of Task
            `next_tasks` will return them again.

        Raises
        ------
        ValueError
            If the iterable has none at all.
        TaskError
            If what it yields is no task.
        """
        while len(self._ahead) < n_tasks and not self.exhausted:
            task = self._pull()
            if task is not None:
                self._ahead.append(task)
        return self._ahead[:n_tasks]

    @cached_property
    def shared_classes(self) -> bool:
        """Whether a label means the same in every task."""
        if self._given_shared_classes is not None:
            return self._given_shared_classes
        return same_labels(self.head(_N_HEAD) or self._seen[:_N_HEAD])


def as_task_set(tasks: Any) -> TaskSet | StreamTasks:
    """Make a task set, or a stream of tasks, of whatever holds tasks.

    Parameters
    ----------
    tasks : TaskSet, list or tuple of tasks, or iterable of tasks
        A task is a `Task` or a tuple ``(X_support, y_support, X_query, y_query)``.

    Returns
    -------
    TaskSet or StreamTasks
        A TaskSet and a StreamTasks as they are, a list or tuple as a `TaskList`, any other
        iterable as a `StreamTasks`, which is read on demand.

    Raises
    ------
    TypeError
        If it holds rows instead of tasks, or is a single task or nothing iterable.
    ValueError
        If there are no tasks.
    TaskError
        If one of the listed things is no task.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import as_task_set
    >>> X, y = np.eye(2), np.array([0, 1])
    >>> as_task_set([(X, y, X, y)] * 3)
    TaskList(3 tasks)
    >>> as_task_set(X)
    Traceback (most recent call last):
    ...
    TypeError: tasks must be a sequence of tasks (X_support, ...), got an array of shape (2, 2), ...
    """
    if isinstance(tasks, (TaskSet, StreamTasks)):
        return tasks
    if isinstance(tasks, np.ndarray) and tasks.dtype == object and tasks.ndim == 1:
        tasks = list(tasks)
    if isinstance(tasks, (list, tuple)) and not _is_single_task(tasks):
        if not tasks:
            raise ValueError("at least one task is needed, got an empty list.")
        return TaskList(tasks)
    cure = _cure(tasks)
    if cure is not None:
        raise TypeError(f"tasks must be a sequence of tasks {_FOUR}, got {cure}.")
    return StreamTasks(tasks)


def _is_single_task(tasks: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a list is one task: four arrays, none of which is a task itself."""
    return len(tasks) == 4 and all(
        hasattr(item, "shape") or (isinstance(item, list) and len(item) != 4) for item in tasks
    )


def _cure(tasks: Any) -> str | None:
    """Return what was passed and what to do about it, None if it may be an iterable of tasks."""
    if isinstance(tasks, (Task, list, tuple)):
        return "a single task; put it in a list: [task]"
    if hasattr(tasks, "columns"):
        return "a DataFrame; use GroupedTasks.from_frame(df, task=..., target=...)"
    if hasattr(tasks, "shape"):
        return (
            f"an array of shape {tuple(tasks.shape)}, which holds rows; cut it into tasks with "
            "EpisodicTasks(X, y) or GroupedTasks(X, y, groups)"
        )
    if isinstance(tasks, (str, bytes, Mapping)) or not isinstance(tasks, Iterable):
        return (
            f"{type(tasks).__name__}; use TaskList, EpisodicTasks, GroupedTasks, a list or a "
            "generator of such tuples"
        )
    return None
