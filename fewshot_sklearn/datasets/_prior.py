"""Tables drawn from a prior over random functions, to meta-learn from without any data."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.datasets._base import check_count, check_option
from fewshot_sklearn.datasets._random_tables import (
    draw_causes,
    draw_disguise,
    draw_network,
    draw_trees,
    standardise,
)
from fewshot_sklearn.tasks import Task, TaskSet
from fewshot_sklearn.tasks._random import RandomStateLike, stream

Array = NDArray[np.float64]
# How much of what decides the target is noise: standard deviations on the scale of logarithms.
_NOISE = np.log([0.02, 1.0])


class PriorTasks(TaskSet):
    """Tables of random functions; made by :func:`make_prior_tasks`."""

    ranges: dict[str, tuple[int, int]]
    n_query: int
    _classes: bool
    _function_key: NDArray[np.uint64]

    def __init__(
        self, n_tasks: int, *, ranges: dict[str, tuple[int, int]], n_query: int,
        classes: bool, random_state: RandomStateLike,
    ) -> None:  # fmt: skip
        super().__init__(n_tasks, random_state=random_state)
        key = np.random.SeedSequence(self._key.tolist()).generate_state(2, np.uint64)
        self._store(ranges=ranges, n_query=n_query, _classes=classes, _function_key=key)

    def _make_task(self, task_id: int, visit: int) -> Task:
        about, rng = stream(self._function_key, task_id, 0), self._stream(task_id, visit)
        sizes = {name: _draw_size(about, *limits) for name, limits in self.ranges.items()}
        n_support, n_classes = sizes["n_support"], sizes.get("n_classes", 1)
        n_rows = n_support + self.n_query if not self._classes else 2 * n_support + self.n_query
        n_clusters = n_classes * int(about.integers(1, 4))
        causes = draw_causes(about, sizes["n_features"], n_clusters)
        X, last, clusters = causes.rows(rng, n_rows)
        scores, clusters_decide = self._scores(about, X, last, n_classes)
        noise = np.exp(about.uniform(*_NOISE))
        scores = standardise(scores) + noise * rng.standard_normal(scores.shape)
        shown = draw_disguise(about, X.shape[1])(X, rng)
        y: NDArray[Any]
        if not self._classes:
            y, order = standardise(scores)[:, 0], np.arange(n_rows)
        else:
            y = clusters % n_classes if clusters_decide else _classes_of(about, scores, n_classes)
            y = about.permutation(n_classes)[y]
            if (y == y[0]).all():  # one class alone would teach nothing
                y = (scores[:, 0] > np.median(scores[:, 0])).astype(np.int64)
            order = _support_first(y, stratify=about.random() < 0.7)
        support, query = order[:n_support], order[n_support:][: self.n_query]
        name = self._name(task_id)
        return Task(shown[support], y[support], shown[query], y[query], name=name)

    def _scores(
        self, rng: np.random.Generator, X: Array, last: Array, n_classes: int
    ) -> tuple[Array, bool]:
        """Return what decides the target, and whether the rows' clusters do so instead."""
        n_outputs = n_classes if self._classes and rng.random() < 0.5 else 1
        kind = rng.choice(4, p=[0.2, 0.4, 0.25, 0.15] if self._classes else [0.3, 0.4, 0.3, 0.0])
        if kind == 1:
            return draw_network(rng, X.shape[1], n_outputs)(X), False
        if kind == 2:
            return draw_trees(rng, X.shape[1], n_outputs)(X), False
        return last @ rng.standard_normal((last.shape[1], n_outputs)), kind == 3


def _draw_size(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw a whole number, small ones more often: uniform on the scale of logarithms."""
    return min(high, int(np.exp(rng.uniform(np.log(low), np.log(high + 1)))))


def _classes_of(rng: np.random.Generator, scores: Array, n_classes: int) -> NDArray[np.int64]:
    """Return the largest of several scores, or which part of its range a single one lies in."""
    uneven = rng.random() < 0.5
    if scores.shape[1] > 1:
        return np.asarray((scores + uneven * 0.7 * rng.standard_normal(n_classes)).argmax(axis=1))
    shares = rng.dirichlet(np.full(n_classes, 2.0 if uneven else 50.0))
    cuts = np.quantile(scores, np.cumsum(shares)[:-1])
    return np.searchsorted(cuts, scores[:, 0])


def _support_first(y: NDArray[Any], *, stratify: bool) -> NDArray[np.int64]:
    """Return an order in which every class comes before any comes again, or only at first."""
    order = np.argsort(y, kind="stable")
    first = np.searchsorted(y[order], y[order])
    times = np.empty_like(order)
    times[order] = np.arange(len(y)) - first
    return np.argsort(times if stratify else np.minimum(times, 1), kind="stable")


def _as_range(name: str, value: Any, *, minimum: int) -> tuple[int, int]:
    """Return the smallest and the largest of a count that may vary."""
    limits = value if isinstance(value, tuple) else (value, value)
    if len(limits) != 2:
        raise ValueError(f"{name} must be an integer or a pair (low, high); got {value!r}.")
    low, high = (check_count(name, limit, minimum=minimum) for limit in limits)
    if low > high:
        raise ValueError(f"{name} must be a pair (low, high) with low <= high; got {value!r}.")
    return low, high


def make_prior_tasks(
    n_tasks: int = 10_000,
    *,
    kind: str = "classification",
    n_features: int | tuple[int, int] = (2, 16),
    n_classes: int | tuple[int, int] = (2, 6),
    n_support: int | tuple[int, int] = (8, 50),
    n_query: int = 16,
    random_state: RandomStateLike = None,
) -> PriorTasks:
    """Make tables of random functions, a prior to meta-learn from where there are no old tasks.

    The features of a table are nodes of a random network that clusters of points are sent
    through; some are bent, cut into levels, or noise. Its target is a linear function, a random
    network, a sum of random trees, or, in classification, the cluster of a row; noise is added. A
    visit of meta-training draws new rows of the same table.

    Parameters
    ----------
    n_tasks : int, default=10_000
        Number of tasks; they take no memory.
    kind : {"classification", "regression"}, default="classification"
        What targets are.
    n_features : int or (int, int), default=(2, 16)
        Number of features, or the smallest and the largest: small ones are drawn more often.
    n_classes : int or (int, int), default=(2, 6)
        Number of classes of a table; a draw may show fewer. Not used in regression.
    n_support : int or (int, int), default=(8, 50)
        Number of support rows, at least as many as there may be classes: every class that is drawn
        has one.
    n_query : int, default=16
        Number of query rows.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of.

    Returns
    -------
    tasks : PriorTasks
        A :class:`~fewshot_sklearn.tasks.TaskSet`. Its tables have different features.

    Raises
    ------
    ValueError
        If a number is out of its range.

    See Also
    --------
    fewshot_sklearn.InContextClassifier : Learns from tables of any features.

    Notes
    -----
    A prior in the spirit of [1]_ and [2]_, smaller than theirs.

    References
    ----------
    .. [1] Müller et al. (2022). "Transformers can do Bayesian inference." ICLR.
    .. [2] Hollmann et al. (2025). "Accurate predictions on small data with a tabular foundation
       model." Nature.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_prior_tasks
    >>> tasks = make_prior_tasks(100, n_features=(2, 9), n_support=20, random_state=0)
    >>> tasks[0].X_support.shape[0], tasks[0].X_query.shape[0]
    (20, 16)
    """
    check_option("kind", kind, ("classification", "regression"))
    classes = kind == "classification"
    ranges = {
        "n_features": _as_range("n_features", n_features, minimum=1),
        "n_support": _as_range("n_support", n_support, minimum=2),
    }
    if classes:
        ranges["n_classes"] = _as_range("n_classes", n_classes, minimum=2)
        fewest, most = ranges["n_support"][0], ranges["n_classes"][1]
        if fewest < most:
            raise ValueError(
                f"n_support must be at least {most}, as there may be so many classes; got "
                f"{fewest}. Raise n_support or lower n_classes={n_classes!r}."
            )
    return PriorTasks(
        check_count("n_tasks", n_tasks),
        ranges=ranges,
        n_query=check_count("n_query", n_query),
        classes=classes,
        random_state=random_state,
    )
