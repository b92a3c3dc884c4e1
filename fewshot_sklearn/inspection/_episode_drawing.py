"""How an episode is drawn: as images, as points, as a curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..tasks._labels import is_real_valued

Drawn = tuple[list[Any], list[Any], list[Any]]
_RIGHT, _WRONG = "tab:green", "tab:red"
# Columns of air between the support and the query images.
_GAP = 0.6


def is_image(X: Any, image_shape: tuple[int, ...] | None) -> bool:
    """Return whether rows are images."""
    return image_shape is not None or len(X.shape) in (3, 4)


def as_image(row: NDArray[Any], image_shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Return a row as an image of shape (height, width) or (height, width, channels).

    Raises
    ------
    ValueError
        If it cannot be one.
    """
    shape = row.shape if image_shape is None else tuple(image_shape)
    if row.size != np.prod(shape) or len(shape) not in (2, 3):
        raise ValueError(
            "a row is drawn as an image of two or three dimensions, but one of shape "
            f"{row.shape} was to have the shape {shape}; pass the right image_shape, or "
            "kind='scatter'."
        )
    image = row.reshape(shape)
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def draw_images(
    ax: Any,
    task: Any,
    y_pred: NDArray[Any] | None,
    image_shape: tuple[int, ...] | None,
    max_query: int,
) -> Drawn:
    """Draw a line of images for each class: its support, then some of its queries."""
    X_support, y_support, X_query, y_query = (np.asarray(part) for part in task)
    classes, most, n_shown = _grid(task, max_query)
    start = most + _GAP
    support, query, wrong = [], [], []
    for line, label in enumerate(classes):
        for column, i in enumerate(np.flatnonzero(y_support == label)):
            support.append(_show(ax, as_image(X_support[i], image_shape), column, line))
        for column, i in enumerate(np.flatnonzero(y_query == label)[:max_query]):
            query.append(_show(ax, as_image(X_query[i], image_shape), start + column, line))
            if y_pred is not None and not _frame(ax, start + column, line, label, y_pred[i]):
                wrong.append(ax.patches[-1])
    ax.set(xlim=(-0.55, start + n_shown - 0.45), ylim=(len(classes) - 0.4, -0.6), aspect="equal")
    ax.set_xticks([(most - 1) / 2, start + (n_shown - 1) / 2], ["support", "query"])
    ax.set_yticks(range(len(classes)), [str(label) for label in classes])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return support, query, wrong


def image_figure_size(task: Any, max_query: int) -> tuple[float, float]:
    """Return the width and height in inches that show each image in a square of 0.6 inches."""
    classes, most, n_shown = _grid(task, max_query)
    return 0.6 * (most + n_shown + 2), 0.6 * (len(classes) + 1)


def _grid(task: Any, max_query: int) -> tuple[NDArray[Any], int, int]:
    """Return the classes, the most support images and the most query images of one."""
    classes, n_support = np.unique(np.asarray(task.y_support), return_counts=True)
    n_query = np.unique(np.asarray(task.y_query), return_counts=True)[1]
    return classes, int(n_support.max()), min(int(n_query.max()), max_query)


def _show(ax: Any, image: NDArray[Any], column: float, line: int) -> Any:
    """Draw one image into a square of side 0.9."""
    extent = (column - 0.45, column + 0.45, line + 0.45, line - 0.45)
    return ax.imshow(image, cmap="gray_r", extent=extent, interpolation="nearest")


def _frame(ax: Any, column: float, line: int, label: Any, predicted: Any) -> bool:
    """Frame a query image by whether it was predicted right, which is returned."""
    right = bool(predicted == label)
    square = ax.add_patch(
        _rectangle(column - 0.45, line - 0.45, 0.9, color=_RIGHT if right else _WRONG)
    )
    square.set_label("right" if right else "wrong")
    if not right:
        style = {"ha": "left", "va": "top", "fontsize": "small", "fontweight": "bold"}
        ax.text(column - 0.41, line - 0.41, str(predicted), color=_WRONG, **style)
    return right


def _rectangle(x: float, y: float, side: float, *, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, fill=False, edgecolor=color, linewidth=2, zorder=3)


def draw_scatter(ax: Any, task: Any, y_pred: NDArray[Any] | None) -> Drawn:
    """Draw support and query rows in the plane of their first two principal components."""
    support, query, labels = _in_the_plane(task)
    y_support, y_query = np.asarray(task.y_support), np.asarray(task.y_query)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    if is_real_valued(y_support) or is_real_valued(y_query):
        return _scatter_numbers(ax, support, y_support, query, y_query)
    drawn: Drawn = ([], [], [])
    for i, label in enumerate(np.unique(y_support)):
        color = f"C{i % 10}"
        points = query[y_query == label]
        drawn[1].append(ax.scatter(*points.T, s=16, alpha=0.6, linewidths=0, color=color))
        points = support[y_support == label]
        style = {"label": str(label), "color": color, "edgecolors": "black"}
        drawn[0].append(ax.scatter(*points.T, s=90, marker="^", zorder=3, **style))
    if y_pred is not None:
        points = query[y_pred != y_query]
        style = {"facecolors": "none", "edgecolors": _WRONG, "label": "predicted wrong"}
        drawn[2].append(ax.scatter(*points.T, s=60, **style))
    ax.legend()
    return drawn


def _scatter_numbers(
    ax: Any,
    support: NDArray[np.float64],
    y_support: NDArray[Any],
    query: NDArray[np.float64],
    y_query: NDArray[Any],
) -> Drawn:
    """Draw rows in the colour of their number."""
    if y_support.ndim > 1:
        raise ValueError("an episode is drawn with one target, but y has several columns.")
    both = np.concatenate([y_support, y_query])
    style = {"vmin": both.min(), "vmax": both.max()}
    small = ax.scatter(*query.T, c=y_query, s=16, label="query", **style)
    large = ax.scatter(
        *support.T, c=y_support, s=90, marker="^", edgecolors="black", label="support", **style
    )
    ax.figure.colorbar(large, ax=ax, label="y")
    ax.legend()
    return [large], [small], []


def _in_the_plane(task: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str]]:
    """Return support and query rows as points [n, 2], with what the two numbers are."""
    support, query = (dense_rows(X) for X in (task.X_support, task.X_query))
    n_features = support.shape[1]
    if n_features <= 2:
        columns = list(getattr(task.X_support, "columns", ["feature 1", "feature 2"]))
        padding = ((0, 0), (0, 2 - n_features))
        names = (str(columns[0]), str(columns[1]) if n_features == 2 else "")
        return np.pad(support, padding), np.pad(query, padding), names
    pca = PCA(n_components=2, svd_solver="full").fit(np.concatenate([support, query]))
    shares = [f"component {i} ({share:.0%})" for i, share in _numbered(pca)]
    return pca.transform(support), pca.transform(query), (shares[0], shares[1])


def _numbered(pca: PCA) -> Any:
    return enumerate(pca.explained_variance_ratio_, start=1)


def dense_rows(X: Any) -> NDArray[np.float64]:
    """Return rows as a matrix of numbers."""
    X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    try:
        return X.reshape(len(X), -1).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"rows must be numbers to be drawn as points, got {X.dtype}; transform them first."
        ) from error


def draw_curve(ax: Any, task: Any, curve: Any, name: str | None) -> tuple[Any, Drawn]:
    """Draw the points of a regression of one number, and the predicted curve."""
    X_support, y_support, X_query, y_query = (np.asarray(part) for part in task)
    if X_support.ndim != 2 or X_support.shape[1] != 1 or y_support.ndim > 1:
        raise ValueError(
            "a curve is drawn of one feature and one target, got rows of shape "
            f"{X_support.shape[1:]} and targets of shape {y_support.shape[1:]}; use "
            "kind='scatter'."
        )
    (query,) = ax.plot(X_query[:, 0], y_query, ".", color="gray", label="query")
    (support,) = ax.plot(X_support[:, 0], y_support, "k^", label="support", zorder=3)
    line = None
    if curve is not None:
        (line,) = ax.plot(*curve, label=name)
    columns = getattr(task.X_support, "columns", ["x"])
    ax.set(xlabel=str(columns[0]), ylabel="y")
    ax.legend()
    return line, ([support], [query], [])
