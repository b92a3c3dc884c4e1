"""How the rows of one group are split into a support and a query set."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.tasks._random import draw_distinct

# After this many plain draws without one of the classes, one row of each is put in first.
_MAX_REDRAWS = 10


def allocate(
    rng: np.random.Generator, counts: NDArray[np.int64], n_support: int
) -> NDArray[np.int64]:
    """Share support rows among classes in proportion to their counts, at least one each.

    Largest remainders, with ties broken at random. A class whose share is below one row gets one,
    and the others share the rest in proportion.

    Parameters
    ----------
    rng : Generator
        For ties.
    counts : ndarray of shape (n_classes,), dtype int64
        The rows of each class.
    n_support : int
        Rows to share, from ``n_classes`` to ``counts.sum()``.

    Returns
    -------
    ndarray of shape (n_classes,), dtype int64
        At least 1 and at most ``counts``; sums to ``n_support``.
    """
    share, whole, n_spare = _shares(tuple(counts.tolist()), n_support)
    if not n_spare:
        return whole
    remainder = share - whole + 1e-9 * rng.random(len(counts))
    taken = whole.copy()
    taken[(-remainder).argsort()[:n_spare]] += 1
    return taken


@lru_cache(maxsize=4096)
def _shares(
    counts_of_classes: tuple[int, ...], n_support: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Return each class's share, the whole rows of it, and how many rows are left to share."""
    counts = np.array(counts_of_classes)
    share = counts * (n_support / counts.sum())
    rare = share < 1
    while rare.any():
        common = ~rare
        n_left = n_support - np.count_nonzero(rare)
        share = np.where(rare, 1.0, counts * (n_left / max(counts[common].sum(), 1)))
        # The tolerance keeps rounding from making every class rare where each share is exactly 1.
        rarer = rare | (share < 1 - 1e-9)
        if (rarer == rare).all():
            break
        rare = rarer
    whole = np.floor(share + 1e-9).astype(np.int64)
    whole.flags.writeable = False
    return share, whole, n_support - int(whole.sum())


def draw_stratified(
    rng: np.random.Generator, counts: NDArray[np.int64], n_support: int
) -> NDArray[np.int64]:
    """Draw support positions with the group's class proportions.

    Parameters
    ----------
    rng : Generator
        The source.
    counts : ndarray of shape (n_classes,), dtype int64
        The rows of each class; positions are numbered class by class.
    n_support : int
        How many.

    Returns
    -------
    ndarray of shape (n_support,), dtype int64
        Distinct positions below ``counts.sum()``, class by class.
    """
    taken = allocate(rng, counts, n_support)
    picks = draw_distinct(rng, counts, max(taken.tolist()))
    picks += (counts.cumsum() - counts)[:, None]
    return picks[np.arange(picks.shape[1]) < taken[:, None]]


def draw_plain(
    rng: np.random.Generator, counts: NDArray[np.int64], n_support: int
) -> NDArray[np.int64]:
    """Draw support positions without regard to classes, again until every class is there.

    When ten draws lack a class, the eleventh takes one row of each class first.

    Parameters
    ----------
    rng : Generator
        The source.
    counts : ndarray of shape (n_classes,), dtype int64
        The rows of each class; positions are numbered class by class.
    n_support : int
        How many, at least ``n_classes``.

    Returns
    -------
    ndarray of shape (n_support,), dtype int64
        Distinct positions below ``counts.sum()``, in no order.
    """
    n_rows, ends = int(counts.sum()), np.cumsum(counts)
    for _ in range(_MAX_REDRAWS):
        picks = rng.choice(n_rows, n_support, replace=False)
        classes = np.searchsorted(ends, picks, side="right")
        if np.bincount(classes, minlength=len(counts)).all():
            return picks
    first = ends - counts + draw_distinct(rng, counts, 1)[:, 0]
    rest = rng.choice(n_rows - len(first), n_support - len(first), replace=False)
    return np.concatenate([first, skip(first, rest)])


def skip(taken: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn numbers counted among the positions that are left into positions.

    Parameters
    ----------
    taken : ndarray of shape (n_taken,), dtype int64
        Positions that are gone, distinct.
    others : ndarray of shape (n_others,), dtype int64
        Numbers in the sequence of the positions that remain.

    Returns
    -------
    ndarray of shape (n_others,), dtype int64
        Their positions.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn.tasks._splits import skip
    >>> skip(np.array([4, 0]), np.array([0, 1, 2, 3])).tolist()
    [1, 2, 3, 5]
    """
    gaps = taken.copy()
    gaps.sort()
    gaps -= np.arange(len(gaps))
    return others + gaps.searchsorted(others, side="right")
