"""Each group of rows is a task: an assay, a patient, a shop."""

from collections.abc import Hashable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.tasks._columns import split_columns
from fewshot_sklearn.tasks._indexed import Draw, IndexedTaskSet, check_data_set, drop_measurements
from fewshot_sklearn.tasks._labels import Coded, as_name, encode, is_missing, is_real_valued
from fewshot_sklearn.tasks._random import RandomStateLike
from fewshot_sklearn.tasks._ranges import CountOrRange, check_count, check_range, draw_count
from fewshot_sklearn.tasks._splits import draw_plain, draw_stratified, skip


class GroupedTasks(IndexedTaskSet):
    """Tasks that exist in the data: the rows of each group are one task.

    Each visit draws a fresh support set of ``n_support`` rows from the group; the query set is the
    rest of it, or ``n_query`` random rows of the rest. Only indices are stored: one number per
    labelled row and a few per task, never a copy of ``X``.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
        The data. Never copied; may be a memory map.
    y : array-like of shape (n_measurements,) or (n_measurements, n_outputs)
        The labels. Floats that are not all integers, and several columns, are numbers to regress;
        everything else is a class.
    groups : array-like of shape (n_measurements,)
        The task of each label: strings, integers, any type that sorts.
    n_support : int or (int, int), default=16
        Support rows of a task. A (low, high) range is drawn anew at every visit, within what the
        group allows: at least one row of each class, at least one row left to predict.
    n_query : int or None, default=None
        At most this many query rows, drawn at random from the rest. None takes all the rest: right
        for evaluation, but a group of 50,000 rows is then a query set of nearly as many, at
        every visit. With a number a draw costs the same whatever the size of the group.
    stratify : bool or None, default=True
        How the support is drawn if y holds classes. True: with the group's class proportions, by
        largest remainders, and at least one row of each class. False: at random, drawn again
        until every class is in (with one row of each taken first should ten draws fail). None: at
        random whatever its classes, for whole numbers that are to be regressed. Real-valued y
        is always drawn at random.
    shared_classes : bool, default=True
        Whether a label means the same in every task, as active and inactive do.
    row_of : array-like of shape (n_measurements,), dtype int, or None, default=None
        The row of X that each label belongs to, where rows have several labels or none. None if
        label i belongs to row i.
    random_state : int, RandomState, Generator or None, default=None
        What every draw is a function of, beside the task's number and the visit.

    Attributes
    ----------
    n_left_out : int
        The number of groups that are not a task; `left_out` says why.
    n_dropped : int
        The number of measurements dropped because the label or the group is missing. Rows of groups
        that are left out are not among them.
    X : array, DataFrame or sparse matrix of shape (n_rows, ...)
        The data.
    y : ndarray of shape (n_kept,) or (n_kept, n_outputs)
        The labels that are not missing.
    row_of : ndarray of shape (n_kept,), dtype int64, or None
        The row of X of each label; None if label i belongs to row i.

    Raises
    ------
    ValueError
        If no group is large enough, lengths differ or a parameter is out of range.

    See Also
    --------
    EpisodicTasks : N-way K-shot episodes from one labelled data set.

    Notes
    -----
    A group is left out, and counted, only if it has fewer labelled rows than the lowest
    ``n_support`` + 1, or more classes than the highest ``n_support`` or than can enter the support
    with a row left to predict. Groups of a single class are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks import GroupedTasks
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.random((100, 3)), rng.choice(["active", "inactive"], 100)
    >>> tasks = GroupedTasks(X, y, groups=np.arange(100) // 30, random_state=0)
    >>> tasks
    GroupedTasks(3 tasks, 1 group left out)
    >>> tasks.left_out
    {3: 'it has 10 labelled rows, n_support=16 needs at least 17'}
    >>> tasks[0]
    Task(X_support=(16, 3), y_support=(16,), X_query=(14, 3), y_query=(14,), name=0)
    """

    n_left_out: int
    n_dropped: int
    _n_support: tuple[int, int]
    _n_query: int | None
    _stratify: bool
    _order: NDArray[np.int64]
    _cell_starts: NDArray[np.int64]
    _first_cells: NDArray[np.int64]
    _lows: NDArray[np.int64]
    _highs: NDArray[np.int64]
    _groups: NDArray[np.int64]
    _all_names: NDArray[Any]

    def __init__(
        self,
        X: Any,
        y: Any,
        groups: Any,
        *,
        n_support: CountOrRange = 16,
        n_query: int | None = None,
        stratify: bool | None = True,
        shared_classes: bool = True,
        row_of: Any = None,
        random_state: RandomStateLike = None,
    ) -> None:
        if not (stratify is None or isinstance(stratify, bool)):
            raise ValueError(f"stratify must be True, False or None, got {stratify!r}.")
        X, y, row_of = check_data_set(X, y, row_of)
        coded = encode(groups, what="groups")
        if len(coded.codes) != y.shape[0]:
            raise ValueError(
                "groups must have one entry for each entry of y; got "
                f"{len(coded.codes)} and {y.shape[0]}."
            )
        y, row_of, kept = drop_measurements(y, row_of, dropped=coded.codes < 0)
        n_dropped = int(len(kept) - np.count_nonzero(kept))
        self._store(
            n_dropped=n_dropped,
            _n_support=check_range(n_support, "n_support", least=1),
            _n_query=None if n_query is None else check_count(n_query, "n_query", least=1),
            _stratify=bool(stratify),
            _all_names=coded.values,
        )
        codes = coded.codes[kept] if n_dropped else coded.codes
        self._sort(codes, None if stratify is None or is_real_valued(y) else y)
        self._select()
        super().__init__(
            X,
            y,
            row_of=row_of,
            n_tasks=len(self._groups),
            names=coded.values[self._groups],
            shared_classes=shared_classes,
            random_state=random_state,
        )

    def _sort(self, groups: NDArray[np.int64], y: NDArray[Any] | None) -> None:
        """Sort measurements by group and class into cells, and note where each begins."""
        n_groups, n_classes, key = len(self._all_names), 1, groups
        if y is not None:
            classes = encode(y, what="y")
            n_classes = max(len(classes.values), 1)
            key = groups * n_classes
            key += classes.codes
            del classes  # ten million labels are 80 MB for each array that waits here
        order = np.argsort(key, kind="stable")
        key = key[order]
        starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]][: len(key)])
        self._store(
            _order=order,
            _cell_starts=np.append(starts, len(key)),
            _first_cells=np.searchsorted(key[starts] // n_classes, np.arange(n_groups + 1)),
        )

    def _select(self) -> None:
        """Find the groups that are large enough, and the support sizes that each allows."""
        low, high = self._n_support
        sizes, n_classes = self._group_sizes()
        lows, highs = np.maximum(low, n_classes), np.minimum(high, sizes - 1)
        groups = np.flatnonzero(lows <= highs)
        if not len(groups):
            raise ValueError(self._why_none(sizes, n_classes))
        self._store(
            _groups=groups,
            _lows=lows[groups],
            _highs=highs[groups],
            n_left_out=len(sizes) - len(groups),
        )

    def _why_none(self, sizes: NDArray[np.int64], n_classes: NDArray[np.int64]) -> str:
        """Return the sentence for groups of which none is a task."""
        low = self._n_support[0]
        got, cure = "none", "lower n_support or pass larger groups"
        if len(sizes):
            got = f"the largest of {len(sizes)} has {sizes.max()} rows"
        if self.n_dropped:
            got += f" after {self.n_dropped} without label or group were dropped"
        if len(sizes) and sizes.max() > low:
            got += f" and {n_classes[sizes.argmax()]} classes"
            cure += ", or stratify=None if y holds whole numbers to regress"
        return (
            f"at least one group must have {low + 1} rows (n_support={low} and a query row) "
            f"and no more classes than support rows; got {got}; {cure}."
        )

    def _group_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of rows and of classes of every group."""
        return np.diff(self._cell_starts[self._first_cells]), np.diff(self._first_cells)

    @property
    def left_out(self) -> dict[Hashable, str]:
        """Why each group that is not a task is none: a dict from its name to the reason."""
        low, high = self._n_support
        sizes, n_classes = self._group_sizes()
        reasons: dict[Hashable, str] = {}
        for group in np.setdiff1d(np.arange(len(sizes)), self._groups).tolist():
            n, c = sizes[group], n_classes[group]
            reason = f"it has {n} labelled rows, n_support={low} needs at least {low + 1}"
            if n > low:
                reason = f"it has {c} classes, more than the {min(high, n - 1)} support rows"
            reasons[as_name(self._all_names[group])] = reason
        return reasons

    def drawable(self) -> NDArray[np.int64]:
        """Return the measurements of the groups of these tasks, see `IndexedTaskSet`."""
        bounds = self._cell_starts[self._first_cells]
        used = np.zeros(len(bounds) - 1, dtype=bool)
        used[self._groups[self.task_ids]] = True
        return self._order[np.repeat(used, np.diff(bounds))]

    def _draw(self, task_id: int, visit: int) -> Draw:
        rng = self._stream(task_id, visit)
        group = self._groups[task_id]
        starts = self._cell_starts[self._first_cells[group] : self._first_cells[group + 1] + 1]
        members = self._order[starts[0] : starts[-1]]
        counts = starts[1:] - starts[:-1]
        n_support = draw_count(rng, int(self._lows[task_id]), int(self._highs[task_id]))
        split = draw_stratified if self._stratify and len(counts) > 1 else draw_plain
        support = rng.permutation(split(rng, counts, n_support))
        n_rest = len(members) - n_support
        if self._n_query is None or self._n_query >= n_rest:
            rest = np.arange(n_rest)
        else:
            rest = rng.choice(n_rest, self._n_query, replace=False)
        return members[support], members[skip(support, rest)]

    @classmethod
    def from_frame(
        cls,
        df: Any,
        *,
        task: Hashable,
        target: Any,
        features: Hashable | Iterable[Hashable] | None = None,
        **options: Any,
    ) -> Self:
        """Make tasks of a long table: a row per measurement, with a column that names its task.

        Parameters
        ----------
        df : DataFrame
            The table. The features stay a DataFrame with their names and types.
        task : str
            The column that says to which task a row belongs: text, numbers, categories, dates. Rows
            where it is missing are dropped, categories without a row are no tasks.
        target : str or list of str
            The column, or for regression columns, to predict. Rows where it is missing are dropped.
        features : str, list of str or None, default=None
            The columns to learn from; None for all that are neither task nor target.
        **options
            The keyword parameters of `GroupedTasks`: ``n_support``, ``n_query``, ...

        Returns
        -------
        GroupedTasks
            Its tasks are named by the task column.

        Raises
        ------
        ValueError
            If a column does not exist or occurs twice, if the target is among the features or names
            the task, or as `GroupedTasks` does.
        TypeError
            If ``df`` is not a DataFrame.

        Examples
        --------
        >>> import pandas as pd
        >>> from fewshot_sklearn.tasks import GroupedTasks
        >>> df = pd.DataFrame({"shop": list("aaabbb"), "price": [1, 2, 3, 4, 5, 6],
        ...                    "city": ["x", "y"] * 3, "sold": list("nynyny")})
        >>> tasks = GroupedTasks.from_frame(df, task="shop", target="sold", n_support=2)
        >>> tasks.names.tolist(), list(tasks[0].X_support.columns)
        (['a', 'b'], ['price', 'city'])
        """
        X, y, groups = split_columns(df, task=task, target=target, features=features)
        return cls(X, y, groups, **options)

    @classmethod
    def from_wide(cls, X: Any, Y: Any, **options: Any) -> Self:
        """Make tasks of a wide table: a row per sample, a column of labels per task.

        Parameters
        ----------
        X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
            The data; no row is copied, however many tasks it belongs to.
        Y : array-like or DataFrame of shape (n_rows, n_tasks)
            The labels; NaN or None where a task was not measured. Columns of a DataFrame name the
            tasks.
        **options
            The keyword parameters of `GroupedTasks`: ``n_support``, ``n_query``, ...

        Returns
        -------
        GroupedTasks
            Its tasks have the order of the columns. Rows of X and Y belong together by position,
            whatever their index. Empty cells were no measurements: ``n_dropped`` counts none.

        Raises
        ------
        ValueError
            If X and Y have different numbers of rows, Y is sparse, or as `GroupedTasks` does.

        Examples
        --------
        >>> import numpy as np
        >>> from fewshot_sklearn.tasks import GroupedTasks
        >>> X, nan = np.eye(5), np.nan
        >>> Y = [[0, nan, 1], [1, nan, nan], [0, nan, 0], [1, 1, 1], [nan, 0, 1]]
        >>> tasks = GroupedTasks.from_wide(X, Y, n_support=2, random_state=0)
        >>> tasks.names.tolist(), tasks.n_left_out
        ([0, 2], 1)
        """
        if hasattr(Y, "tocsr"):
            raise ValueError(
                "Y must be dense, with NaN where a task was not measured; got a "
                f"{type(Y).__name__}, whose empty cells could mean that or 0: pass Y.toarray() if "
                "they mean 0."
            )
        values = np.asarray(Y)
        if values.ndim != 2 or values.shape[0] != np.shape(X)[0]:
            raise ValueError(
                "Y must have two dimensions and a row for each row of X; got shape "
                f"{values.shape} for {np.shape(X)[0]} rows of X."
            )
        tasks, rows = np.nonzero(~is_missing(Y).T)
        names = Y.columns if hasattr(Y, "columns") else range(values.shape[1])
        coded = Coded(tasks, np.asarray(names))
        return cls(X, values[rows, tasks], coded, row_of=options.pop("row_of", rows), **options)

    def __repr__(self) -> str:
        """Show the number of tasks, of groups left out and of rows dropped."""
        counts = [(self.n_left_out, "group", "left out"), (self.n_dropped, "row", "dropped")]
        notes = [f", {n} {noun}{'s'[: n != 1]} {fate}" for n, noun, fate in counts if n]
        return f"GroupedTasks({len(self)} tasks{''.join(notes)})"
