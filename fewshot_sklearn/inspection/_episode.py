"""One episode: its support set, its query set and what an estimator makes of it."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_regressor

from ..tasks._labels import is_real_valued
from ..tasks._validation import as_task
from ..utils._docs import insert_docs
from ..utils._plotting import DISPLAY_DOCS, check_axes, require_matplotlib
from ._episode_drawing import (
    dense_rows,
    draw_curve,
    draw_images,
    draw_scatter,
    image_figure_size,
    is_image,
)

_KINDS = ("auto", "images", "scatter", "curve")
_N_GRID = 200

_MAX_QUERY = """\
max_query : int, default=8
    Query images that are shown of each class."""
_DOCS = DISPLAY_DOCS | {
    "task": """\
task : Task or 4-tuple
    ``(X_support, y_support, X_query, y_query)``.""",
    "max_query": _MAX_QUERY,
    "shown": f"""\
{_MAX_QUERY}
**options
    ``image_shape`` and ``kind``, as the class takes them.""",
    "not_drawn": f"""\
{DISPLAY_DOCS["no_matplotlib"]}
TaskError
    When it is no task.""",
}


@insert_docs(_DOCS)
class EpisodeDisplay:
    """One task with its support and query set, and the predictions of an estimator.

    Images are shown as images: a line a class, the support on the left, queries on the right,
    framed in green where they are predicted right and in red, with what was predicted, where
    not. Regression of one number is shown as points with the predicted curve. Anything else is
    shown as points in the plane of its two principal components.

    Make it with :meth:`from_estimator` or, without predictions, with :meth:`from_task`.

    Parameters
    ----------
    %(task)s
    y_pred : array-like of shape (n_query,), default=None
        The classes that were predicted for the query rows.
    curve : (array-like of shape (n_grid,), array-like of shape (n_grid,)), default=None
        Numbers and what was predicted for them, in regression of one number.
    name : str, default=None
        What the legend calls the estimator.
    image_shape : tuple of int, default=None
        The shape of an image where rows are flat; None if rows have the shape of their images.
    kind : {"auto", "images", "scatter", "curve"}, default="auto"
        What is drawn. "auto" draws images where rows have two or three dimensions or
        ``image_shape`` is given, a curve where a single feature is regressed, otherwise a scatter.

    Attributes
    ----------
    %(drawn_on)s
    support_, query_ : list of artists
        The images, or the points of each class.
    wrong_ : list of artists
        The frames of the images that were predicted wrong, or the rings around such points.
    line_ : Line2D or None
        The predicted curve.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from fewshot_sklearn import EpisodicTasks
    >>> from fewshot_sklearn.inspection import EpisodeDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> task = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=4, random_state=0)[0]
    >>> display = EpisodeDisplay.from_estimator(
    ...     KNeighborsClassifier(1), task, image_shape=(8, 8))
    >>> len(display.support_), len(display.query_)
    (6, 12)
    """

    def __init__(
        self,
        task: Any,
        *,
        y_pred: Any = None,
        curve: Any = None,
        name: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        kind: str = "auto",
    ) -> None:
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {_KINDS}, got {kind!r}.")
        self.task = as_task(task, 0)
        self.y_pred = None if y_pred is None else np.asarray(y_pred)
        n_query = self.task.X_query.shape[0]
        if self.y_pred is not None and self.y_pred.shape != (n_query,):
            raise ValueError(
                f"y_pred must hold one class for each of the {n_query} query rows, got shape "
                f"{self.y_pred.shape}."
            )
        if image_shape is not None and not isinstance(image_shape, tuple | list):
            raise ValueError(
                f"image_shape must be the shape of an image, such as (28, 28), got {image_shape!r}."
            )
        self.curve, self.name = curve, name
        self.image_shape, self.kind = image_shape, kind

    def plot(self, ax: Any = None, *, name: str | None = None, max_query: int = 8) -> Self:
        """Draw the episode.

        Parameters
        ----------
        %(ax)s
        name : str, default=None
            What the legend calls the estimator; None for the display's ``name``.
        %(max_query)s

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When rows cannot be drawn as they should.
        """
        kind = self._kind()
        panel = image_figure_size(self.task, max_query) if kind == "images" else None
        self.ax_ = ax = check_axes(ax, panel=panel, purpose=type(self).__name__)[0, 0]
        self.figure_ = ax.figure
        self.line_ = None
        if kind == "images":
            drawn = draw_images(ax, self.task, self.y_pred, self.image_shape, max_query)
        elif kind == "curve":
            name = self.name if name is None else name
            self.line_, drawn = draw_curve(ax, self.task, self.curve, name)
        else:
            drawn = draw_scatter(ax, self.task, self.y_pred)
        self.support_, self.query_, self.wrong_ = drawn
        if self.task.name is not None:
            ax.set_title(f"task {self.task.name}")
        return self

    def _kind(self) -> str:
        """Return what is drawn."""
        if self.kind != "auto":
            return self.kind
        if is_image(self.task.X_support, self.image_shape):
            return "images"
        curve = _n_features(self.task) == 1 and _is_regression(self.task)
        return "curve" if curve or self.curve is not None else "scatter"

    @classmethod
    def from_task(cls, task: Any, *, ax: Any = None, max_query: int = 8, **options: Any) -> Self:
        """Draw a task without predictions.

        Parameters
        ----------
        %(task)s
        %(ax)s
        %(shown)s

        Returns
        -------
        display : EpisodeDisplay

        Raises
        ------
        %(not_drawn)s
        """
        return cls(task, **options).plot(ax, max_query=max_query)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        task: Any,
        *,
        ax: Any = None,
        name: str | None = None,
        max_query: int = 8,
        **options: Any,
    ) -> Self:
        """Fit a clone of an estimator to the support set and draw what it predicts.

        Parameters
        ----------
        estimator : scikit-learn estimator
            Any, meta-fitted or not. It stays as it is.
        %(task)s
        %(ax)s
        %(estimator_name)s
        %(shown)s

        Returns
        -------
        display : EpisodeDisplay

        Raises
        ------
        %(not_drawn)s
        """
        require_matplotlib(cls.__name__)
        task = as_task(task, 0)
        fitted = clone(estimator).fit(task.X_support, task.y_support)
        y_pred = curve = None
        if not is_regressor(estimator):
            y_pred = fitted.predict(task.X_query)
        elif _n_features(task) == 1:
            curve = _predict_curve(fitted, task)
        name = type(estimator).__name__ if name is None else name
        display = cls(task, y_pred=y_pred, curve=curve, name=name, **options)
        return display.plot(ax, max_query=max_query)


def _n_features(task: Any) -> int | None:
    """Return the number of features of flat rows, None of others."""
    shape = task.X_support.shape
    return shape[1] if len(shape) == 2 else None


def _is_regression(task: Any) -> bool:
    return is_real_valued(np.asarray(task.y_support)) or is_real_valued(np.asarray(task.y_query))


def _predict_curve(fitted: Any, task: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers from the least to the greatest of the task and the predictions for them."""
    x = np.concatenate([dense_rows(task.X_support), dense_rows(task.X_query)])
    grid = np.linspace(x.min(), x.max(), _N_GRID)
    rows: Any = grid[:, None]
    if hasattr(task.X_support, "columns"):
        rows = type(task.X_support)(rows, columns=task.X_support.columns)
    return grid, fitted.predict(rows)
