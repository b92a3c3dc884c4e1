"""The one door from numpy to torch: rows are gathered, padded, masked and put on the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks._base import TaskSet
from fewshot_sklearn.tasks._concepts import Concepts
from fewshot_sklearn.tasks._episodic import EpisodicTasks
from fewshot_sklearn.tasks._indexed import IndexedTaskSet
from fewshot_sklearn.tasks._list import TaskList
from fewshot_sklearn.tasks._random import stream
from fewshot_sklearn.tasks._rows import is_memory_mapped, n_rows
from fewshot_sklearn.tasks._stream import StreamTasks
from fewshot_sklearn.tasks._targets import ClassTargets, Columns, RealTargets
from fewshot_sklearn.tasks._task import Task
from fewshot_sklearn.tasks._tensors import (
    RowStore,
    TensorMaker,
    cut_batches,
    map_stacked,
    stack,
    stack_rows,
    widen,
)
from fewshot_sklearn.tasks._tensors import TaskBatch as TaskBatch
from fewshot_sklearn.tasks._validation import as_task, check_same_width, check_targets, describe

# Tasks that are sorted by size at a time, when all of them are gone through.
_WINDOW = 1000

ReadRows = Callable[[Any], Any]
Targets = ClassTargets | RealTargets


@dataclass(frozen=True)
class Draw:
    """One episode before it is stacked: its features are rows, or numbers of rows of a store."""

    x_support: Any
    y_support: NDArray[Any]
    x_query: Any
    y_query: NDArray[Any]
    number: int
    name: Any

    @property
    def where(self) -> str:
        """How an error calls it."""
        return describe(self.number, self.name)


class TaskLoader:
    """Makes batches of any kind of tasks.

    Parameters
    ----------
    tasks : TaskSet or StreamTasks
    make : TensorMaker
    read_support, read_query : callable
        Turns features as users have them into an array or CSR matrix, or raises.
    classifier : bool
        Whether labels are classes.
    any_features : bool, default=False
        Whether tasks may have different features; batches then have the most of any task, zero
        where a task has none.

    Attributes
    ----------
    targets : ClassTargets or RealTargets
        How labels become tensors; set it before the first batch.
    concepts : Concepts or None
        What columns stand for over all tasks, where batches are to say so; None by default.
    n_batches, n_drawn, n_skipped : int
        Batches of training so far, their draws, and those of the draws that had one class. Where
        training goes on from.
    """

    targets: Targets
    concepts: Concepts | None = None

    def __init__(
        self,
        tasks: Any,
        make: TensorMaker,
        *,
        read_support: ReadRows,
        read_query: ReadRows,
        classifier: bool,
        any_features: bool = False,
    ) -> None:
        self.tasks = tasks
        self._make, self._classifier, self._any_features = make, classifier, any_features
        self._read_support, self._read_query = read_support, read_query
        self._store = None
        if isinstance(tasks, IndexedTaskSet):
            checked = not is_memory_mapped(tasks.X)
            self._store = RowStore(read_query(tasks.X), make, checked=checked)
        self._read_before: dict[int, tuple[Task, Draw]] = {}
        self.n_batches = self.n_drawn = self.n_skipped = 0

    @property
    def n_epochs(self) -> int:
        """How often training has begun to go through the tasks."""
        return 1 if isinstance(self.tasks, StreamTasks) else -(-self.n_drawn // len(self.tasks))

    def row_shapes(self, draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape of one support row and of one query row."""
        support, query = draw.x_support, draw.x_query
        if self._store is not None:
            support = query = self._store.X
        return tuple(support.shape[1:]), tuple(query.shape[1:])

    def draw(self, i: int, visit: int = 0) -> Draw:
        """Draw one visit of one task."""
        number = self.tasks._task_id(i)  # what errors call it, in a selection too
        if self._store is None:
            return self.from_task(self.tasks.task(i, visit), number)
        support, query = self.tasks.draw(i, visit)
        y, row_of = self.tasks.y, self.tasks.row_of
        rows = (support, query) if row_of is None else (row_of[support], row_of[query])
        return Draw(rows[0], y[support], rows[1], y[query], number, self.tasks._name(number))

    def from_task(self, candidate: Any, i: int) -> Draw:
        """Read a task that exists already, once if it comes again."""
        known = self._read_before.get(i)
        if known is not None and known[0] is candidate:
            return known[1]
        task = as_task(candidate, i)
        where = describe(i, task.name)
        if self._any_features:
            check_same_width(task, task.X_support.shape[1:], i)
        x_support = _read(self._read_support, task.X_support, where)
        x_query = _read(self._read_query, task.X_query, where)
        for what, y in (("y_support", task.y_support), ("y_query", task.y_query)):
            check_targets(y, what=f"{where}: {what}", classifier=self._classifier)
        ys = np.asarray(task.y_support), np.asarray(task.y_query)
        draw = Draw(x_support, ys[0], x_query, ys[1], i, task.name)
        if isinstance(self.tasks, TaskList) and _is_of(draw, task):
            self._read_before[i] = (task, draw)
        return draw

    def collate(
        self,
        draws: Sequence[Draw],
        *,
        rng: np.random.Generator | None = None,
        with_query_labels: bool = True,
    ) -> tuple[TaskBatch, list[Columns] | None]:
        """Stack draws to a batch; also return the tasks' columns (None in regression).

        Parameters
        ----------
        draws : sequence of Draw
        rng : Generator or None
            Shuffles the columns of arbitrary labels; None keeps their sorted order.
        with_query_labels : bool
            False leaves the query's labels unread; the batch then has zeros for them.
        """
        make = self._make
        x_support, support_mask = self._features([d.x_support for d in draws])
        x_query, query_mask = self._features([d.x_query for d in draws])
        supports, queries = [d.y_support for d in draws], [d.y_query for d in draws]
        sizes = [len(y) for y in supports], [len(y) for y in queries]
        where = [d.where for d in draws]
        if isinstance(self.targets, RealTargets):
            y_support, y_query = (
                make.features(stack_rows(self.targets.encode_many(ys, where=where), lengths)[0])
                for ys, lengths in zip((supports, queries), sizes, strict=True)
            )
            concepts = self._concepts_of(draws, None, y_support.shape[-1])
            batch = TaskBatch(
                x_support, y_support, x_query, y_query, support_mask, query_mask, None, concepts
            )
            return batch, None
        support, query, columns = self.targets.encode_many(
            supports, queries if with_query_labels else None, where=where, rng=rng
        )
        n_columns = self.targets.width(columns)
        y_support = make.one_hot(stack_rows(support, sizes[0])[0], support_mask, n_columns)
        y_query = x_query.new_zeros(*x_query.shape[:2], n_columns)
        if query is not None:
            y_query = make.one_hot(stack_rows(query, sizes[1])[0], query_mask, n_columns)
        class_mask = make.class_mask(columns, n_columns)
        concepts = self._concepts_of(draws, columns, n_columns)
        batch = TaskBatch(
            x_support, y_support, x_query, y_query, support_mask, query_mask, class_mask, concepts
        )
        return batch, columns

    def _concepts_of(
        self, draws: Sequence[Draw], columns: list[Columns] | None, n_columns: int
    ) -> Tensor | None:
        if self.concepts is None:
            return None
        of_each: Sequence[Columns | None] = columns or [None] * len(draws)
        numbers = [
            self.concepts.of_columns(draw.number, own, n_columns, where=draw.where)
            for draw, own in zip(draws, of_each, strict=True)
        ]
        return self._make.numbers(np.stack(numbers))

    def _features(self, parts: list[Any]) -> tuple[Tensor, Tensor | None]:
        if self._store is not None:
            rows, mask = stack(parts)
            return self._store.gather(rows), self._make.mask(mask)
        dense = [p.toarray() if hasattr(p, "toarray") else p for p in parts]
        if self._any_features:
            dense = widen(dense)
        stacked, mask = stack(dense)
        return self._make.features(stacked), self._make.mask(mask)

    def batches(
        self,
        size: int,
        key: NDArray[np.uint64],
        first_epoch: int,
        *,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[TaskBatch]:
        """Yield training batches without end, every epoch in a new order with new draws.

        Tasks with one class are passed over and counted in ``n_skipped``.

        Parameters
        ----------
        size : int
            Tasks a batch.
        key : ndarray of shape (2,), dtype uint64
            What the order and the columns of arbitrary labels are a function of.
        first_epoch : int
            The first visit of every task.
        share : (int, int)
            ``(rank, n_ranks)``: each of ``n_ranks`` loaders with the same key yields its part of
            batches of ``n_ranks * size`` tasks.

        Raises
        ------
        TaskError
            When a whole epoch has no task with two classes.
        """
        rank, n_ranks = share
        mine = slice(rank * size, (rank + 1) * size)
        if self._makes_many:
            visits = self._visits(key, first_epoch, at_once=self.tasks._n_at_once)
            for batch in cut_batches(map(self._make_many, visits), n_ranks * size):
                self.n_drawn += n_ranks * size
                self.n_batches += 1
                yield batch[mine]
        draws = self._learnable(self._draws(key, first_epoch))
        while True:
            rng = stream(key, self.n_batches, 2 * first_epoch + 1)
            drawn = list(itertools.islice(draws, n_ranks * size))
            if isinstance(self.targets, ClassTargets):
                for draw in drawn[: mine.start]:  # their columns come first from the stream
                    self.targets.encode(draw.y_support, None, where=draw.where, rng=rng)
            batch = self.collate(drawn[mine], rng=rng)[0]
            self.n_batches += 1
            yield batch

    @property
    def _makes_many(self) -> bool:
        """Whether many tasks can be made at once: of regression, and of one size."""
        real = isinstance(self.targets, RealTargets) and self.concepts is None
        return real and isinstance(self.tasks, TaskSet) and self.tasks._n_at_once > 0

    def _visits(
        self, key: NDArray[np.uint64], first_epoch: int, *, at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the positions and the visits of tasks that come, up to so many at once."""
        n_tasks = len(self.tasks)
        n_epochs, n_before = divmod(self.n_drawn, n_tasks)
        n_joined = max(1, at_once // n_tasks)
        for epoch in itertools.count(first_epoch + n_epochs, n_joined):
            epochs = np.arange(epoch, epoch + n_joined)
            order = np.concatenate(
                [stream(key, e, 0).permutation(n_tasks) for e in epochs.tolist()]
            )
            visits = np.repeat(epochs, n_tasks)
            for start in range(n_before, len(order), at_once):
                yield order[start : start + at_once], visits[start : start + at_once]
            n_before = 0

    def _make_many(self, visits: tuple[NDArray[np.int64], NDArray[np.int64]]) -> TaskBatch:
        """Make visits of tasks as one batch."""
        positions, times = visits
        x_support, y_support, x_query, y_query = self.tasks._make_tasks(
            self.tasks.task_ids[positions], times
        )
        encode = partial(self.targets.encode, where="")
        try:
            x_support = map_stacked(self._read_support, x_support)
            x_query = map_stacked(self._read_query, x_query)
            for y in (y_support, y_query):
                check_targets(y.ravel(), classifier=self._classifier)
            y_support, y_query = (map_stacked(encode, y) for y in (y_support, y_query))
        except ValueError:  # which of the tasks is wrong they say one by one
            draws = [self.draw(*v) for v in zip(positions.tolist(), times.tolist(), strict=True)]
            return self.collate(draws)[0]
        make = self._make.features
        return TaskBatch(make(x_support), make(y_support), make(x_query), make(y_query))

    def _draws(self, key: NDArray[np.uint64], first_epoch: int) -> Iterator[Draw]:
        if isinstance(self.tasks, StreamTasks):
            n_before = self.n_drawn
            for i in itertools.count():
                task = next(self.tasks)
                if i >= n_before:
                    yield self.from_task(task, i)
        for positions, visits in self._visits(key, first_epoch, at_once=_WINDOW):
            for i, visit in zip(positions.tolist(), visits.tolist(), strict=True):
                yield self.draw(i, visit)

    def _learnable(self, draws: Iterator[Draw]) -> Iterator[Draw]:
        n_in_a_row = 0
        # So many in a row contain a whole epoch, wherever it began.
        patience = 2 * len(self.tasks) - 1 if isinstance(self.tasks, TaskSet) else 1000
        for draw in draws:
            self.n_drawn += 1
            y = draw.y_support
            if self._classifier and (y == y[0]).all():
                self.n_skipped += 1
                n_in_a_row += 1
                if n_in_a_row >= patience:
                    raise TaskError(
                        f"every task must be able to show at least two classes, but {n_in_a_row} "
                        f"tasks in a row have one, {draw.where} the last; nothing can be learned."
                    )
                continue
            n_in_a_row = 0
            yield draw

    def in_order(
        self, *, most_rows: int = 4096, with_query_labels: bool = True
    ) -> Iterator[tuple[list[int], TaskBatch, list[Columns] | None]]:
        """Yield every task once at its first visit, tasks of like size together.

        Each batch comes with the numbers of its tasks and their columns, and has about
        ``most_rows`` rows.
        """
        for start in range(0, len(self.tasks), _WINDOW):
            numbers = range(start, min(start + _WINDOW, len(self.tasks)))
            draws = {i: self.draw(i) for i in numbers}
            size = {i: (n_rows(d.x_support), n_rows(d.x_query)) for i, d in draws.items()}
            pending: list[int] = []
            for i in sorted(numbers, key=size.__getitem__):
                if pending and (len(pending) + 1) * sum(size[i]) > most_rows:
                    yield self._numbered(pending, draws, with_query_labels)
                    pending = []
                pending.append(i)
            yield self._numbered(pending, draws, with_query_labels)

    def _numbered(
        self, numbers: list[int], draws: dict[int, Draw], with_query_labels: bool
    ) -> tuple[list[int], TaskBatch, list[Columns] | None]:
        chosen = [draws[i] for i in numbers]
        return numbers, *self.collate(chosen, with_query_labels=with_query_labels)

    def peek(self, n_tasks: int = 1000) -> list[Draw]:
        """Draw tasks to see what their labels are like.

        All of a list, up to 32 of a stream, up to ``n_tasks``, evenly spread, of others.
        """
        if isinstance(self.tasks, StreamTasks):
            head = self.tasks.head(min(n_tasks, 32))
            return [self.from_task(task, i) for i, task in enumerate(head)]
        n_all = len(self.tasks)
        if isinstance(self.tasks, TaskList):
            n_tasks = n_all
        positions = np.linspace(0, n_all - 1, min(n_tasks, n_all)).astype(int)
        return [self.draw(i) for i in positions.tolist()]

    def largest_way(self, draws: Sequence[Draw]) -> int:
        """Return how many classes a task has at most, judging by some draws."""
        if isinstance(self.tasks, EpisodicTasks):
            return self.tasks.max_way
        return max(len(np.unique(d.y_support)) for d in draws)


def _is_of(draw: Draw, task: Task) -> bool:
    """Return whether a draw holds a task's own features, so that keeping it takes no memory."""
    return draw.x_support is task.X_support and draw.x_query is task.X_query


def _read(read_rows: ReadRows, X: Any, where: str) -> Any:
    """Read rows; an error says of which task they are."""
    try:
        return read_rows(X)
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from error
