"""The algorithmic tasks that neural Turing machines were introduced with, as sequences.

Each returns lists of arrays: inputs (length, n_inputs), and targets (length, n_outputs) that are
NaN at the steps that do not count.
"""

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.datasets._base import check_count
from fewshot_sklearn.tasks._random import RandomStateLike, resolve_random_state, stream
from fewshot_sklearn.tasks._ranges import CountOrRange, check_range, draw_count

Sequences = tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]


def generators(n_sequences: int, random_state: RandomStateLike) -> list[np.random.Generator]:
    """Return a generator for each sequence, which so depends on its number alone."""
    key = resolve_random_state(random_state)[1]
    return [stream(key, i, 0) for i in range(check_count("n_sequences", n_sequences))]


def random_bits(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Return zeros and ones that are as likely."""
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
    for rng in generators(n_sequences, random_state):
        vectors = random_bits(rng, draw_count(rng, low, high), n_bits)
        n = len(vectors)
        x, targets = np.zeros((2 * n + 1, n_bits + 1)), np.full((2 * n + 1, n_bits), np.nan)
        x[:n, :-1], x[n, -1] = vectors, 1
        targets[n + 1 :] = vectors
        X.append(x)
        y.append(targets)
    return X, y


def make_repeat_copy_sequences(
    n_sequences: int = 100,
    *,
    lengths: CountOrRange = (1, 10),
    repeats: CountOrRange = (1, 10),
    n_bits: int = 8,
    normalize_by: tuple[int, int] | None = None,
    random_state: RandomStateLike = None,
) -> Sequences:
    """Make sequences of random bits to be repeated a given number of times, then ended.

    The first L steps show L vectors of random bits, step L + 1 the number of repeats R in a channel
    of its own. In the next R L steps, whose inputs are zero, the vectors are to be repeated R
    times, and in the last step a marker that says that this is the end.

    Parameters
    ----------
    n_sequences : int, default=100
        Number of sequences.
    lengths : int or (low, high), default=(1, 10)
        L, or the inclusive range that it is drawn from.
    repeats : int or (low, high), default=(1, 10)
        R, or the inclusive range that it is drawn from.
    n_bits : int, default=8
        Width of the vectors.
    normalize_by : (low, high), default=None
        The inclusive range over which the number that stands for R has mean 0 and variance 1; None
        takes ``repeats``. For longer sequences than those of training pass the range of training.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of. The first sequences are the same however many there are.

    Returns
    -------
    X : list of n_sequences ndarrays of shape (L + 1 + R L + 1, n_bits + 1)
        The last channel is the number's.
    y : list of n_sequences ndarrays of shape (L + 1 + R L + 1, n_bits + 1)
        NaN in the first L + 1 steps, which do not count. The last channel is the end marker's: one
        in the last step, whose bits are zero.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
       Section 4.2.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_repeat_copy_sequences
    >>> X, y = make_repeat_copy_sequences(1, lengths=1, repeats=(1, 3), n_bits=2, random_state=4)
    >>> X[0].round(1)
    array([[0. , 1. , 0. ],
           [0. , 0. , 1.2],
           [0. , 0. , 0. ],
           [0. , 0. , 0. ],
           [0. , 0. , 0. ],
           [0. , 0. , 0. ]])
    >>> y[0]
    array([[nan, nan, nan],
           [nan, nan, nan],
           [ 0.,  1.,  0.],
           [ 0.,  1.,  0.],
           [ 0.,  1.,  0.],
           [ 0.,  0.,  1.]])
    """
    length_range = check_range(lengths, "lengths", least=1)
    repeat_range = check_range(repeats, "repeats", least=1)
    n_bits = check_count("n_bits", n_bits)
    counts = repeat_range
    if normalize_by is not None:
        counts = check_range(normalize_by, "normalize_by", least=1)
    known = np.arange(counts[0], counts[1] + 1)
    X, y = [], []
    for rng in generators(n_sequences, random_state):
        n, r = draw_count(rng, *length_range), draw_count(rng, *repeat_range)
        vectors = random_bits(rng, n, n_bits)
        x = np.zeros((n + 1 + r * n + 1, n_bits + 1))
        targets = np.full(x.shape, np.nan)
        x[:n, :-1], x[n, -1] = vectors, (r - known.mean()) / (known.std() or 1.0)
        targets[n + 1 :] = 0
        targets[n + 1 : -1, :-1], targets[-1, -1] = np.tile(vectors, (r, 1)), 1
        X.append(x)
        y.append(targets)
    return X, y


def make_associative_recall_sequences(
    n_sequences: int = 100,
    *,
    n_items: CountOrRange = (2, 6),
    item_length: int = 3,
    n_bits: int = 6,
    random_state: RandomStateLike = None,
) -> Sequences:
    """Make lists of items of which one is shown again and the next one is to be recalled.

    An item is some vectors of random bits. Each is shown after a delimiter; then one of them, but
    not the last, between two delimiters of another kind; in the last steps, whose inputs are zero,
    the item that followed it in the list is to be given.

    Parameters
    ----------
    n_sequences : int, default=100
        Number of sequences.
    n_items : int or (low, high), default=(2, 6)
        K, the number of items, or the inclusive range that it is drawn from; at least 2.
    item_length : int, default=3
        I, the vectors of an item.
    n_bits : int, default=6
        Width of the vectors.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of. The first sequences are the same however many there are.

    Returns
    -------
    X : list of n_sequences ndarrays of shape (K (I + 1) + 2 + 2 I, n_bits + 2)
        The last two channels are the delimiters': of items, and of the query.
    y : list of n_sequences ndarrays of shape (K (I + 1) + 2 + 2 I, n_bits)
        NaN but in the last I steps, which alone count.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Notes
    -----
    Items are drawn independently, so that two may be equal: of 18 bits, hardly ever.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
       Section 4.3.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_associative_recall_sequences
    >>> X, y = make_associative_recall_sequences(
    ...     1, n_items=2, item_length=1, n_bits=3, random_state=2
    ... )
    >>> X[0]
    array([[0., 0., 0., 1., 0.],
           [1., 0., 1., 0., 0.],
           [0., 0., 0., 1., 0.],
           [0., 1., 1., 0., 0.],
           [0., 0., 0., 0., 1.],
           [1., 0., 1., 0., 0.],
           [0., 0., 0., 0., 1.],
           [0., 0., 0., 0., 0.]])
    >>> y[0][-1]
    array([0., 1., 1.])
    """
    low, high = check_range(n_items, "n_items", least=2)
    size, n_bits = check_count("item_length", item_length), check_count("n_bits", n_bits)
    X, y = [], []
    for rng in generators(n_sequences, random_state):
        items = random_bits(rng, draw_count(rng, low, high), size, n_bits)
        asked = rng.integers(len(items) - 1)
        n_shown = len(items) * (size + 1)
        x = np.zeros((n_shown + 2 + 2 * size, n_bits + 2))
        shown = x[:n_shown].reshape(len(items), size + 1, n_bits + 2)
        shown[:, 0, n_bits], shown[:, 1:, :n_bits] = 1, items
        x[[n_shown, n_shown + 1 + size], n_bits + 1] = 1
        x[n_shown + 1 : n_shown + 1 + size, :n_bits] = items[asked]
        targets = np.full((len(x), n_bits), np.nan)
        targets[-size:] = items[asked + 1]
        X.append(x)
        y.append(targets)
    return X, y


def make_priority_sort_sequences(
    n_sequences: int = 100,
    *,
    n_inputs: int = 20,
    n_outputs: int = 16,
    n_bits: int = 8,
    random_state: RandomStateLike = None,
) -> Sequences:
    """Make vectors of random bits with priorities, to be given back from the highest on.

    The first steps show the vectors, each with its priority, from U[-1, 1], in a channel of its
    own. In the others, whose inputs are zero, those of the highest priorities are to be given, in
    the order of these.

    Parameters
    ----------
    n_sequences : int, default=100
        Number of sequences.
    n_inputs : int, default=20
        Vectors that are shown.
    n_outputs : int, default=16
        Vectors that are to be given; at most ``n_inputs``.
    n_bits : int, default=8
        Width of the vectors.
    random_state : int, Generator, RandomState or None, default=None
        What every draw is a function of. The first sequences are the same however many there are.

    Returns
    -------
    X : list of n_sequences ndarrays of shape (n_inputs + n_outputs, n_bits + 1)
        The last channel is the priority's.
    y : list of n_sequences ndarrays of shape (n_inputs + n_outputs, n_bits)
        NaN in the first ``n_inputs`` steps, which do not count.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
       Section 4.5.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import make_priority_sort_sequences
    >>> X, y = make_priority_sort_sequences(
    ...     1, n_inputs=3, n_outputs=2, n_bits=2, random_state=5
    ... )
    >>> X[0].round(2)
    array([[ 1.  ,  1.  , -0.66],
           [ 0.  ,  1.  ,  0.07],
           [ 1.  ,  0.  ,  0.14],
           [ 0.  ,  0.  ,  0.  ],
           [ 0.  ,  0.  ,  0.  ]])
    >>> y[0][-2:]
    array([[1., 0.],
           [0., 1.]])
    """
    n_inputs, n_outputs = check_count("n_inputs", n_inputs), check_count("n_outputs", n_outputs)
    n_bits = check_count("n_bits", n_bits)
    if n_outputs > n_inputs:
        raise ValueError(
            f"n_outputs must be at most n_inputs={n_inputs}, the vectors shown; got {n_outputs}."
        )
    X, y = [], []
    for rng in generators(n_sequences, random_state):
        vectors, priorities = random_bits(rng, n_inputs, n_bits), rng.uniform(-1, 1, n_inputs)
        x = np.zeros((n_inputs + n_outputs, n_bits + 1))
        x[:n_inputs, :-1], x[:n_inputs, -1] = vectors, priorities
        targets = np.full((len(x), n_bits), np.nan)
        targets[n_inputs:] = vectors[np.argsort(-priorities)[:n_outputs]]
        X.append(x)
        y.append(targets)
    return X, y
