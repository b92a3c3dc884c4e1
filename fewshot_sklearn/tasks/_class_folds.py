"""Episodes of one labelled data set whose classes are in folds, for cross-validation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.tasks._episodic import EpisodicTasks
from fewshot_sklearn.tasks._labels import encode
from fewshot_sklearn.tasks._random import RandomStateLike
from fewshot_sklearn.tasks._ranges import CountOrRange, check_count
from fewshot_sklearn.tasks._rows import n_rows

# The stream that shuffles classes; no task has this number.
_SHUFFLE = 2**64 - 1


class ClassFoldTasks(EpisodicTasks):
    """Few-shot episodes for cross-validation without a class on both sides of a split.

    The classes are dealt into ``n_folds`` folds. For each split there are ``n_tasks`` tasks of its
    own: one in ``n_folds`` is a test task and draws its classes from the split's own fold, the
    others are training tasks and draw theirs from all other folds. So no visit of a training task
    ever meets a class of the split's test tasks, and training episodes mix all classes that
    they may see. :class:`~fewshot_sklearn.ClassFoldSplit` tells scikit-learn which task is which.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix of shape (n_rows, ...)
        The data: 2-D rows, images, sequences. Never copied; may be a memory map.
    y : array-like of shape (n_rows,)
        Class labels of any type. Rows with a missing label are never drawn.
    n_folds : int, default=5
        The number of folds and of splits, at least 2.
    families : array-like of shape (n_rows,) or None, default=None
        The family of each row's class, such as the alphabet of a character: the classes of a
        family stay in one fold. None: each class is a family.
    n_way : int or (int, int), default=5
        Classes in an episode, at least 2, or a (low, high) range. Every fold must have as many.
    n_shot : int or (int, int), default=1
        Support rows of each class, or a (low, high) range.
    n_query : int, default=15
        Query rows of each class.
    n_tasks : int, default=1000
        The tasks of one split, training and test together; the set has ``n_folds`` times as many.
    random_state : int, RandomState, Generator or None, default=None
        What the folds and every draw are a function of.

    Attributes
    ----------
    n_folds : int
        The number of folds.
    classes_ : ndarray of shape (n_classes,)
        The distinct labels.
    fold_of_class : ndarray of shape (n_classes,), dtype int64
        The fold of each class. Folds differ by one class at most, if families allow.

    Raises
    ------
    ValueError
        If a fold has fewer classes than ``n_way``, a class has rows of two families or none, or
        :class:`~fewshot_sklearn.EpisodicTasks` would refuse.

    See Also
    --------
    fewshot_sklearn.ClassFoldSplit : The splitter, for ``cv=``.
    EpisodicTasks : Episodes that draw from all classes.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import ClassFoldSplit, ClassFoldTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = ClassFoldTasks(X, y, n_folds=3, n_way=3, n_tasks=30, random_state=0)
    >>> tasks
    ClassFoldTasks(90 tasks, 3-way 1-shot, 10 classes in 3 folds)
    >>> train, test = next(ClassFoldSplit().split(tasks))
    >>> seen = np.concatenate([task.y_query for task in tasks[train]])
    >>> unseen = np.concatenate([task.y_query for task in tasks[test]])
    >>> len(train), len(test), len(np.unique(seen)), len(np.unique(unseen))
    (20, 10, 6, 4)
    """

    n_folds: int
    fold_of_class: NDArray[np.int64]
    _n_split: int

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        n_folds: int = 5,
        families: Any = None,
        n_way: CountOrRange = 5,
        n_shot: CountOrRange = 1,
        n_query: int = 15,
        n_tasks: int = 1000,
        random_state: RandomStateLike = None,
    ) -> None:
        n_folds = check_count(n_folds, "n_folds", least=2)
        super().__init__(
            X,
            y,
            n_way=n_way,
            n_shot=n_shot,
            n_query=n_query,
            n_tasks=check_count(n_tasks, "n_tasks", least=n_folds),
            random_state=random_state,
        )
        family_of_class = self._family_of_class(families)
        folds = deal(family_of_class, n_folds, self._stream(_SHUFFLE, 0))
        self._store(
            n_folds=n_folds, fold_of_class=folds, _n_split=self._n_all, _n_all=n_folds * self._n_all
        )
        self._check_folds()

    @property
    def split_of_task(self) -> NDArray[np.int64]:
        """The split that every task belongs to, shape (n_tasks,)."""
        return self.task_ids // self._n_split

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """Whether every task is a test task of its split, shape (n_tasks,)."""
        return self._is_test(self.task_ids)

    def _is_test(self, task_ids: Any) -> Any:
        return task_ids % self._n_split % self.n_folds == 0

    def _choices(self, task_id: int) -> NDArray[np.int64]:
        own = self.fold_of_class == task_id // self._n_split
        return np.flatnonzero(own if self._is_test(task_id) else ~own)

    def drawable(self) -> NDArray[np.int64]:
        """Return the measurements of the classes of these tasks, see `IndexedTaskSet`."""
        used = np.zeros(len(self.classes_), dtype=bool)
        kinds = 2 * self.split_of_task + self.is_test
        for task_id in self.task_ids[np.unique(kinds, return_index=True)[1]]:
            used[self._choices(task_id)] = True
        return self._order[np.repeat(used, self._sizes)]

    def _family_of_class(self, families: Any) -> NDArray[np.int64]:
        """Return the family of each class as a number."""
        if families is None:
            return np.arange(len(self.classes_))
        coded = encode(families, what="families")
        if len(coded.codes) != n_rows(self.X):
            raise ValueError(
                f"families must have one entry for each row; got {len(coded.codes)} for "
                f"{n_rows(self.X)} rows."
            )
        codes = coded.codes if self.row_of is None else coded.codes[self.row_of]
        codes = codes[self._order]
        first = np.minimum.reduceat(codes, self._starts)
        mixed = np.flatnonzero((first < 0) | (first != np.maximum.reduceat(codes, self._starts)))
        if len(mixed):
            label = self.classes_[mixed[:1]].tolist()[0]
            raise ValueError(
                "each class must belong to one family, the same in all its rows, but class "
                f"{label!r} has rows of several families or of none; mend families."
            )
        return first

    def _check_folds(self) -> None:
        n_classes = np.bincount(self.fold_of_class, minlength=self.n_folds)
        if n_classes.min() < self.max_way:
            raise ValueError(
                f"n_way={self.max_way} classes are needed in each of the n_folds={self.n_folds} "
                f"folds, but one has {n_classes.min()} of the {len(self.classes_)}; lower n_folds "
                "or n_way, or pass more classes or smaller families."
            )

    def __repr__(self) -> str:
        """Show the number of tasks, the ways, shots and folds."""
        return f"{super().__repr__()[:-1]} in {self.n_folds} folds)"


def deal(
    family_of_class: NDArray[np.int64], n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal families into folds of about as many classes: the largest first, to the smallest fold.

    Parameters
    ----------
    family_of_class : ndarray of shape (n_classes,), dtype int64
        From 0 up.
    n_folds : int
        How many.
    rng : Generator
        Shuffles families of the same size.

    Returns
    -------
    ndarray of shape (n_classes,), dtype int64
        The fold of each class.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks._class_folds import deal
    >>> folds = deal(np.array([0, 0, 0, 1, 1, 2]), 2, np.random.default_rng(0))
    >>> folds.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    sizes = np.bincount(family_of_class)
    fold_of_family = np.empty(len(sizes), dtype=np.int64)
    n_classes = np.zeros(n_folds, dtype=np.int64)
    shuffled = rng.permutation(len(sizes))
    for family in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of_family[family] = fold = n_classes.argmin()
        n_classes[fold] += sizes[family]
    return fold_of_family[family_of_class]
