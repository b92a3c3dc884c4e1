"""Regression tasks that are generated: each task is one random function."""

from abc import abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_sklearn.datasets._base import check_count
from fewshot_sklearn.tasks import Task, TaskSet
from fewshot_sklearn.tasks._random import RandomStateLike, stream, stream_uniforms

# How many rows are made at once: few enough to stay in a processor's cache.
_MOST_ROWS = 2**15


class FunctionTasks(TaskSet):
    """Tasks of regression, each a random function of one variable.

    A subclass names the coefficients of its functions with their ranges, and evaluates them.
    Nothing is stored for a task: its coefficients are a function of `random_state` and its
    number, its points of `random_state`, its number and the visit.

    Parameters
    ----------
    n_tasks : int
        Number of tasks.
    n_support : int
        Number of points in a support set.
    n_query : int
        Number of points in a query set.
    noise : float, default=0.0
        Standard deviation of the Gaussian noise that is added to all targets.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of.

    Attributes
    ----------
    n_support : int
        Number of points in a support set.
    n_query : int
        Number of points in a query set.
    noise : float
        Standard deviation of the noise.
    ranges : dict of str to (low, high)
        The range that each coefficient is drawn from, uniformly.
    x_range : (low, high)
        The range that points are drawn from, uniformly.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    ranges: ClassVar[dict[str, tuple[float, float]]]
    x_range: ClassVar[tuple[float, float]] = (-5.0, 5.0)
    n_support: int
    n_query: int
    noise: float
    _function_key: NDArray[np.uint64]

    def __init__(
        self,
        n_tasks: int,
        *,
        n_support: int,
        n_query: int,
        noise: float = 0.0,
        random_state: RandomStateLike = None,
    ) -> None:
        if not isinstance(noise, Real) or not 0 <= noise < np.inf:
            raise ValueError(f"noise must be a finite number of at least 0; got {noise!r}.")
        super().__init__(check_count("n_tasks", n_tasks), random_state=random_state)
        function_key = np.random.SeedSequence(self._key.tolist()).generate_state(2, np.uint64)
        self._store(
            n_support=check_count("n_support", n_support),
            n_query=check_count("n_query", n_query),
            noise=float(noise),
            _function_key=function_key,
        )

    @staticmethod
    @abstractmethod
    def _evaluate(x: NDArray[np.float64], *coefficients: Any) -> NDArray[np.float64]:
        """Return the function's values at x; coefficients are numbers, or columns [T, 1]."""

    def _draw_coefficients(self, task_id: int) -> list[float]:
        """Return the coefficients of a task, the same at every visit."""
        uniforms = stream(self._function_key, task_id, 0).random(len(self.ranges))
        return self._scaled(uniforms).tolist()

    def _scaled(self, uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coefficients [..., n] drawn from their ranges."""
        low, high = np.array(list(self.ranges.values())).T
        return np.asarray(low + (high - low) * uniforms)

    def coefficients(self, i: int) -> dict[str, float]:
        """Return the coefficients of one task's function.

        Parameters
        ----------
        i : int
            Its position in this task set; negative counts from the end.

        Returns
        -------
        coefficients : dict of str to float
            A value for each key of `ranges`.

        Raises
        ------
        IndexError
            If there is no such task.
        """
        return dict(zip(self.ranges, self._draw_coefficients(self._task_id(i)), strict=True))

    def function(self, i: int) -> Callable[[ArrayLike], NDArray[np.float64]]:
        """Return one task's function, without noise: the best that a learner can do.

        Parameters
        ----------
        i : int
            Its position in this task set; negative counts from the end.

        Returns
        -------
        function : callable
            Maps points, an array-like of shape (n, 1) or (n,), to values of shape (n,).

        Raises
        ------
        IndexError
            If there is no such task.
        """
        coefficients = self._draw_coefficients(self._task_id(i))
        return lambda X: self._evaluate(np.asarray(X, dtype=np.float64).ravel(), *coefficients)

    @property
    def _n_at_once(self) -> int:
        return max(1, _MOST_ROWS // (self.n_support + self.n_query))

    def _make_task(self, task_id: int, visit: int) -> Task:
        rng = self._stream(task_id, visit)
        x = self._points(rng.random(self.n_support + self.n_query))
        y = self._evaluate(x, *self._draw_coefficients(task_id))
        if self.noise:
            y = y + self.noise * rng.standard_normal(len(x))
        X, n = x[:, None], self.n_support
        return Task(X[:n], y[:n], X[n:], y[n:], name=self._name(task_id))

    def _make_tasks(
        self, task_ids: NDArray[np.int64], visits: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        n, n_rows = self.n_support, self.n_support + self.n_query
        x = self._points(stream_uniforms(self._key, task_ids, visits, n_rows))
        uniforms = stream_uniforms(
            self._function_key, task_ids, np.zeros_like(visits), len(self.ranges)
        )
        y = self._evaluate(x, *self._scaled(uniforms).T[..., None])
        if self.noise:
            y = y + self.noise * self._draw_noise(task_ids, visits, n_rows)
        X = x[..., None]
        return X[:, :n], y[:, :n], X[:, n:], y[:, n:]

    def _points(self, uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.x_range
        return low + (high - low) * uniforms

    def _draw_noise(
        self, task_ids: NDArray[np.int64], visits: NDArray[np.int64], n_rows: int
    ) -> NDArray[np.float64]:
        """Return standard normal numbers [T, n_rows], which follow a stream's points."""
        noise = np.empty((len(task_ids), n_rows))
        for row, task_id, visit in zip(noise, task_ids.tolist(), visits.tolist(), strict=True):
            rng = self._stream(task_id, visit)
            rng.random(n_rows)
            rng.standard_normal(out=row)
        return noise


class SinusoidTasks(FunctionTasks):
    """Sine waves, ``y = amplitude * sin(x - phase)``; made by `make_sinusoid_tasks`."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "amplitude": (0.1, 5.0),
        "phase": (0.0, np.pi),
    }

    @staticmethod
    def _evaluate(x: NDArray[np.float64], *coefficients: Any) -> NDArray[np.float64]:
        amplitude, phase = coefficients
        return amplitude * np.sin(x - phase)


class CubicTasks(FunctionTasks):
    """Cubic polynomials, ``y = a x^3 + b x^2 + c x + d``; made by `make_cubic_tasks`."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "a": (-0.1, 0.1),
        "b": (-0.2, 0.2),
        "c": (-2.0, 2.0),
        "d": (-3.0, 3.0),
    }

    @staticmethod
    def _evaluate(x: NDArray[np.float64], *coefficients: Any) -> NDArray[np.float64]:
        return np.asarray(np.polyval(coefficients, x), dtype=np.float64)


def make_sinusoid_tasks(
    n_tasks: int = 1000,
    *,
    n_support: int = 10,
    n_query: int = 10,
    noise: float = 0.0,
    random_state: RandomStateLike = None,
) -> SinusoidTasks:
    """Make the sinusoid regression tasks of the MAML paper.

    Each task is ``y = A sin(x - phase)`` with A from U[0.1, 5], phase from U[0, pi] and points x
    from U[-5, 5]. A visit of meta-training draws new points of the same wave.

    Parameters
    ----------
    n_tasks : int, default=1000
        Number of tasks; they take no memory.
    n_support : int, default=10
        Number of points to adapt to.
    n_query : int, default=10
        Number of points to predict.
    noise : float, default=0.0
        Standard deviation of the Gaussian noise that is added to all targets.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of.

    Returns
    -------
    tasks : SinusoidTasks
        A :class:`~fewshot_sklearn.tasks.TaskSet`; X has shape (n, 1) and y shape (n,).
        ``tasks.coefficients(i)`` gives the amplitude and the phase of task i, and
        ``tasks.function(i)`` the wave itself.

    Raises
    ------
    ValueError
        If a number is out of its range.

    See Also
    --------
    make_cubic_tasks : Cubic polynomials.

    Notes
    -----
    The paper's text does not give the sign of the phase; its code subtracts it, as here.

    References
    ----------
    .. [1] C. Finn, P. Abbeel and S. Levine (2017). "Model-agnostic meta-learning for fast
       adaptation of deep networks." ICML. Section 5.1.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(100, n_support=5, random_state=0)
    >>> tasks[3]
    Task(X_support=(5, 1), y_support=(5,), X_query=(10, 1), y_query=(10,), name=3)
    >>> list(tasks.coefficients(3))
    ['amplitude', 'phase']
    >>> bool((tasks.function(3)(tasks[3].X_query) == tasks[3].y_query).all())
    True
    """
    return SinusoidTasks(
        n_tasks, n_support=n_support, n_query=n_query, noise=noise, random_state=random_state
    )


def make_cubic_tasks(
    n_tasks: int = 1000,
    *,
    n_support: int = 40,
    n_query: int = 80,
    noise: float = 0.0,
    random_state: RandomStateLike = None,
) -> CubicTasks:
    """Make regression tasks that are cubic polynomials.

    Each task is ``y = a x^3 + b x^2 + c x + d`` with a from U[-0.1, 0.1], b from U[-0.2, 0.2], c
    from U[-2, 2], d from U[-3, 3] and points x from U[-5, 5], the ranges of [1]_. A visit of
    meta-training draws new points of the same polynomial.

    Parameters
    ----------
    n_tasks : int, default=1000
        Number of tasks; they take no memory.
    n_support : int, default=40
        Number of points to adapt to.
    n_query : int, default=80
        Number of points to predict.
    noise : float, default=0.0
        Standard deviation of the Gaussian noise that is added to all targets.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of.

    Returns
    -------
    tasks : CubicTasks
        A :class:`~fewshot_sklearn.tasks.TaskSet`; X has shape (n, 1) and y shape (n,).
        ``tasks.coefficients(i)`` gives a, b, c and d of task i, and ``tasks.function(i)`` the
        polynomial itself.

    Raises
    ------
    ValueError
        If a number is out of its range.

    See Also
    --------
    make_sinusoid_tasks : Sine waves.

    References
    ----------
    .. [1] H. Yao, Y. Wei, J. Huang and Z. Li (2019). "Hierarchically structured meta-learning."
       ICML.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_cubic_tasks
    >>> tasks = make_cubic_tasks(100, random_state=0)
    >>> tasks[0]
    Task(X_support=(40, 1), y_support=(40,), X_query=(80, 1), y_query=(80,), name=0)
    """
    return CubicTasks(
        n_tasks, n_support=n_support, n_query=n_query, noise=noise, random_state=random_state
    )
