"""Counts that are fixed or drawn from an inclusive range."""

import numbers
from typing import Any

import numpy as np

CountOrRange = int | tuple[int, int]


def check_count(value: Any, name: str, *, least: int) -> int:
    """Return a count, or raise a ValueError that names the parameter."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return int(value)


def check_range(value: Any, name: str, *, least: int) -> tuple[int, int]:
    """Return the ends of a count or (low, high) range, or raise a ValueError that names it."""
    if not isinstance(value, (tuple, list)):
        return (check_count(value, name, least=least),) * 2
    if len(value) != 2:
        raise ValueError(f"{name} must be an integer or a range (low, high), got {value!r}.")
    low, high = (check_count(end, f"each end of {name}", least=least) for end in value)
    if low > high:
        raise ValueError(f"{name} must be a range (low, high) with low <= high, got {value!r}.")
    return low, high


def draw_count(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw from an inclusive range; a range of one value draws nothing."""
    return low if low == high else int(rng.integers(low, high + 1))
