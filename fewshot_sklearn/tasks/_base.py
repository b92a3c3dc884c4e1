"""Immutable sequences of tasks that scikit-learn can split like the rows of an array."""

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_sklearn.tasks._labels import as_name
from fewshot_sklearn.tasks._random import RandomStateLike, resolve_random_state, stream
from fewshot_sklearn.tasks._task import Task


class TaskSet(Sequence[Task], ABC):
    """An immutable sequence of tasks, each a pure function of its number and the visit.

    Integers index single tasks; slices, boolean masks and integer arrays select a smaller task set
    of the same type that shares the data, and whose tasks are those of the parent at every visit.
    ``shape`` makes it a valid ``X`` for scikit-learn's splitters and searches.

    A subclass implements ``_make_task(task_id, visit)``, which takes its randomness from
    ``self._stream(task_id, visit)`` only, and stores attributes with ``self._store``. Where tasks
    of one size are cheaper made together, it may implement ``_make_tasks`` beside it.

    Parameters
    ----------
    n_tasks : int
        The number of tasks.
    names : sequence or None, default=None
        A name for every task; None for their numbers.
    shared_classes : bool, default=False
        Whether a label means the same in every task.
    random_state : int, RandomState, Generator or None, default=None
        What every draw is a function of. None takes fresh entropy once, so that the object still
        agrees with itself and with its pickled copies. NumPy's global generator is never used.

    Attributes
    ----------
    shared_classes : bool
        Whether a label means the same in every task.
    random_state : int or None
        The seed; for a generator the seed that was drawn from it.

    Raises
    ------
    ValueError
        If there is not one name for each task, or ``random_state`` is not one.

    See Also
    --------
    EpisodicTasks : N-way K-shot episodes from one labelled data set.
    GroupedTasks : Each group of rows is a task.
    TaskList : Tasks that exist already.

    Notes
    -----
    The streams come from NumPy's Philox generator with the task and the visit in its counter. They
    do not depend on the machine, the process or the order of access; NumPy keeps bit streams
    between versions, but reserves the right to change how a method such as ``choice`` uses them.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import Task, TaskSet
    >>> class Lines(TaskSet):
    ...     def _make_task(self, task_id, visit):
    ...         rng = self._stream(task_id, visit)
    ...         X = rng.random((4, 1))
    ...         y = task_id * X[:, 0]
    ...         return Task(X[:3], y[:3], X[3:], y[3:], name=task_id)
    >>> lines = Lines(100, random_state=0)
    >>> lines[10:][5]
    Task(X_support=(3, 1), y_support=(3,), X_query=(1, 1), y_query=(1,), name=15)
    """

    shared_classes: bool
    random_state: int | None
    _ids: NDArray[np.int64] | None
    _n_all: int
    _names: NDArray[Any] | None
    _key: NDArray[np.uint64]

    def __init__(
        self,
        n_tasks: int,
        *,
        names: Sequence[Any] | NDArray[Any] | None = None,
        shared_classes: bool = False,
        random_state: RandomStateLike = None,
    ) -> None:
        if names is not None and len(names) != n_tasks:
            raise ValueError(
                f"names must hold one name for each task; got {len(names)} names for "
                f"{n_tasks} tasks."
            )
        seed, key = resolve_random_state(random_state)
        self._store(
            shared_classes=shared_classes,
            random_state=seed,
            _key=key,
            _ids=None,
            _n_all=int(n_tasks),
            _names=None if names is None else _one_dimensional(names),
        )

    @abstractmethod
    def _make_task(self, task_id: int, visit: int) -> Task:
        """Make a task from its original number."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Make tasks one by one where a subclass changes one task but not many."""
        super().__init_subclass__(**options)
        if "_make_task" in vars(cls) and "_make_tasks" not in vars(cls):
            cls._n_at_once = 0  # type: ignore[assignment]

    @property
    def _n_at_once(self) -> int:
        """How many tasks ``_make_tasks`` should make at once; 0 where it cannot."""
        return 0

    def _make_tasks(
        self, task_ids: NDArray[np.int64], visits: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Make several visits: the members of ``_make_task``, bit for bit, stacked [T, ...]."""
        raise NotImplementedError

    def _store(self, **attributes: Any) -> None:
        """Set attributes during construction."""
        vars(self).update(attributes)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse: a task set is immutable."""
        raise AttributeError(
            f"{type(self).__name__} is immutable, so {name!r} cannot be set; make a new one."
        )

    def __delattr__(self, name: str) -> None:
        """Refuse: a task set is immutable."""
        raise AttributeError(f"{type(self).__name__} is immutable, so {name!r} cannot be deleted.")

    def _stream(self, task_id: int, visit: int) -> np.random.Generator:
        """Return the generator that belongs to this visit of this task."""
        return stream(self._key, task_id, visit)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return self._n_all if self._ids is None else len(self._ids)

    @property
    def shape(self) -> tuple[int]:
        """``(len(self),)``: to scikit-learn a task set is an array of tasks."""
        return (len(self),)

    @property
    def task_ids(self) -> NDArray[np.int64]:
        """The original number of every task, shape (n_tasks,)."""
        return np.arange(self._n_all) if self._ids is None else self._ids.copy()

    @property
    def names(self) -> NDArray[Any]:
        """The name of every task, shape (n_tasks,); their original numbers if they have none."""
        return self.task_ids if self._names is None else self._names[self.task_ids]

    def _task_id(self, i: Any) -> int:
        """Return the original number of the task at position i, which may be negative."""
        position = operator.index(i)
        n_tasks = len(self)
        if not -n_tasks <= position < n_tasks:
            raise IndexError(f"task {position} does not exist; this task set has {n_tasks}.")
        position %= n_tasks
        return position if self._ids is None else int(self._ids[position])

    def _name(self, task_id: int) -> Any:
        """Return the name of a task from its original number."""
        name = task_id if self._names is None else self._names[task_id]
        return as_name(name)

    def task(self, i: int, visit: int = 0) -> Task:
        """Return one task.

        Parameters
        ----------
        i : int
            Its position in this task set; negative counts from the end.
        visit : int, default=0
            How often meta-training has visited it: each visit draws a fresh split.

        Returns
        -------
        Task
            A pure function of ``random_state``, the task's original number and ``visit``.

        Raises
        ------
        IndexError
            If there is no such task.
        ValueError
            If ``visit`` is negative.
        """
        return self._make_task(self._task_id(i), visit)

    @overload
    def __getitem__(self, key: int) -> Task: ...
    @overload
    def __getitem__(self, key: slice | ArrayLike) -> Self: ...
    def __getitem__(self, key: Any) -> Any:
        """Return one task at its first visit, or a smaller task set that shares the data."""
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn indexes whatever has a shape as X[key, ...]
        if hasattr(key, "__index__") and not getattr(key, "shape", ()):
            return self.task(key)
        subset = copy.copy(self)
        subset._store(_ids=self.task_ids[self._positions(key)])
        return subset

    def _positions(self, key: Any) -> Any:
        """Return a slice or an integer array that selects tasks."""
        if isinstance(key, slice):
            return key
        positions = np.asarray(key)
        if positions.ndim == 1 and positions.size == 0:
            return positions.astype(np.int64)
        if positions.ndim != 1 or positions.dtype.kind not in "biu":
            raise TypeError(
                "tasks are selected by an integer, a slice, a boolean mask or a one-dimensional "
                f"array of integers; got {key!r}."
            )
        n_tasks = len(self)
        if positions.dtype.kind == "b":
            if len(positions) != n_tasks:
                raise IndexError(
                    f"a boolean mask must have one entry for each of the {n_tasks} tasks; "
                    f"got {len(positions)}."
                )
            return np.flatnonzero(positions)
        if positions.min() < -n_tasks or positions.max() >= n_tasks:
            raise IndexError(
                f"positions must lie below the number of tasks, {n_tasks}; got "
                f"{positions.min()} to {positions.max()}."
            )
        return positions

    def __repr__(self) -> str:
        """Show the number of tasks."""
        return f"{type(self).__name__}({len(self)} tasks)"


def _one_dimensional(names: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Return names as a one-dimensional array, even if a name is a tuple."""
    if isinstance(names, np.ndarray):
        return names
    array = np.empty(len(names), dtype=object)
    for i, name in enumerate(names):
        array[i] = name
    return array
