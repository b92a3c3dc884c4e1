"""Counter-based randomness: the draws of (task, visit) depend on nothing drawn before."""

import numbers
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

RandomStateLike = int | np.random.RandomState | np.random.Generator | None

# The constants of Philox4x64 with ten rounds (Salmon et al. 2011), each pair as a column.
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], dtype=np.uint64)
_KEY_STEPS = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], dtype=np.uint64)
_N_ROUNDS = 10
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)

# Up to this class size one sort of random keys for all classes is faster than a choice per class.
_MAX_KEYS = 256


def resolve_random_state(random_state: RandomStateLike) -> tuple[int | None, NDArray[np.uint64]]:
    """Turn a ``random_state`` into what a task set remembers of it and a 128-bit Philox key.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        A generator instance is advanced by one draw; None takes fresh entropy from the system.

    Returns
    -------
    remembered : int or None
        The given or drawn seed; None if None was given.
    key : ndarray of shape (2,), dtype uint64
        The key of every stream.

    Raises
    ------
    ValueError
        If ``random_state`` is none of these or negative.
    """
    remembered: int | None
    if random_state is None:
        remembered = None
    elif isinstance(random_state, np.random.RandomState):
        remembered = int(random_state.randint(0, 2**63 - 1, dtype=np.int64))
    elif isinstance(random_state, np.random.Generator):
        remembered = int(random_state.integers(2**63 - 1))
    elif isinstance(random_state, numbers.Integral) and random_state >= 0:
        remembered = int(random_state)
    else:
        raise ValueError(
            "random_state must be None, an int of at least 0, a numpy RandomState or a numpy "
            f"Generator; got {random_state!r}."
        )
    key = np.random.SeedSequence(remembered).generate_state(2, np.uint64)
    return remembered, key.astype(np.uint64, copy=False)


def stream(key: NDArray[np.uint64], task_id: int, visit: int) -> np.random.Generator:
    """Return the generator of one visit of one task.

    The two upper words of Philox's 256-bit counter hold the task and the visit, so streams
    cannot overlap before 2**128 draws.

    Parameters
    ----------
    key : ndarray of shape (2,), dtype uint64
        From `resolve_random_state`.
    task_id : int
        The task's original number.
    visit : int
        How often the task was visited before.

    Returns
    -------
    Generator
        A fresh generator at the start of its stream.

    Raises
    ------
    ValueError
        If ``visit`` is negative.
    """
    if visit < 0:
        raise ValueError(f"visit must be at least 0, got {visit}; the first visit is 0.")
    counter = np.array([0, 0, task_id, visit], dtype=np.uint64)
    seed: Any = _Key(key)  # whose kind NumPy takes, but does not declare
    return np.random.Generator(np.random.Philox(seed, counter=counter))


class _Key(ISeedSequence):
    """A seed that is the key itself.

    ``Philox(key=key)`` makes the same stream, but asks the system for entropy first, which costs
    as much as all the rest.
    """

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        """Return the key, whose two words are all that Philox asks for."""
        return self.key


def stream_uniforms(
    key: NDArray[np.uint64],
    task_ids: NDArray[np.int64],
    visits: NDArray[np.int64],
    n_draws: int,
) -> NDArray[np.float64]:
    """Return what many streams draw first: ``stream(key, i, v).random(n_draws)`` of each (i, v).

    The same numbers bit for bit, at a small part of the cost of a generator for each stream.

    Parameters
    ----------
    key : ndarray of shape (2,), dtype uint64
        From `resolve_random_state`.
    task_ids, visits : ndarray of shape (n_streams,), dtype int64
        Not negative.
    n_draws : int
        How many numbers of each stream.

    Returns
    -------
    ndarray of shape (n_streams, n_draws)
        Uniform in [0, 1).
    """
    n_blocks = -(-n_draws // 4)
    # NumPy counts on before it makes a block, so that the first one has the counter 1.
    first = np.tile(np.arange(1, n_blocks + 1, dtype=np.uint64), len(task_ids))
    ids, times = (np.repeat(part.astype(np.uint64), n_blocks) for part in (task_ids, visits))
    even, odd = np.stack([first, ids]), np.stack([np.zeros_like(first), times])
    round_key = key[:, None]
    for _ in range(_N_ROUNDS):
        high, low = _multiply(even)
        even, odd = high[::-1] ^ odd ^ round_key, low[::-1]
        round_key = round_key + _KEY_STEPS
    words = np.stack([even[0], odd[0], even[1], odd[1]], axis=-1)
    words = words.reshape(len(task_ids), 4 * n_blocks)[:, :n_draws]
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _multiply(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the upper and the lower words of the 128-bit products with Philox's multipliers."""
    high, low = words >> _HALF, words & _LOW
    times_high, times_low = _MULTIPLIERS >> _HALF, _MULTIPLIERS & _LOW
    crossed = high * times_low
    middle = (low * times_low >> _HALF) + (crossed & _LOW) + low * times_high
    return high * times_high + (crossed >> _HALF) + (middle >> _HALF), words * _MULTIPLIERS


def draw_distinct(
    rng: np.random.Generator, sizes: NDArray[np.int64], n_draws: int
) -> NDArray[np.int64]:
    """Draw without replacement from several ranges at once.

    Parameters
    ----------
    rng : Generator
        The source.
    sizes : ndarray of shape (n_ranges,), dtype int64
        Row ``c`` is drawn from ``range(sizes[c])``.
    n_draws : int
        How many of each.

    Returns
    -------
    ndarray of shape (n_ranges, min(n_draws, sizes.max())), dtype int64
        The first ``min(n_draws, sizes[c])`` entries of row ``c`` are distinct and in random order;
        what follows them has no meaning.
    """
    counts = sizes.tolist()
    largest = max(counts)
    n_draws = min(n_draws, largest)
    if largest <= _MAX_KEYS:
        keys = rng.random((len(sizes), largest))
        if min(counts) < largest:
            keys[np.arange(largest) >= sizes[:, None]] = 2.0
        return keys.argsort(axis=1)[:, :n_draws]
    picks = np.zeros((len(sizes), n_draws), dtype=np.int64)
    for row, size in zip(picks, counts, strict=True):
        n = min(n_draws, size)
        row[:n] = rng.choice(size, n, replace=False)
    return picks
