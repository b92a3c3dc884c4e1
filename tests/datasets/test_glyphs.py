"""The rendered characters: what is drawn, what is dropped, what a seed fixes."""

import unicodedata

import numpy as np
import pytest

from fewshot_sklearn.datasets import load_glyphs
from fewshot_sklearn.utils._optional import require

pytest.importorskip("matplotlib", reason="glyphs are drawn with matplotlib (extra `plot`)")

ALPHABETS = ["Greek", "Armenian", "Georgian"]


@pytest.fixture(scope="module")
def glyphs():
    return load_glyphs(scripts=ALPHABETS, n_drawings=14)


@pytest.fixture(scope="module")
def every_glyph():
    return load_glyphs(n_drawings=1)


def images_of(bunch, character):
    (label,) = np.flatnonzero(bunch.characters == character)
    return bunch.images[bunch.target == label]


def test_fields_fit_each_other(glyphs):
    n_classes = len(glyphs.target_names)
    assert glyphs.data.shape == (14 * n_classes, 784)
    assert glyphs.data.dtype == np.float32
    assert np.shares_memory(glyphs.data, glyphs.images)
    assert glyphs.images.shape == (14 * n_classes, 28, 28)
    assert np.bincount(glyphs.target).tolist() == [14] * n_classes
    assert len(glyphs.characters) == len(glyphs.script) == n_classes
    assert [unicodedata.name(c) for c in glyphs.characters] == glyphs.target_names.tolist()
    assert set(glyphs.script) == set(ALPHABETS)
    assert all(
        name.startswith(script.upper())
        for name, script in zip(glyphs.target_names, glyphs.script, strict=True)
    )


def test_return_X_y_gives_the_same_arrays(glyphs):
    X, y = load_glyphs(scripts=ALPHABETS, n_drawings=14, return_X_y=True)
    np.testing.assert_array_equal(X, glyphs.data)
    np.testing.assert_array_equal(y, glyphs.target)


def test_every_drawing_has_ink_and_none_is_cut_off(every_glyph):
    images = every_glyph.images
    assert images.min() == 0
    assert images.max() <= 1
    assert (images.max(axis=(1, 2)) > 0.5).all()
    border = np.ones((28, 28), dtype=bool)
    border[1:-1, 1:-1] = False
    assert not images[:, border].any()


def test_nearly_two_thousand_classes_of_sixteen_scripts(every_glyph):
    assert len(every_glyph.target_names) == len(set(every_glyph.target_names)) > 1900
    assert len(set(every_glyph.script)) == 16
    assert (np.bincount(np.unique(every_glyph.script, return_inverse=True)[1]) >= 4).all()


def test_images_stand_upright():
    glyphs = load_glyphs(scripts=["Latin"], n_drawings=12)
    rows = images_of(glyphs, "L").sum(axis=(0, 2))
    assert rows[14:].sum() > 1.2 * rows[:14].sum()  # an L is heavy at its foot
    columns = images_of(glyphs, "L").sum(axis=(0, 1))
    assert columns[:14].sum() > 1.2 * columns[14:].sum()


def test_shapes_that_scripts_share_belong_to_one_of_them_only(every_glyph):
    characters = set(every_glyph.characters)
    assert "A" in characters
    assert not characters & {"\N{GREEK CAPITAL LETTER ALPHA}", "\N{CYRILLIC CAPITAL LETTER A}"}
    assert "\N{GREEK CAPITAL LETTER OMEGA}" in characters
    assert "\N{OHM SIGN}" not in characters  # a letter wins over a sign
    assert "\N{GREEK SMALL LETTER MU}" in characters
    assert "\N{MICRO SIGN}" not in characters  # although its code point is smaller
    assert not characters & {" ", "\N{SOFT HYPHEN}", "\N{COMBINING ACUTE ACCENT}"}


def test_no_two_classes_are_the_same_picture():
    glyphs = load_glyphs(scripts=["Greek", "Cyrillic"], n_drawings=1)
    assert len(np.unique(glyphs.data, axis=0)) == len(glyphs.data)


def test_the_first_twelve_drawings_show_twelve_fonts(glyphs):
    fonts = glyphs.font.reshape(-1, 14)
    assert (np.sort(fonts[:, :12], axis=1) == np.arange(12)).all()
    np.testing.assert_array_equal(fonts[:, 12:], fonts[:, :2])
    assert len(np.unique(fonts[:, 0])) == 12
    assert len(glyphs.font_names) == 12


def test_drawings_of_a_character_do_not_depend_on_the_other_scripts(glyphs):
    alone = load_glyphs(scripts=["Armenian"], n_drawings=14)
    chosen = glyphs.script[glyphs.target] == "Armenian"
    np.testing.assert_array_equal(alone.data, glyphs.data[chosen])


def test_more_drawings_add_to_fewer(glyphs):
    fewer = load_glyphs(scripts=ALPHABETS, n_drawings=5)
    first_five = glyphs.images.reshape(-1, 14, 28, 28)[:, :5]
    np.testing.assert_array_equal(fewer.images.reshape(first_five.shape), first_five)


def test_a_seed_fixes_the_drawings():
    def draw(seed):
        return load_glyphs(scripts=["Georgian"], n_drawings=2, random_state=seed).data

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(draw(0), draw(0))
    np.testing.assert_array_equal(draw(np.random.default_rng(7)), draw(np.random.default_rng(7)))
    assert not np.array_equal(draw(0), draw(1))
    assert not np.array_equal(draw(None), draw(None))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("size", [8, 20, 105])
def test_a_larger_image_shows_the_same_drawing(size):
    small = load_glyphs(scripts=["Georgian"], n_drawings=1)
    other = load_glyphs(scripts=["Georgian"], n_drawings=1, image_size=size)
    assert other.images.shape[1:] == (size, size)
    np.testing.assert_allclose(
        small.data.mean(axis=1), other.data.mean(axis=1), atol=0.01
    )  # the share of ink


def test_the_description_says_how_many_were_dropped(glyphs):
    assert f"of {len(glyphs.target_names)} characters" in glyphs.DESCR
    assert "are dropped" in glyphs.DESCR
    assert "{" not in glyphs.DESCR


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"scripts": ["Klingon"]}, "each of scripts must be one of .*'Greek'.* got 'Klingon'"),
        ({"scripts": "Greek"}, r"pass scripts=\['Greek'\]"),
        ({"scripts": []}, "scripts is empty"),
        ({"n_drawings": 0}, "n_drawings must be an integer of at least 1; got 0"),
        ({"n_drawings": 2.5}, "n_drawings must be an integer"),
        ({"image_size": 4}, "image_size must be an integer of at least 8; got 4"),
        ({"random_state": -1}, "random_state must be .* got -1"),
    ],
)
def test_a_wrong_parameter_is_answered_with_a_sentence(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_glyphs(**parameters)


def test_a_missing_extra_is_named():
    with pytest.raises(ImportError, match=r"load_glyphs needs nowhere: pip install 'fewshot-skl"):
        require("nowhere.at_all", extra="plot", purpose="load_glyphs")
