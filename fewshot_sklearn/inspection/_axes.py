"""What all displays do with axes."""

from __future__ import annotations

from typing import Any

from ..datasets._base import require


def require_matplotlib(display: type) -> Any:
    """Return pyplot, or raise an ImportError that names the extra before anything is computed."""
    return require("matplotlib.pyplot", extra="plot", purpose=display.__name__)


def check_axes(ax: Any, display: type, **options: Any) -> Any:
    """Return the given axes, or those of a new figure.

    Raises
    ------
    ImportError
        When matplotlib is not installed; it names the extra that brings it.
    """
    pyplot = require_matplotlib(display)
    return pyplot.subplots(layout="constrained", **options)[1] if ax is None else ax


def show_names(ax: Any, on: Any = None, **options: Any) -> None:
    """Draw a legend, on these or on other axes, if something on the axes has a name."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        (ax if on is None else on).legend(handles, labels, **options)
