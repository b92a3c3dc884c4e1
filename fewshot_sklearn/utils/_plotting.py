"""What every display does and says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._optional import require

# For `insert_docs`.
DISPLAY_DOCS = {
    "ax": """\
ax : matplotlib Axes, default=None
    Where to draw; None makes a new figure.""",
    "estimator_name": """\
name : str, default=None
    What the legend calls the estimator; None for the name of its class.""",
    "plot_kwargs": """\
**kwargs
    Passed to :meth:`plot`.""",
    "drawn_on": """\
ax_ : matplotlib Axes
    What was drawn on.
figure_ : matplotlib Figure
    The figure that it belongs to.""",
    "returns_self": """\
Returns
-------
self : object""",
    "no_matplotlib": """\
ImportError
    When matplotlib is not installed.""",
}


def require_matplotlib(purpose: str = "drawing") -> Any:
    """Return pyplot, or raise an ImportError that names the extra before anything is computed."""
    return require("matplotlib.pyplot", extra="plot", purpose=purpose)


def check_axes(
    ax: Any,
    n_rows: int = 1,
    n_columns: int = 1,
    *,
    panel: tuple[float, float] | None = None,
    purpose: str = "drawing",
) -> NDArray[Any]:
    """Return matplotlib axes [n_rows, n_columns]: the given ones, or those of a new figure.

    ``panel`` is the width and height in inches of each new one; None leaves the size of the figure
    to matplotlib. ``purpose`` is what needs matplotlib.

    Raises
    ------
    ImportError
        When matplotlib is not installed.
    ValueError
        When their number is wrong.
    """
    plt = require_matplotlib(purpose)
    if ax is None:
        size = None if panel is None else (panel[0] * n_columns, panel[1] * n_rows)
        return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")[1]
    axes = np.atleast_1d(np.asarray(ax, dtype=object))
    if axes.size != n_rows * n_columns:
        raise ValueError(
            f"ax must be None or hold {n_rows * n_columns} matplotlib axes for this plot, "
            f"got {axes.size}."
        )
    return axes.reshape(n_rows, n_columns)


def show_names(ax: Any, on: Any = None, **options: Any) -> None:
    """Draw a legend, on these or on other axes, if something on the axes has a name."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        (ax if on is None else on).legend(handles, labels, **options)
