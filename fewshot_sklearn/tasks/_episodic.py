"""N-way K-shot episodes from one labelled data set."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.tasks._indexed import (
    Draw,
    IndexedTaskSet,
    check_data_set,
    drop_measurements,
)
from fewshot_sklearn.tasks._labels import encode, is_real_valued
from fewshot_sklearn.tasks._random import RandomStateLike, draw_distinct
from fewshot_sklearn.tasks._ranges import CountOrRange, check_count, check_range, draw_count


class EpisodicTasks(IndexedTaskSet):
    """Few-shot episodes cut from one labelled data set with many classes.

    Each task draws ``n_way`` classes, ``n_shot`` support rows of each and up to ``n_query`` other
    rows of each. A visit of the same task draws other classes and rows, so meta-training never
    runs out of episodes; ``n_tasks`` is the length of one epoch. Labels have no meaning
    beyond their episode: ``shared_classes`` is False.

    Nothing is stored but one sorted list of row numbers, whatever ``n_tasks`` is.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
        The data: 2-D rows, images, sequences. Never copied; may be a memory map.
    y : array-like of shape (n_rows,)
        Class labels of any type. Rows with a missing label are never drawn.
    n_way : int or (int, int), default=5
        Classes in an episode, at least 2; a (low, high) range is drawn anew for every episode.
    n_shot : int or (int, int), default=1
        Support rows of each class; a (low, high) range is drawn anew for every episode.
    n_query : int, default=15
        Query rows of each class. A class that is left with fewer rows gives what it has, at least
        one.
    n_tasks : int, default=1000
        The number of tasks.
    random_state : int, RandomState, Generator or None, default=None
        What every draw is a function of, beside the task's number and the visit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The distinct labels.
    X : array, DataFrame or sparse matrix of shape (n_rows, ...)
        The data.
    y : ndarray of shape (n_measurements,)
        The labels that are not missing.
    row_of : ndarray of shape (n_measurements,), dtype int64, or None
        The row of X of each label; None if no label is missing.

    Raises
    ------
    ValueError
        If there are fewer classes than ``n_way``, a class has fewer than ``n_shot + 1`` rows,
        labels are real numbers, X and y differ in length, or a count is out of range.

    See Also
    --------
    ClassFoldTasks : Episodes for cross-validation, with the classes in folds.
    GroupedTasks : Each group of rows is a task.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn.tasks import EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_way=3, n_shot=(1, 5), n_tasks=1_000_000, random_state=0)
    >>> tasks
    EpisodicTasks(1000000 tasks, 3-way 1-to-5-shot, 10 classes)
    >>> tasks[999_999]
    Task(X_support=(9, 64), y_support=(9,), X_query=(45, 64), y_query=(45,), name=999999)
    """

    classes_: NDArray[Any]
    _n_way: tuple[int, int]
    _n_shot: tuple[int, int]
    _n_query: int
    _order: NDArray[np.int64]
    _starts: NDArray[np.int64]
    _sizes: NDArray[np.int64]

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        n_way: CountOrRange = 5,
        n_shot: CountOrRange = 1,
        n_query: int = 15,
        n_tasks: int = 1000,
        random_state: RandomStateLike = None,
    ) -> None:
        X, y, row_of = check_data_set(X, y)
        y, row_of, _ = drop_measurements(y, row_of)
        if is_real_valued(y):
            raise ValueError(
                "y must hold class labels to cut episodes from, got real numbers; use GroupedTasks "
                "for regression, or cut y into classes."
            )
        n_tasks = check_count(n_tasks, "n_tasks", least=1)
        super().__init__(X, y, row_of=row_of, n_tasks=n_tasks, random_state=random_state)
        coded = encode(y, what="y")
        sizes = np.bincount(coded.codes, minlength=len(coded.values))
        self._store(
            classes_=coded.values,
            _n_way=check_range(n_way, "n_way", least=2),
            _n_shot=check_range(n_shot, "n_shot", least=1),
            _n_query=check_count(n_query, "n_query", least=1),
            _order=np.argsort(coded.codes, kind="stable"),
            _starts=np.cumsum(sizes) - sizes,
            _sizes=sizes,
        )
        self._check_classes()

    @property
    def max_way(self) -> int:
        """The largest number of classes of an episode."""
        return self._n_way[1]

    def _check_classes(self) -> None:
        n_way, n_shot = self._n_way[1], self._n_shot[1]
        if n_way > len(self.classes_):
            raise ValueError(
                f"n_way={n_way} classes are needed per episode but y has {len(self.classes_)}; "
                "lower n_way or pass more classes."
            )
        scarce = np.flatnonzero(self._sizes <= n_shot)
        if len(scarce):
            label, size = self.classes_[scarce[:1]].tolist()[0], self._sizes[scarce[0]]
            others = (
                f" (and {len(scarce) - 1} more classes have too few)" if scarce[1:].size else ""
            )
            raise ValueError(
                f"every class needs at least {n_shot + 1} rows for n_shot={n_shot} and one query "
                f"row, but class {label!r} has {size}{others}; lower n_shot or leave the class out."
            )

    def _choices(self, task_id: int) -> int | NDArray[np.int64]:
        """Return the positions in ``classes_`` that a task may draw, or how many there are."""
        return len(self._sizes)

    def _draw(self, task_id: int, visit: int) -> Draw:
        rng = self._stream(task_id, visit)
        n_way, n_shot = draw_count(rng, *self._n_way), draw_count(rng, *self._n_shot)
        classes = rng.choice(self._choices(task_id), n_way, replace=False)
        sizes = self._sizes[classes]
        picks = draw_distinct(rng, sizes, n_shot + self._n_query)
        exists = np.arange(n_shot, picks.shape[1]) < sizes[:, None]
        picks += self._starts[classes][:, None]
        support = rng.permutation(picks[:, :n_shot].ravel())
        return self._order[support], self._order[picks[:, n_shot:][exists]]

    def __repr__(self) -> str:
        """Show the number of tasks, the ways and shots."""
        way, shot = ("-to-".join(map(str, sorted(set(r)))) for r in (self._n_way, self._n_shot))
        return (
            f"{type(self).__name__}({len(self)} tasks, {way}-way {shot}-shot, "
            f"{len(self.classes_)} classes)"
        )
