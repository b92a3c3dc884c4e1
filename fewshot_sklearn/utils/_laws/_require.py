"""How a law says that it was broken, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def as_array(values: Any) -> np.ndarray:
    """Return a tensor or array-like as a NumPy array."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError with this sentence unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_close(
    got: Any, expected: Any, law: str, *, rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    """Raise an AssertionError that begins with the law unless two arrays of numbers agree.

    Parameters
    ----------
    got, expected : array-like or Tensor
    law : str
        What must hold, without a full stop.
    rtol, atol : float
        Relative and absolute tolerance; zero for both demands the same bits.
    """
    got, expected = as_array(got), as_array(expected)
    require(
        got.shape == expected.shape,
        f"{law}, but the shapes are {got.shape} and {expected.shape}.",
    )
    if np.allclose(got, expected, rtol=rtol, atol=atol):
        return
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.subtract(got, expected, dtype=np.float64))
    where = np.unravel_index(np.nan_to_num(gap, nan=np.inf).argmax(), gap.shape)
    at = ", ".join(str(int(i)) for i in where)
    raise AssertionError(
        f"{law}, but at [{at}] there is {got[where]:.6g} where {expected[where]:.6g} was "
        f"expected (tolerance: {rtol:g} relative, {atol:g} absolute)."
    )


def require_equal(got: Any, expected: Any, law: str) -> None:
    """Raise an AssertionError that begins with the law unless two arrays are the same."""
    got, expected = as_array(got), as_array(expected)
    if got.shape == expected.shape and bool(np.all(got == expected)):
        return
    if got.shape == expected.shape and got.dtype.kind in "fiu" and expected.dtype.kind in "fiu":
        require_close(got, expected, law, rtol=0, atol=0)
    raise AssertionError(f"{law}, but got {got.tolist()} where {expected.tolist()} was expected.")


def require_finite(values: Any, law: str) -> None:
    """Raise an AssertionError that begins with the law unless every number is finite."""
    bad = ~np.isfinite(as_array(values))
    if bad.any():
        raise AssertionError(f"{law}, but {bad.sum()} of {bad.size} numbers are not finite.")


def require_error(
    action: Callable[[], Any], law: str, *mentions: str, kinds: Any = (ValueError, TypeError)
) -> None:
    """Raise an AssertionError unless the action raises an error that explains itself.

    Parameters
    ----------
    action : callable
    law : str
        What must hold, without a full stop.
    *mentions : str
        What the message must contain.
    kinds : exception type or tuple of them
        What may be raised.
    """
    try:
        action()
    except kinds as error:
        message = str(error)
        missing = [text for text in mentions if text not in message]
        require(
            not missing and len(message.split()) >= 5,
            f"{law}, and the error must be a sentence that mentions {list(mentions)}, "
            f"but it says {message!r}.",
        )
        return
    except Exception as error:
        names = " or ".join(kind.__name__ for kind in np.atleast_1d(kinds))
        raise AssertionError(
            f"{law} by raising a {names}, but raised {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"{law}, but nothing was raised.")
