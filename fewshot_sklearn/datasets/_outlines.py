"""The characters of matplotlib's fonts as outlines: which there are, and how they are drawn."""

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewshot_sklearn.utils._optional import require

FONTS = tuple(
    f"DejaVu{family}{style}"
    for family, styles in {
        "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)

# Two characters are one class when their outlines, scaled to one size, overlap more than this
# (Tanimoto similarity of the grey values, mean over the fonts).
SAME_SHAPE = 0.95

_ALPHABETS = ("Latin", "Greek", "Cyrillic", "Armenian", "Georgian")
_BLOCKS = {  # Unicode blocks of shapes, which their names do not tell apart as reliably
    "Arrow": range(0x2190, 0x2200),
    "Box drawing": range(0x2500, 0x2580),
    "Block element": range(0x2580, 0x25A0),
    "Geometric shape": range(0x25A0, 0x2600),
}
_CATEGORIES = {
    "Lm": "Modifier",
    "Sk": "Modifier",
    "Nd": "Number",
    "No": "Number",
    "Nl": "Number",
    "Sc": "Currency",
    "Sm": "Mathematical",
    "Ll": "Letterlike",
    "Lu": "Letterlike",
    "Lo": "Letterlike",
    "Pc": "Punctuation",
    "Pd": "Punctuation",
    "Ps": "Punctuation",
    "Pe": "Punctuation",
    "Pi": "Punctuation",
    "Pf": "Punctuation",
    "Po": "Punctuation",
    "So": "Symbol",
}
SCRIPTS = tuple(dict.fromkeys([*_ALPHABETS, *_BLOCKS, *_CATEGORIES.values()]))

_CLOSE_POLYGON = 79


class Outline(NamedTuple):
    """The outline of one character in one font, centred at 0, its longer side 1."""

    vertices: NDArray[np.float64]
    codes: NDArray[np.uint8]


class Sheet:
    """A column of square cells that outlines are filled into, anti-aliased.

    Parameters
    ----------
    n_cells : int
        Number of cells.
    image_size : int
        Side of a cell, in pixels.
    """

    def __init__(self, n_cells: int, image_size: int):
        backend = _matplotlib("backends.backend_agg")
        self._shape = (n_cells, image_size, image_size)
        self._renderer = backend.RendererAgg(image_size, image_size * n_cells, 72)
        self._pen = self._renderer.new_gc()
        self._pen.set_linewidth(0)
        self._pen.set_snap(False)
        self._path = _matplotlib("path").Path
        self._identity = _matplotlib("transforms").IdentityTransform()

    def fill(
        self, vertices: NDArray[np.float64], codes: NDArray[np.uint8], lengths: NDArray[np.intp]
    ) -> NDArray[np.uint8]:
        """Fill one outline into each cell.

        Parameters
        ----------
        vertices : ndarray of shape (sum(lengths), 2)
            The outlines one after the other, in cells: a cell reaches from -0.5 to 0.5.
        codes : ndarray of shape (sum(lengths),)
            matplotlib's path codes.
        lengths : ndarray of shape (n_cells,)
            Number of vertices of each outline.

        Returns
        -------
        images : ndarray of shape (n_cells, image_size, image_size)
            Ink as 0 to 255.
        """
        n_cells, size, _ = self._shape
        # The canvas counts upwards from its lowest row, the images from the first.
        centre = np.column_stack([np.full(n_cells, 0.5), np.arange(n_cells, 0, -1) - 0.5])
        # On the grid of the rasteriser's 1/256 pixel, so that a cell's place does not change it.
        within = np.rint(vertices * (256 * size)) / 256
        on_canvas = within + np.repeat(centre * size, lengths, axis=0)
        self._renderer.clear()
        path = self._path(on_canvas, codes)
        self._renderer.draw_path(self._pen, path, self._identity, (0.0, 0.0, 0.0))
        ink = np.asarray(self._renderer.buffer_rgba())[:, :, 3]
        return ink.reshape(self._shape).copy()


def _matplotlib(module: str) -> Any:
    return require(f"matplotlib.{module}", extra="plot", purpose="load_glyphs")


@lru_cache(maxsize=1)
def _fonts() -> tuple[Any, ...]:
    """Open the twelve fonts."""
    ft2font = _matplotlib("ft2font")
    folder = Path(require("matplotlib", extra="plot", purpose="load_glyphs").get_data_path())
    return tuple(ft2font.FT2Font(str(folder / "fonts" / "ttf" / f"{name}.ttf")) for name in FONTS)


def outlines_of(code_point: int) -> list[Outline]:
    """Return the outlines of a character in each of `FONTS`.

    Parameters
    ----------
    code_point : int
        The character, which every font must have.

    Returns
    -------
    outlines : list of Outline
        One a font; without vertices where the glyph is blank.
    """
    unscaled = _matplotlib("ft2font").LoadFlags.NO_SCALE
    outlines = []
    for font in _fonts():
        font.load_char(code_point, flags=unscaled)
        vertices, codes = font.get_path()
        outlines.append(Outline(_normalised(vertices, codes), codes))
    return outlines


def _normalised(vertices: NDArray[np.float64], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centre an outline at 0 and scale its longer side to 1."""
    if len(vertices) == 0:
        return vertices
    # A closing vertex is given as (0, 0) and never drawn; moved, it does not widen the outline.
    closing = np.flatnonzero(codes == _CLOSE_POLYGON)
    vertices = vertices.copy()
    vertices[closing] = vertices[closing - 1]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return np.asarray((vertices - (low + high) / 2) / (high - low).max())


def script_of(code_point: int) -> str | None:
    """Return the group of a character, one of `SCRIPTS`, or None for one that is no sign.

    Parameters
    ----------
    code_point : int
        The character.

    Returns
    -------
    script : str or None
        The alphabet of a letter, the kind of a sign; None for spaces, combining marks and
        control characters.
    """
    category = unicodedata.category(chr(code_point))
    alphabet = unicodedata.name(chr(code_point), "").partition(" ")[0].title()
    if alphabet in _ALPHABETS and category in ("Lu", "Ll", "Lt", "Lo"):
        return alphabet
    blocks = (name for name, block in _BLOCKS.items() if code_point in block)
    return next(blocks, _CATEGORIES.get(category))


@lru_cache(maxsize=1)
def distinct_characters() -> tuple[tuple[int, ...], int]:
    """Choose the characters that can be told apart by their shape.

    Those that every font has are gone through in order, letters of an alphabet before signs and
    small code points before large; a character whose shape is that of an earlier one is dropped.
    The choice depends on the fonts alone, so it is kept.

    Returns
    -------
    code_points : tuple of int
        In the order of `SCRIPTS`, then of the code points.
    n_dropped : int
        How many were dropped as repetitions.
    """
    common = set.intersection(*(set(font.get_charmap()) for font in _fonts()))
    rank = {script: i for i, script in enumerate(SCRIPTS)}
    ranked = sorted((rank[s], c) for c in common if (s := script_of(c)) is not None)
    # Letters first, whatever their alphabet: order[i] = (is a sign, code point).
    order = sorted((place >= len(_ALPHABETS), c) for place, c in ranked)
    shapes = {c: outlines_of(c) for _, c in order}
    visible = [c for _, c in order if all(len(outline.codes) for outline in shapes[c])]
    same = _overlap([shapes[c] for c in visible]) > SAME_SHAPE
    kept = np.zeros(len(visible), dtype=bool)
    for i, row in enumerate(same):
        kept[i] = not (row[:i] & kept[:i]).any()
    chosen = {c for c, keep in zip(visible, kept, strict=True) if keep}
    return tuple(c for _, c in ranked if c in chosen), int((~kept).sum())


def _overlap(shapes: list[list[Outline]], image_size: int = 28) -> NDArray[np.floating]:
    """Return the overlap of each pair of characters: x.y / (x.x + y.y - x.y), mean over fonts."""
    sheet = Sheet(len(FONTS), image_size)
    images = np.empty((len(shapes), len(FONTS), image_size**2), dtype=np.float32)
    for i, outlines in enumerate(shapes):
        vertices = np.concatenate([outline.vertices for outline in outlines]) * (24 / 28)
        codes = np.concatenate([outline.codes for outline in outlines])
        lengths = np.array([len(outline.codes) for outline in outlines])
        images[i] = sheet.fill(vertices, codes, lengths).reshape(len(FONTS), -1)
    images /= 255
    total = np.zeros((len(shapes), len(shapes)), dtype=np.float32)
    for x in images.transpose(1, 0, 2):
        both = x @ x.T
        each = np.diag(both)
        total += both / (each[:, None] + each - both)
    return total / len(FONTS)
