"""Sequences of bits that follow n-gram models of their own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_sklearn.datasets._base import check_count
from fewshot_sklearn.datasets._sequences import Sequences, generators, random_bits
from fewshot_sklearn.tasks._random import RandomStateLike


def make_ngram_sequences(
    n_sequences: int = 100,
    *,
    length: int = 200,
    n_context: int = 5,
    random_state: RandomStateLike = None,
) -> Sequences:
    """Make random bits, each of which depends on those before it in its sequence's own way.

    Each sequence draws the probability of a one after each of the ``2 ** n_context`` contexts from
    Beta(1/2, 1/2), then bit after bit; the first ``n_context`` bits are fair coins. The next bit is
    to be predicted, so that what must be remembered is how often each context was followed by what.

    Parameters
    ----------
    n_sequences : int, default=100
        Number of sequences.
    length : int, default=200
        Bits of a sequence; more than ``n_context``.
    n_context : int, default=5
        Bits that the next one depends on: 5 for 6-grams.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of. The first sequences are the same however many there are.

    Returns
    -------
    X : list of n_sequences ndarrays of shape (length - 1, 1)
        All bits but the last.
    y : list of n_sequences ndarrays of shape (length - 1, 1)
        The next bit of each. NaN, so that they do not count, where that is a fair coin.

    Raises
    ------
    ValueError
        If a number is out of its range.

    See Also
    --------
    ngram_optimal_proba : The best that can be predicted.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
       Section 4.4.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_ngram_sequences
    >>> X, y = make_ngram_sequences(2, length=8, n_context=2, random_state=0)
    >>> X[0].ravel()
    array([1., 1., 0., 1., 1., 1., 1.])
    >>> y[0].ravel()
    array([nan,  0.,  1.,  1.,  1.,  1.,  1.])
    """
    n_context = check_count("n_context", n_context)
    length = check_count("length", length, minimum=n_context + 1)
    X, y = [], []
    for rng in generators(n_sequences, random_state):
        probabilities = rng.beta(0.5, 0.5, size=2**n_context)
        bits = np.empty(length)
        bits[:n_context] = random_bits(rng, n_context)
        draws, context = rng.random(length), _number(bits[:n_context])
        for t in range(n_context, length):
            bits[t] = draws[t] < probabilities[context]
            context = (2 * context + int(bits[t])) % 2**n_context
        targets = bits[1:, None].copy()
        targets[: n_context - 1] = np.nan
        X.append(bits[:-1, None])
        y.append(targets)
    return X, y


def _number(bits: NDArray[np.float64]) -> int:
    """Return the number that bits are in base two."""
    return int(bits @ 2 ** np.arange(len(bits))[::-1])


def ngram_optimal_proba(X: Sequence[ArrayLike], *, n_context: int = 5) -> list[NDArray[np.float64]]:
    r"""Return the probabilities that the best predictor of :func:`make_ngram_sequences` gives.

    It has seen the context c followed by a zero :math:`N_0` times and by a one :math:`N_1` times:

    .. math:: P(1 \mid N_0, N_1, c) = \frac{N_1 + 1/2}{N_0 + N_1 + 1}

    Parameters
    ----------
    X : list of n_sequences array-likes of shape (length, 1)
        As :func:`make_ngram_sequences` returns them.
    n_context : int, default=5
        What they were made with.

    Returns
    -------
    probabilities : list of n_sequences ndarrays of shape (length, 1)
        Of a one in the next step; 1/2 where the context is not complete.

    Raises
    ------
    ValueError
        If ``n_context`` is out of its range.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_ngram_sequences, ngram_optimal_proba
    >>> from fewshot_sklearn.metrics import bits_per_sequence
    >>> X, y = make_ngram_sequences(1000, random_state=0)
    >>> round(bits_per_sequence(y, ngram_optimal_proba(X)))
    127
    """
    n_context = check_count("n_context", n_context)
    probabilities = []
    for x in X:
        bits = np.asarray(x, dtype=np.int64).ravel()
        counts, p, context = np.full((2**n_context, 2), 0.5), np.full(len(bits), 0.5), 0
        for t, bit in enumerate(bits):
            if t >= n_context:
                counts[context, bit] += 1
            context = (2 * context + bit) % 2**n_context
            if t >= n_context - 1:
                p[t] = counts[context, 1] / counts[context].sum()
        probabilities.append(p[:, None])
    return probabilities
