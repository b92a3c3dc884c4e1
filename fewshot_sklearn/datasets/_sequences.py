"""The algorithmic tasks that neural Turing machines were introduced with, as sequences.

Each returns lists of arrays: inputs (length, n_inputs), and targets (length, n_outputs) that are NaN at
the steps that do not count.
"""

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.datasets._base import check_count
from fewshot_sklearn.tasks._random import RandomStateLike, resolve_random_state, stream
from fewshot_sklearn.tasks._ranges import CountOrRange, check_range, draw_count

Sequences = tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]


def _generators(n_sequences: int, random_state: RandomStateLike) -> list[np.random.Generator]:
    """Return a generator for each sequence, which so depends on its number alone."""
    key = resolve_random_state(random_state)[1]
    return [stream(key, i, 0) for i in range(check_count("n_sequences", n_sequences))]


def _bits(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    return rng.integers(0, 2, size=shape).astype(np.float64)


def make_copy_sequences(
    n_sequences: int = 100,
    *,
    lengths: CountOrRange = (1, 20),
    n_bits: int = 8,
    random_state: RandomStateLike = None,
) -> Sequences:
    """Make sequences of random bits to be repeated after a delimiter.

    The first L steps show L vectors of random bits, step L + 1 a delimiter in a channel of its
    own, and in the last L steps, whose inputs are zero, the vectors are to be repeated.

    Parameters
    ----------
    n_sequences : int, default=100
        Number of sequences.
    lengths : int or (low, high), default=(1, 20)
        L, or the inclusive range that it is drawn from.
    n_bits : int, default=8
        Width of the vectors.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of. The first sequences are the same however many there are.

    Returns
    -------
    X : list of n_sequences ndarrays of shape (2 L + 1, n_bits + 1)
        The last channel is the delimiter's.
    y : list of n_sequences ndarrays of shape (2 L + 1, n_bits)
        NaN in the first L + 1 steps, which do not count.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
       Section 4.1.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_copy_sequences
    >>> X, y = make_copy_sequences(2, lengths=2, n_bits=3, random_state=0)
    >>> X[0]
    array([[0., 1., 0., 0.],
           [0., 1., 1., 0.],
           [0., 0., 0., 1.],
           [0., 0., 0., 0.],
           [0., 0., 0., 0.]])
    >>> y[0]
    array([[nan, nan, nan],
           [nan, nan, nan],
           [nan, nan, nan],
           [ 0.,  1.,  0.],
           [ 0.,  1.,  1.]])
    """
    low, high = check_range(lengths, "lengths", least=1)
    n_bits = check_count("n_bits", n_bits)
    X, y = [], []
    for rng in _generators(n_sequences, random_state):
        vectors = _bits(rng, draw_count(rng, low, high), n_bits)
        n = len(vectors)
        x, targets = np.zeros((2 * n + 1, n_bits + 1)), np.full((2 * n + 1, n_bits), np.nan)
        x[:n, :-1], x[n, -1] = vectors, 1
        targets[n + 1 :] = vectors
        X.append(x)
        y.append(targets)
    return X, y
