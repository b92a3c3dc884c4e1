"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each."""

import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from fewshot_sklearn.datasets._base import check_option, download, get_data_home
from fewshot_sklearn.utils._optional import require

_URL = "https://github.com/brendenlake/omniglot/raw/master/python/images_{subset}.zip"
_HASHES = {
    "background": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "evaluation": "md5:6b91aef0f799c5bb55b94e3f2daec811",
}
_SIZE = 28

# The split of Vinyals et al. (2016), as later papers use it: the characters are counted as in
# `target`; from number 1200 on they are for the test, and of the others these alphabets are for
# the validation.
_FIRST_TEST_CLASS = 1200
_VALIDATION_ALPHABETS = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)

_DESCRIPTION = """Omniglot: handwritten characters, one-shot learning's first data set

{n_samples} images of {n_classes} characters, drawn online by 20 people each, {size} x {size}
pixels. The characters come from {n_alphabets} alphabets, some of them invented. The "background"
set (964 characters of 30 alphabets) is meant to learn from, the "evaluation" set (659 characters
of 20 alphabets) to test on.

The original images have 105 x 105 black and white pixels; these are resized with the Lanczos
filter and inverted, so that ink is 1 and paper is 0. Braille/character01 has one drawing twice.

`split="vinyals"` gives the classes of Vinyals et al. (2016): 1,028 to train, 172 to validate and
423 to test on. `rotations=True` makes each rotation by 90, 180 and 270 degrees a class of its own,
as is usual.

Licence: MIT. To be cited as
B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum (2015). Human-level concept learning through
probabilistic program induction. Science 350(6266), 1332-1338.
"""


def fetch_omniglot(
    *,
    subset: Literal["all", "background", "evaluation"] = "all",
    split: Literal["vinyals"] | None = None,
    rotations: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load the Omniglot data set, downloading it if necessary.

    Every class has 20 images of 28 x 28 pixels. 9 MB are downloaded for "background", 6 MB for
    "evaluation"; what is kept is smaller.

    Parameters
    ----------
    subset : {"all", "background", "evaluation"}, default="all"
        Which of the two original sets; "all" puts the background set first.
    split : {"vinyals"} or None, default=None
        "vinyals" adds the lists of classes of the usual split [2]_. It spans both sets.
    rotations : bool, default=False
        Whether to add each rotation of a class as a new class, see `rotated_classes`.
    data_home : str or path-like, default=None
        Folder of the data sets, see `get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not there.
    return_X_y : bool, default=False
        If True, return `(data, target)` only.

    Returns
    -------
    omniglot : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, 784), float32
            The images as rows; background 0, ink 1. 32,460 rows (102 MB) for "all".
        images : ndarray of shape (n_samples, 28, 28), float32
            The same numbers, as images; a view of `data`.
        target : ndarray of shape (n_samples,), int64
            The class of each row, an index into `target_names`.
        target_names : ndarray of shape (n_classes,), str
            Alphabet and number, such as "Greek/character01"; "/rot090" and so on is appended
            for a rotated class.
        alphabet : ndarray of shape (n_classes,), str
            The alphabet of each class.
        drawer : ndarray of shape (n_samples,), int64
            Who drew it, 1 to 20 within its class.
        train_classes, validation_classes, test_classes : ndarray of int64
            Only with ``split="vinyals"``: the classes of each part, 1,028, 172 and 423 of them
            (four times as many with `rotations`).
        DESCR : str
            Description of the data.
    (data, target) : tuple if ``return_X_y`` is True
        See above.

    Raises
    ------
    ValueError
        If a parameter is not one of its options, or a file is damaged.
    OSError
        If the data is absent and may not, or cannot, be downloaded.
    ImportError
        If a download needs pooch or Pillow and it is not installed (extra `datasets`).

    See Also
    --------
    load_glyphs : Characters of fonts, without a download.
    rotated_classes : Rotations as new classes.

    References
    ----------
    .. [1] B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum (2015). "Human-level concept learning
       through probabilistic program induction." Science 350(6266).
    .. [2] O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu and D. Wierstra (2016). "Matching
       networks for one shot learning." NeurIPS.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import fetch_omniglot
    >>> omniglot = fetch_omniglot(split="vinyals")  # doctest: +SKIP
    >>> omniglot.images.shape, len(omniglot.target_names)  # doctest: +SKIP
    ((32460, 28, 28), 1623)
    >>> in_training = np.isin(omniglot.target, omniglot.train_classes)  # doctest: +SKIP
    """
    check_option("subset", subset, ["all", "background", "evaluation"])
    check_option("split", split, [None, "vinyals"])
    if split is not None and subset != "all":
        raise ValueError(
            f'split="vinyals" spans both sets but subset={subset!r}; pass subset="all".'
        )
    folder = get_data_home(data_home) / "omniglot"
    parts = [
        _read(name, folder, download_if_missing=download_if_missing)
        for name in (_HASHES if subset == "all" else [subset])
    ]
    bunch = _bunch(parts, with_split=split is not None, rotations=rotations)
    return (bunch.data, bunch.target) if return_X_y else bunch


def rotated_classes(
    images: ArrayLike, y: ArrayLike, *, n_classes: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Add every image rotated by 90, 180 and 270 degrees, each rotation as a new class.

    Parameters
    ----------
    images : array-like of shape (n, size, size)
        Square images.
    y : array-like of shape (n,), int
        Their classes, from 0 to ``n_classes - 1``.
    n_classes : int, default=None
        Number of classes; None means ``max(y) + 1``.

    Returns
    -------
    images : ndarray of shape (4 * n, size, size)
        The images, then all of them rotated by 90 degrees counterclockwise, by 180, by 270.
    y : ndarray of shape (4 * n,), int64
        Class c rotated by k * 90 degrees is class ``k * n_classes + c``.

    Raises
    ------
    ValueError
        If the images are not square, or the labels are not classes 0 to ``n_classes - 1``.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import rotated_classes
    >>> images, y = rotated_classes([[[1, 2], [3, 4]]], [0])
    >>> images[1].tolist(), y.tolist()
    ([[2, 4], [1, 3]], [0, 1, 2, 3])
    """
    images, y = np.asarray(images), np.asarray(y)
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"images must have shape (n, size, size) to be rotated; got {images.shape}. "
            "Reshape rows of pixels with images.reshape(-1, size, size)."
        )
    if y.shape != images.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"y must hold one integer for each of the {len(images)} images; got {y.dtype} of "
            f"shape {y.shape}. Encode other labels with sklearn.preprocessing.LabelEncoder."
        )
    if n_classes is None:
        n_classes = int(y.max(initial=-1)) + 1
    if len(y) and not (y.min() >= 0 and y.max() < n_classes):
        raise ValueError(
            f"y must lie between 0 and n_classes - 1 = {n_classes - 1}; got {y.min()} to {y.max()}."
        )
    turned = np.concatenate([np.rot90(images, k, axes=(1, 2)) for k in range(4)])
    return turned, (y.astype(np.int64) + n_classes * np.arange(4)[:, None]).ravel()


def _bunch(parts: list[dict[str, NDArray[Any]]], *, with_split: bool, rotations: bool) -> Bunch:
    """Join the original sets and derive what the user sees."""
    first = np.cumsum([0] + [len(part["char_names"]) for part in parts])
    images = np.concatenate([part["X"] for part in parts])
    target = np.concatenate([start + part["y"] for start, part in zip(first, parts, strict=False)])
    names = np.concatenate([part["char_names"] for part in parts]).astype(str)
    alphabet = np.concatenate([part["alphabet_names"][part["char_alphabet"]] for part in parts])
    drawer = np.concatenate([part["drawer"] for part in parts]).astype(np.int64)
    lists = _vinyals_split(alphabet) if with_split else {}
    if rotations:
        n_classes = len(names)
        images, target = rotated_classes(images, target, n_classes=n_classes)
        turns = ["", "/rot090", "/rot180", "/rot270"]
        names = np.array([name + turn for turn in turns for name in names])
        alphabet, drawer = np.tile(alphabet, 4), np.tile(drawer, 4)
        lists = {
            key: (classes + n_classes * np.arange(4)[:, None]).ravel()
            for key, classes in lists.items()
        }
    data = images.reshape(len(images), -1).astype(np.float32)
    data /= 255
    return Bunch(
        data=data,
        images=data.reshape(images.shape),
        target=target.astype(np.int64),
        target_names=names,
        alphabet=alphabet,
        drawer=drawer,
        **lists,
        DESCR=_DESCRIPTION.format(
            n_samples=len(data),
            n_classes=len(names),
            n_alphabets=len(np.unique(alphabet)),
            size=_SIZE,
        ),
    )


def _vinyals_split(alphabet: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    """Return the classes of each part, given the alphabet of each class."""
    test = np.arange(len(alphabet)) >= _FIRST_TEST_CLASS
    validation = np.isin(alphabet, _VALIDATION_ALPHABETS) & ~test
    return {
        "train_classes": np.flatnonzero(~validation & ~test),
        "validation_classes": np.flatnonzero(validation),
        "test_classes": np.flatnonzero(test),
    }


def _read(subset: str, folder: Path, *, download_if_missing: bool) -> dict[str, NDArray[Any]]:
    """Read one original set, after downloading and converting it where that is not done."""
    path = folder / f"omniglot_{subset}_{_SIZE}_gray.npz"
    if not path.exists():
        archive = download(
            _URL.format(subset=subset),
            folder,
            known_hash=_HASHES[subset],
            download_if_missing=download_if_missing,
        )
        _save(path, _convert(archive))
        archive.unlink()
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = ["X", "y", "drawer", "char_names", "char_alphabet", "alphabet_names"]
            return {name: file[name] for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and fetch it again.") from error


def _convert(archive: Path) -> dict[str, NDArray[Any]]:
    """Read the original archive, images_<subset>/<alphabet>/character<nn>/<file>_<drawer>.png."""
    image_module = require("PIL.Image", extra="datasets", purpose="converting Omniglot")
    images, classes, drawers = [], [], []
    with zipfile.ZipFile(archive) as file:
        for name in sorted(name for name in file.namelist() if name.endswith(".png")):
            _, alphabet, character, drawing = name.split("/")
            original = image_module.open(BytesIO(file.read(name))).convert("L")
            # Resized before it is inverted; the other order rounds differently.
            small = original.resize((_SIZE, _SIZE), image_module.Resampling.LANCZOS)
            images.append(255 - np.asarray(small))
            classes.append(f"{alphabet}/{character}")
            drawers.append(int(drawing.removesuffix(".png").rpartition("_")[2]))
    char_names, y = np.unique(classes, return_inverse=True)
    alphabet_names, char_alphabet = np.unique(
        [name.partition("/")[0] for name in char_names], return_inverse=True
    )
    return {
        "X": np.stack(images),
        "y": y.astype(np.int16),
        "drawer": np.array(drawers, dtype=np.int8),
        "char_names": char_names,
        "char_alphabet": char_alphabet.astype(np.int8),
        "alphabet_names": alphabet_names,
    }


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an npz file; under its name there is never half a file."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(path)
