"""A real many-class data set without a download: the characters of matplotlib's fonts."""

import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from fewshot_sklearn.datasets._base import check_count, check_option
from fewshot_sklearn.datasets._outlines import (
    FONTS,
    SAME_SHAPE,
    SCRIPTS,
    Outline,
    Sheet,
    distinct_characters,
    outlines_of,
    script_of,
)
from fewshot_sklearn.tasks._random import RandomStateLike, resolve_random_state, stream

# The drawings' random transformation; lengths in parts of the image's side.
_ROTATION = np.deg2rad(25)
_SHEAR = 0.3
_SCALE = 1.25
_SIDE = 18 / 28
_SHIFT = 2 / 28
_LARGEST = 26 / 28

_DESCRIPTION = """Glyphs: the characters of the DejaVu fonts as a few-shot data set

{n_samples} drawings of {n_classes} characters, {n_drawings} of each, {size} x {size} pixels.

The characters are the letters and signs that the twelve DejaVu fonts that ship with matplotlib
(Sans, Sans Mono and Serif; regular, bold, oblique, bold oblique) have in common. A drawing shows
its character in one of the fonts, filled from its outline under a random rotation (up to 25
degrees), shear (up to 0.3), scale (0.8 to 1.25, uniform in its logarithm) and shift (up to 2 of 28
pixels); the first twelve drawings of a character are of twelve different fonts.

Size and position say nothing: every outline is centred and scaled until its longer side has the
same length. Characters that then look alike in all fonts (overlap above {same_shape}, mean over
the fonts) would be labels without meaning, such as Latin, Greek and Cyrillic capital A or the
hyphen and the dash. Of such a group the first is kept, letters before signs and small code points
before large; {n_dropped} of {n_common} characters are dropped so. This is decided over all
scripts, before `scripts` selects some, so that no two scripts share a shape: what is learned on
one script is tested on another on shapes never seen.

The fonts are free (Bitstream Vera and DejaVu licences, the changes in the public domain).
"""


def load_glyphs(
    *,
    scripts: Iterable[str] | None = None,
    n_drawings: int = 20,
    image_size: int = 28,
    random_state: RandomStateLike = 0,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load drawings of about 2,000 characters, rendered on the spot.

    The characters are those of the fonts that ship with matplotlib, so nothing is downloaded.
    Each character is a class of `n_drawings` images; classes come in the order of `scripts` as
    listed below, then of the code points.

    Parameters
    ----------
    scripts : iterable of str, default=None
        The groups of characters to load; None loads all. Alphabets: "Latin", "Greek",
        "Cyrillic", "Armenian", "Georgian"; signs: "Arrow", "Box drawing", "Block element",
        "Geometric shape", "Modifier", "Number", "Currency", "Mathematical", "Letterlike",
        "Punctuation", "Symbol". The drawings of a character do not depend on the selection.
    n_drawings : int, default=20
        Number of drawings of each character. More drawings add to fewer, and change none.
    image_size : int, default=28
        Side of an image, in pixels; at least 8.
    random_state : int, Generator, RandomState or None, default=0
        Seed of the drawings. None draws anew at each call.
    return_X_y : bool, default=False
        If True, return `(data, target)` only.

    Returns
    -------
    glyphs : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, image_size ** 2), float32
            The images as rows; background 0, ink 1.
        images : ndarray of shape (n_samples, image_size, image_size), float32
            The same numbers, as images; a view of `data`.
        target : ndarray of shape (n_samples,), int64
            The class of each row, an index into the per-class fields.
        target_names : ndarray of shape (n_classes,), str
            Unicode names, such as "GREEK SMALL LETTER ALPHA".
        characters : ndarray of shape (n_classes,), str
            The characters.
        script : ndarray of shape (n_classes,), str
            The group of each class.
        font : ndarray of shape (n_samples,), int64
            The font of each drawing, an index into `font_names`.
        font_names : list of str
            The twelve fonts.
        DESCR : str
            Description of the data.
    (data, target) : tuple if ``return_X_y`` is True
        See above.

    Raises
    ------
    ValueError
        If a parameter is out of its range or a script is unknown.
    ImportError
        If matplotlib (extra `plot`) is not installed.

    See Also
    --------
    fetch_omniglot : Handwritten characters, 1,623 of them.

    Notes
    -----
    All drawings, 20 of each character, take a few seconds on one core and 130 MB. The same seed
    gives the same drawings on every machine with the same matplotlib.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import load_glyphs
    >>> glyphs = load_glyphs(scripts=["Armenian", "Georgian"], n_drawings=3)
    >>> glyphs.images.shape[1:], int(glyphs.data.max())
    ((28, 28), 1)
    >>> print(glyphs.target_names[glyphs.target[0]], glyphs.font_names[glyphs.font[0]])
    ARMENIAN CAPITAL LETTER AYB DejaVuSerif-Bold
    """
    n_drawings = check_count("n_drawings", n_drawings)
    image_size = check_count("image_size", image_size, minimum=8)
    _, key = resolve_random_state(random_state)
    wanted = _check_scripts(scripts)
    candidates, n_dropped = distinct_characters()
    code_points = [c for c in candidates if script_of(c) in wanted]

    sheet = Sheet(n_drawings, image_size)
    images = np.empty((len(code_points), n_drawings, image_size, image_size), dtype=np.float32)
    font = np.empty((len(code_points), n_drawings), dtype=np.int64)
    for i, code_point in enumerate(code_points):
        rng = stream(key, code_point, 0)
        images[i], font[i] = _draw(outlines_of(code_point), sheet, n_drawings, rng)
    images /= 255
    data = images.reshape(-1, image_size**2)
    target = np.repeat(np.arange(len(code_points)), n_drawings)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        images=data.reshape(-1, image_size, image_size),
        target=target,
        target_names=np.array([unicodedata.name(chr(c)) for c in code_points]),
        characters=np.array([chr(c) for c in code_points]),
        script=np.array([script_of(c) for c in code_points]),
        font=font.ravel(),
        font_names=list(FONTS),
        DESCR=_DESCRIPTION.format(
            n_samples=len(target),
            n_classes=len(code_points),
            n_drawings=n_drawings,
            size=image_size,
            same_shape=SAME_SHAPE,
            n_dropped=n_dropped,
            n_common=n_dropped + len(candidates),
        ),
    )


def _check_scripts(scripts: Iterable[str] | None) -> set[str]:
    """Return the names of the scripts to load."""
    if scripts is None:
        return set(SCRIPTS)
    if isinstance(scripts, str):
        raise ValueError(f"scripts must be a list of names; pass scripts=[{scripts!r}].")
    wanted = set(scripts)
    for name in wanted:
        check_option("each of scripts", name, SCRIPTS)
    if not wanted:
        raise ValueError(f"scripts is empty; name at least one of {list(SCRIPTS)}, or pass None.")
    return wanted


def _draw(
    outlines: list[Outline], sheet: Sheet, n_drawings: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw one character `n_drawings` times; return the images and the font of each."""
    font = rng.permutation(len(FONTS))[np.arange(n_drawings) % len(FONTS)]
    # A row of random numbers a drawing, so that the first drawings do not depend on how many.
    turn, slant, size, *shift = rng.uniform(-1, 1, size=(n_drawings, 5)).T

    angle, scale = _ROTATION * turn, _SIDE * _SCALE**size
    cos, sin, shear = np.cos(angle), np.sin(angle), _SHEAR * slant
    # rotation @ [[1, shear], [0, 1]] * scale, one matrix a drawing
    matrix = np.array([[cos, cos * shear - sin], [sin, sin * shear + cos]]) * scale

    lengths = np.array([len(outlines[f].codes) for f in font])
    vertices = np.concatenate([outlines[f].vertices for f in font])
    codes = np.concatenate([outlines[f].codes for f in font])
    vertices = np.einsum("ijn,nj->ni", np.repeat(matrix, lengths, axis=2), vertices)
    vertices = _place(vertices, lengths, np.column_stack(shift))
    return sheet.fill(vertices, codes, lengths), font


def _place(
    vertices: NDArray[np.float64], lengths: NDArray[np.intp], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centre each outline, shrink it if it would leave its cell, and shift it where room is."""
    starts = np.cumsum(lengths) - lengths
    low = np.minimum.reduceat(vertices, starts)
    high = np.maximum.reduceat(vertices, starts)
    extent = high - low
    shrink = np.minimum(1, _LARGEST / extent.max(axis=1, keepdims=True))
    room = np.minimum(_SHIFT, (_LARGEST - extent * shrink) / 2)
    offset = shift * room - (low + high) / 2 * shrink
    scaled = vertices * np.repeat(shrink, lengths, axis=0)
    return np.asarray(scaled + np.repeat(offset, lengths, axis=0))
