"""Where a network with a memory reads and writes along a sequence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..utils._docs import insert_docs
from ..utils._plotting import DISPLAY_DOCS, check_axes, require_matplotlib
from ..utils._sklearn import _validate_style_kwargs


@insert_docs(DISPLAY_DOCS)
class MemoryDisplay:
    """Write and read weights of a memory along one sequence [1]_.

    One panel shows which slots are written at each step, the other which are read: time runs to the
    right, slots upwards, and the weights of several heads are added. Slots that neither reads nor
    writes much are left out. Make it with :meth:`from_estimator`.

    Parameters
    ----------
    read_weights, write_weights : array-like of shape (length, n_heads, n_slots)
        How much of each slot a head read or wrote.
    name : str, default=None
        What the title calls the estimator.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
        Of writing and of reading.
    figure_ : matplotlib Figure
        The figure that they belong to.
    images_ : list of two AxesImage
        The weights (n_shown, length).
    slots_ : ndarray of shape (n_shown,)
        The numbers of the slots that are shown, from below.

    See Also
    --------
    fewshot_sklearn.NTMSequenceClassifier : A network with such a memory.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401. Figure 6.

    Examples
    --------
    >>> from fewshot_sklearn import NTMSequenceClassifier
    >>> from fewshot_sklearn.datasets import make_copy_sequences
    >>> from fewshot_sklearn.inspection import MemoryDisplay
    >>> X, y = make_copy_sequences(20, lengths=4, n_bits=2, random_state=0)
    >>> clf = NTMSequenceClassifier(n_slots=8, max_iter=5, random_state=0).fit(X, y)
    >>> MemoryDisplay.from_estimator(clf, X[0]).read_weights.shape
    (9, 1, 8)
    """

    axes_: Any
    figure_: Any
    images_: list[Any]
    slots_: Any

    def __init__(
        self, read_weights: ArrayLike, write_weights: ArrayLike, *, name: str | None = None
    ) -> None:
        self.read_weights = np.asarray(read_weights, dtype=np.float64)
        self.write_weights = np.asarray(write_weights, dtype=np.float64)
        read, write = self.read_weights.shape, self.write_weights.shape
        if len(read) != 3 or len(write) != 3 or (read[0], read[2]) != (write[0], write[2]):
            raise ValueError(
                "read_weights and write_weights must have the shape (length, n_heads, n_slots), "
                f"with the same length and slots, got {read} and {write}."
            )
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator: Any, x: ArrayLike, *, ax: Any = None, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Run an estimator over one sequence and draw where it wrote and read.

        Parameters
        ----------
        estimator : estimator
            With ``memory_trace``, and fitted.
        x : array-like of shape (length, n_features)
            One sequence.
        ax : two matplotlib Axes, default=None
            For writing and reading; None makes a new figure.
        %(estimator_name)s
        %(plot_kwargs)s

        Returns
        -------
        display : MemoryDisplay

        Raises
        ------
        %(no_matplotlib)s
        TypeError
            When the estimator has no ``memory_trace``.
        ValueError
            When the network has no memory but its state.
        """
        require_matplotlib(cls.__name__)
        if not hasattr(estimator, "memory_trace"):
            raise TypeError(
                "the estimator must have memory_trace, as NTMSequenceClassifier has, got "
                f"{type(estimator).__name__}."
            )
        trace = estimator.memory_trace(x)
        name = type(estimator).__name__ if name is None else name
        return cls(trace.read_weights, trace.write_weights, name=name).plot(ax, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        min_weight: float = 0.05,
        imshow_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the weights.

        Parameters
        ----------
        ax : two matplotlib Axes, default=None
            For writing and reading; None makes a new figure.
        name : str, default=None
            What the title calls the estimator; None for the display's ``name``.
        min_weight : float, default=0.05
            Slots from the first to the last that is ever read or written by that much are shown;
            all of them where none is.
        imshow_kw : dict, default=None
            Passed to ``Axes.imshow``.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When there are not two axes.
        """
        self.axes_ = check_axes(ax, 1, 2, panel=(4.5, 3.5), purpose=type(self).__name__)[0]
        self.figure_ = self.axes_[0].figure
        weights = [w.sum(axis=1).T for w in (self.write_weights, self.read_weights)]
        used = np.flatnonzero((np.maximum(*weights) >= min_weight).any(axis=1))
        n_slots = len(weights[0])
        low, high = (used[0], used[-1] + 1) if len(used) else (0, n_slots)
        self.slots_ = np.arange(low, high)
        style = {"cmap": "Greys", "vmin": 0, "vmax": 1, "origin": "lower", "aspect": "auto"}
        style |= {"interpolation": "nearest", "extent": (-0.5, len(self.read_weights) - 0.5,
                                                         low - 0.5, high - 0.5)}  # fmt: skip
        style = _validate_style_kwargs(style, imshow_kw or {})
        self.images_ = []
        for axes, shown, what in zip(self.axes_, weights, ("written", "read"), strict=True):
            self.images_.append(axes.imshow(shown[low:high], **style))
            axes.set(title=what, xlabel="step")
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_major_locator().set_params(integer=True)
        self.axes_[0].set_ylabel("slot")
        name = self.name if name is None else name
        if ax is None and name is not None:
            self.figure_.suptitle(name)
        return self
