"""The meta-loss and the validation scores of a meta-training."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..utils._docs import insert_docs
from ..utils._plotting import DISPLAY_DOCS, check_axes, require_matplotlib, show_names
from ..utils._sklearn import _validate_style_kwargs

# Without another wish the running mean is over this part of all meta-iterations.
_SHARE = 20


@insert_docs(DISPLAY_DOCS)
class MetaLearningCurveDisplay:
    """The meta-loss by meta-iteration, and the validation scores where there are some.

    The loss of a meta-iteration is that of a few tasks, so it jumps: it is drawn faintly, under
    its running mean. Make the display with :meth:`from_estimator`.

    Parameters
    ----------
    losses : array-like of shape (n_iter,)
        The meta-loss of every meta-iteration.
    validation_scores : list of (int, float), default=()
        The meta-iteration, counted from one, and the score of each validation.
    name : str, default=None
        What the legend calls the estimator.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the loss.
    figure_ : matplotlib Figure
        The figure that they belong to.
    line_ : Line2D
        The running mean of the loss.
    raw_line_ : Line2D
        The loss.
    validation_ax_ : matplotlib Axes or None
        The axes with the scores, on the right; None if there are none.
    validation_line_ : Line2D or None
        The validation scores.

    See Also
    --------
    AdaptationCurveDisplay : What meta-training is for: learning a task in a few steps.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ProtoNetClassifier
    >>> from fewshot_sklearn.inspection import MetaLearningCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, random_state=0)
    >>> clf = ProtoNetClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> display = MetaLearningCurveDisplay.from_estimator(clf)
    >>> len(display.losses)
    20
    """

    def __init__(
        self, losses: ArrayLike, validation_scores: Any = (), *, name: str | None = None
    ) -> None:
        self.losses = np.asarray(losses, dtype=np.float64)
        self.validation_scores = list(validation_scores)
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        window: int | None = None,
        validation_ax: Any = None,
        line_kw: dict[str, Any] | None = None,
        raw_line_kw: dict[str, Any] | None = None,
        validation_line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the meta-loss, its running mean and the validation scores.

        Parameters
        ----------
        %(ax)s
        name : str, default=None
            What the legend calls the estimator; None for the display's ``name``.
        window : int, default=None
            Meta-iterations that the running mean is over; None takes a twentieth of all.
        validation_ax : matplotlib Axes, default=None
            Where to draw the scores, such as the ``validation_ax_`` of a display on the same axes;
            None shares the x-axis and has its own scale on the right.
        line_kw, raw_line_kw, validation_line_kw : dict, default=None
            Passed to ``Axes.plot`` for the running mean, the loss and the scores.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When ``window`` is below 1.
        """
        window = max(1, len(self.losses) // _SHARE) if window is None else window
        if window < 1:
            raise ValueError(f"window must be at least 1 meta-iteration, got {window}.")
        self.ax_ = ax = check_axes(ax, purpose=type(self).__name__)[0, 0]
        self.figure_ = ax.figure
        iterations = np.arange(1, len(self.losses) + 1)
        name = self.name if name is None else name
        style = _validate_style_kwargs({"label": name}, line_kw or {})
        (self.line_,) = ax.plot(iterations, running_mean(self.losses, window), **style)
        color = self.line_.get_color()
        style = {"color": color, "alpha": 0.25, "linewidth": 0.8, "zorder": 1}
        style = _validate_style_kwargs(style, raw_line_kw or {})
        (self.raw_line_,) = ax.plot(iterations, self.losses, **style)
        ax.set(xlabel="meta-iteration", ylabel="meta-loss")
        self.validation_ax_ = self.validation_line_ = None
        if self.validation_scores:
            self._plot_validation(validation_ax, color, validation_line_kw or {})
            # On the upper axes, so that no line hides it, where neither curve is as a rule.
            show_names(ax, on=self.validation_ax_, loc="center right")
        else:
            show_names(ax)
        return self

    def _plot_validation(self, ax: Any, color: Any, style: dict[str, Any]) -> None:
        """Draw the validation scores on axes with a scale on the right."""
        self.validation_ax_ = ax = self.ax_.twinx() if ax is None else ax
        style = _validate_style_kwargs({"color": color, "linestyle": "--", "marker": "o"}, style)
        (self.validation_line_,) = ax.plot(*zip(*self.validation_scores, strict=True), **style)
        ax.set_ylabel("validation score (dashed)")

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Draw how an estimator was meta-trained.

        Parameters
        ----------
        estimator : estimator
            Meta-fitted. The last step of a pipeline, the estimator of a ``TaskLearner`` and the
            best one of a search are found.
        %(ax)s
        %(estimator_name)s
        %(plot_kwargs)s

        Returns
        -------
        display : MetaLearningCurveDisplay

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When nothing was meta-trained.
        """
        require_matplotlib(cls.__name__)
        trained = _meta_trained(estimator)
        losses = getattr(trained, "meta_loss_curve_", ())
        if not len(losses):
            raise ValueError(
                "the estimator must have been meta-trained, so that it has a meta_loss_curve_, but "
                f"this {type(trained).__name__} has none; call meta_fit first."
            )
        name = type(trained).__name__ if name is None else name
        return cls(losses, trained.validation_scores_, name=name).plot(ax, **kwargs)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the values around each, of those that exist at the ends."""
    ones = np.ones(min(window, len(values)))
    sums = np.convolve(values, ones, mode="same")
    return sums / np.convolve(np.ones(len(values)), ones, mode="same")


def _meta_trained(estimator: Any) -> Any:
    """Return the estimator that was meta-trained inside of a search, TaskLearner or pipeline."""
    if hasattr(estimator, "meta_loss_curve_"):
        return estimator
    for attribute in ("best_estimator_", "estimator_"):
        if hasattr(estimator, attribute):
            return _meta_trained(getattr(estimator, attribute))
    return _meta_trained(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator
