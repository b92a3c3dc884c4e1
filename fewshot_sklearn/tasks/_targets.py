"""Labels on their way to tensors and back: classes as columns, real targets standardised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.exceptions import TaskError


@dataclass(frozen=True)
class Columns:
    """Which output column stands for which class of one task.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        The labels of the support set, sorted.
    positions : ndarray of shape (n_classes,), dtype int64
        The column of each.
    seen : ndarray of shape (n_classes,), dtype bool, or None
        Where the classes were declared, of which of them there was a row; None where the classes
        are those of the rows.
    """

    classes: NDArray[Any]
    positions: NDArray[np.int64]
    seen: NDArray[np.bool_] | None = None

    def without_unseen(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return logits [Q, C] that are minus infinity for classes of which there was no row."""
        if self.seen is None or self.seen.all():
            return logits
        logits = logits.copy()
        logits[:, self.positions[~self.seen]] = -np.inf
        return logits


@dataclass(frozen=True)
class ClassesOfTasks:
    """The classes of several tasks, one task's after the other's.

    Attributes
    ----------
    classes : ndarray of shape (n,)
        The labels of each task's support set, sorted within the task.
    starts : ndarray of shape (n_tasks + 1,), dtype int64
        Where each task's classes begin, and the end.
    support, query : ndarray of int64, or None
        The place in ``classes`` of every support and query row, one task's after the other's.
    """

    classes: NDArray[Any]
    starts: NDArray[np.int64]
    support: NDArray[np.int64]
    query: NDArray[np.int64] | None


def find_classes(
    supports: Sequence[NDArray[Any]], queries: Sequence[NDArray[Any]] | None
) -> ClassesOfTasks | None:
    """Find the classes of several tasks at once.

    Returns
    -------
    ClassesOfTasks or None
        None where labels are of several types, or a query has a label that its support lacks.
    """
    types = {y.dtype for y in (*supports, *(queries or ()))}
    if len(types) > 1 or types.pop().kind == "O":
        return None
    labels, codes = np.unique(np.concatenate(supports), return_inverse=True)
    n_labels, n_tasks = len(labels), len(supports)
    firsts = np.arange(n_tasks + 1) * n_labels  # a number for each label of each task
    places = np.repeat(firsts[:-1], [len(y) for y in supports]) + codes
    known, support = np.unique(places, return_inverse=True)
    query = None
    if queries is not None:
        y = np.concatenate(queries)
        codes = np.searchsorted(labels, y).clip(max=n_labels - 1)
        places = np.repeat(firsts[:-1], [len(y) for y in queries]) + codes
        query = np.searchsorted(known, places).clip(max=len(known) - 1)
        if not ((labels[codes] == y) & (known[query] == places)).all():
            return None
    return ClassesOfTasks(labels[known % n_labels], np.searchsorted(known, firsts), support, query)


@dataclass(frozen=True)
class ClassTargets:
    """Class labels as numbers of output columns.

    Parameters
    ----------
    shared : ndarray of shape (n_classes,) or None
        The sorted labels that mean the same in every task and so keep their column; None when
        labels are arbitrary per task.
    n_columns : int or None
        How many columns the learner's parameters fix; None when it takes any number.
    """

    shared: NDArray[Any] | None
    n_columns: int | None = None

    def encode(
        self,
        y_support: NDArray[Any],
        y_query: NDArray[Any] | None,
        *,
        where: str,
        rng: np.random.Generator | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, Columns]:
        """Write the labels of one task as columns.

        Parameters
        ----------
        y_support, y_query : ndarray of shape (S,) and (Q,), or None
        where : str
            How an error calls the task.
        rng : Generator or None
            Shuffles the columns of labels that are arbitrary; None keeps their sorted order.

        Raises
        ------
        TaskError
            If the query has a label that the support lacks, or the labels do not fit the columns.
        """
        classes, codes = np.unique(y_support, return_inverse=True)
        positions = self._positions(classes, where)
        if rng is not None and self.shared is None:
            positions = rng.permutation(positions)
        query = None
        if y_query is not None:
            found = np.searchsorted(classes, y_query).clip(max=len(classes) - 1)
            known = classes[found] == y_query
            if not np.all(known):
                raise TaskError(
                    f"{where}: the query set has the label {y_query[~known].tolist()[0]!r}, which "
                    "the support set lacks; add a support row of each class or leave these rows "
                    "out."
                )
            query = positions[found]
        return positions[codes], query, Columns(classes, positions)

    def encode_many(
        self,
        supports: Sequence[NDArray[Any]],
        queries: Sequence[NDArray[Any]] | None,
        *,
        where: Sequence[str],
        rng: np.random.Generator | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, list[Columns]]:
        """Write the labels of several tasks as columns: :meth:`encode` of each task in turn.

        Parameters
        ----------
        supports, queries : sequence of ndarray of shape (S_t,) and (Q_t,); or None
        where : sequence of str
            How an error calls each task.
        rng : Generator or None
            As in :meth:`encode`.

        Returns
        -------
        support, query : ndarray of shape (sum of S_t,) and (sum of Q_t,), or None
            The codes of one task after those of another.
        columns : list of Columns

        Raises
        ------
        TaskError
            As in :meth:`encode`.
        """
        found = find_classes(supports, queries)
        positions = None if found is None else self._positions_of_many(found, rng)
        if found is None or positions is None:  # labels that only one task at a time can tell of
            queried = [None] * len(supports) if queries is None else queries
            coded = [
                self.encode(support, query, where=name, rng=rng)
                for support, query, name in zip(supports, queried, where, strict=True)
            ]
            query_codes = [query for _, query, _ in coded if query is not None]
            query = np.concatenate(query_codes) if query_codes else None
            return np.concatenate([s for s, _, _ in coded]), query, [c for _, _, c in coded]
        ends = found.starts[1:-1]
        parts = zip(np.split(found.classes, ends), np.split(positions, ends), strict=True)
        query = None if found.query is None else positions[found.query]
        return positions[found.support], query, [Columns(*part) for part in parts]

    def _positions_of_many(
        self, found: ClassesOfTasks, rng: np.random.Generator | None
    ) -> NDArray[np.int64] | None:
        """Return the column of every class of every task; None where a task does not fit."""
        counts = np.diff(found.starts)
        if self.shared is not None:
            positions = np.searchsorted(self.shared, found.classes).clip(max=len(self.shared) - 1)
            return positions if (self.shared[positions] == found.classes).all() else None
        if self.n_columns is not None and counts.max() > self.n_columns:
            return None
        ranks = [np.arange(n) for n in counts.tolist()]
        return np.concatenate(ranks if rng is None else [rng.permutation(r) for r in ranks])

    def _positions(self, classes: NDArray[Any], where: str) -> NDArray[np.int64]:
        if self.shared is not None:
            known = np.isin(classes, self.shared)
            if known.all():
                return np.searchsorted(self.shared, classes)
            if self.n_columns is not None:
                raise TaskError(
                    f"{where}: the label {classes[~known].tolist()[0]!r} is not among the labels "
                    f"{self.shared.tolist()} whose meaning was meta-trained; use the same labels, "
                    "or meta-train on tasks whose labels are arbitrary."
                )
        if self.n_columns is not None and len(classes) > self.n_columns:
            raise TaskError(
                f"{where}: it has {len(classes)} classes, but the largest meta-training task had "
                f"{self.n_columns} and this method fixes their number; meta-train on tasks with "
                "as many classes, or use a method that takes any number."
            )
        return np.arange(len(classes))

    def extend(
        self, columns: Columns, y: NDArray[Any], *, where: str
    ) -> tuple[NDArray[np.int64], Columns]:
        """Write more labels of a task as columns.

        Parameters
        ----------
        columns : Columns
            Of the task so far.
        y : ndarray of shape (N,)
            Labels that are among the declared classes, where classes were declared.
        where : str
            How an error calls the task.

        Returns
        -------
        codes : ndarray of shape (N,)
        columns : Columns
            With columns for the labels that are new, after all others or where their meaning is
            shared; the columns of the others stay.

        Raises
        ------
        TaskError
            If the learner's parameters fix the columns, so that a new label would need another
            one than in a task that has it from the start.
        """
        new = np.setdiff1d(y, columns.classes)
        if len(new):
            classes = np.concatenate([columns.classes, new])
            positions = np.concatenate([columns.positions, self._more(columns, new, where)])
            order = np.argsort(classes)
            columns = Columns(classes[order], positions[order])
        elif columns.seen is not None:
            columns = replace(columns, seen=columns.seen | np.isin(columns.classes, y))
        return columns.positions[np.searchsorted(columns.classes, y)], columns

    def _more(self, columns: Columns, new: NDArray[Any], where: str) -> NDArray[np.int64]:
        """Return columns for labels that a task did not have before."""
        if self.n_columns is None:
            return 1 + columns.positions.max() + np.arange(len(new))
        if self.shared is not None:
            return self._positions(new, where)
        raise TaskError(
            f"{where}: the label {new.tolist()[0]!r} is not among {columns.classes.tolist()}, the "
            "labels of the rows before, and this method fixes the column of each class when a "
            "task begins; pass all labels as classes= to the first call of partial_fit."
        )

    def width(self, columns: list[Columns]) -> int:
        """Return C, the number of columns that a batch of tasks needs."""
        if self.n_columns is not None:
            return self.n_columns
        return 1 + int(np.concatenate([c.positions for c in columns]).max())


@dataclass(frozen=True)
class RealTargets:
    """Real targets, standardised with what the meta-training tasks showed.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_outputs,)
        Subtracted and divided by.
    single : bool
        Whether targets come as a vector rather than as a matrix of one or more columns.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    single: bool

    def encode(self, y: NDArray[Any], *, where: str) -> NDArray[np.float64]:
        """Return targets [N] or [N, C] as standardised [N, C].

        Raises
        ------
        TaskError
            If there are more or fewer columns than in meta-training.
        """
        y = np.asarray(y, dtype=np.float64)
        y = y[:, None] if y.ndim == 1 else y
        if y.shape[1] != len(self.mean):
            raise TaskError(
                f"{where}: y must have {len(self.mean)} column(s) as in meta-training, "
                f"got {y.shape[1]}."
            )
        return (y - self.mean) / self.scale

    def encode_many(
        self, ys: Sequence[NDArray[Any]], *, where: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the targets of several tasks, one after the other: :meth:`encode` of each.

        Raises
        ------
        TaskError
            As in :meth:`encode`.
        """
        if len({y.shape[1:] for y in ys}) > 1:
            each = zip(ys, where, strict=True)
            return np.concatenate([self.encode(y, where=name) for y, name in each])
        return self.encode(np.concatenate(ys), where=where[0])

    def decode(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return outputs [N, C] in the users' units and shape."""
        y = outputs * self.scale + self.mean
        return y[:, 0] if self.single else y
