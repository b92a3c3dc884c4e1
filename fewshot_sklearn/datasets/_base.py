"""What every loader needs: where data lives, how it gets there, what a parameter may be."""

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

from fewshot_sklearn.utils._optional import require

_ENVIRONMENT_VARIABLE = "FEWSHOT_SKLEARN_DATA"


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that data sets are read from and downloaded to.

    The folder is not created here; a download creates it.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder to use. None means the environment variable `FEWSHOT_SKLEARN_DATA` or, where
        that is not set, `~/fewshot_sklearn_data`.

    Returns
    -------
    data_home : pathlib.Path
        The folder, with a leading `~` replaced by the user's home.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import get_data_home
    >>> get_data_home("my_data").name
    'my_data'
    """
    if data_home is None:
        data_home = os.environ.get(_ENVIRONMENT_VARIABLE) or "~/fewshot_sklearn_data"
    return Path(data_home).expanduser()


def download(url: str, folder: Path, *, known_hash: str, download_if_missing: bool = True) -> Path:
    """Download a file into a folder, unless it is there, and verify its checksum.

    Parameters
    ----------
    url : str
        Address of the file; its last part becomes the file's name.
    folder : pathlib.Path
        Where the file is kept; created when missing.
    known_hash : str
        `"md5:..."` or `"sha256:..."`.
    download_if_missing : bool, default=True
        If False, an absent file is an error.

    Returns
    -------
    path : pathlib.Path
        The verified local file.

    Raises
    ------
    OSError
        If the file is absent and may not, or cannot, be downloaded.
    ValueError
        If the checksum differs.
    """
    name = url.rpartition("/")[2]
    by_hand = f"download {url} into {folder}, or set {_ENVIRONMENT_VARIABLE} to a folder with it"
    if not download_if_missing and not (folder / name).exists():
        raise OSError(f"{name} is not in {folder}; pass download_if_missing=True, {by_hand}.")
    pooch = require("pooch", extra="datasets", purpose=f"downloading {name}")
    try:
        return Path(pooch.retrieve(url, known_hash=known_hash, fname=name, path=folder))
    except OSError as error:
        raise OSError(f"{name} could not be downloaded ({error}); {by_hand}.") from error


def check_count(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return a count as an int, or raise a ValueError that names the parameter.

    Parameters
    ----------
    name : str
        The parameter's name.
    value : object
        What the user passed.
    minimum : int, default=1
        The smallest allowed value.

    Returns
    -------
    value : int
        The count.

    Raises
    ------
    ValueError
        If `value` is not an integer of at least `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}; got {value!r}.")
    return int(value)


def check_option(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise a ValueError unless `value` is one of `options`.

    Parameters
    ----------
    name : str
        The parameter's name.
    value : object
        What the user passed.
    options : iterable
        What is allowed.

    Raises
    ------
    ValueError
        If `value` is not among them.
    """
    options = list(options)
    if value not in options:
        raise ValueError(f"{name} must be one of {options}; got {value!r}.")
