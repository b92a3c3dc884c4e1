"""Omniglot: reading what is there, converting what is downloaded, the split, the rotations."""

import hashlib
import json
import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from fewshot_sklearn.datasets import _omniglot, fetch_omniglot, rotated_classes
from fewshot_sklearn.tasks import EpisodicTasks
from fewshot_sklearn.utils import _optional

DATA = os.environ.get("FEWSHOT_SKLEARN_DATA")
FOLDER = Path(DATA or "nowhere") / "omniglot"
needs_data = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs the data set: set FEWSHOT_SKLEARN_DATA to its folder"
)


def drawing(rng):
    """Draw a black stroke on white, 105 x 105."""
    pixels = np.full((105, 105), 255, dtype=np.uint8)
    start, stop = np.sort(rng.integers(10, 95, size=2))
    pixels[start : stop + 3, 44:62] = 0
    return pixels


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Small archives of the original layout, in the place of the official ones."""
    image_module = pytest.importorskip("PIL.Image", reason="the conversion needs Pillow")
    pytest.importorskip("pooch", reason="a download needs pooch (extra `datasets`)")
    rng = np.random.default_rng(0)
    content = {
        "background": {"Latin/character02": 3, "Latin/character01": 2, "Greek/character01": 2},
        "evaluation": {"Angelic/character01": 2},
    }
    hashes = {}
    for subset, characters in content.items():
        path = tmp_path / f"images_{subset}.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"images_{subset}/", "")
            for number, (name, n_drawings) in enumerate(characters.items()):
                for drawer in range(1, n_drawings + 1):
                    png = BytesIO()
                    image_module.fromarray(drawing(rng)).convert("1").save(png, format="png")
                    file.writestr(
                        f"images_{subset}/{name}/{number:04d}_{drawer:02d}.png", png.getvalue()
                    )
        hashes[subset] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(_omniglot, "_URL", tmp_path.as_uri() + "/images_{subset}.zip")
    monkeypatch.setattr(_omniglot, "_HASHES", hashes)

    import pooch

    def retrieve(url, known_hash, fname, path):
        path.mkdir(parents=True, exist_ok=True)
        copy = path / fname
        copy.write_bytes(Path(url.removeprefix("file://")).read_bytes())
        pooch.core.hash_matches(copy, known_hash, strict=True)
        return str(copy)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return tmp_path


def test_a_download_is_converted_and_kept(archives, monkeypatch):
    home = archives / "home"
    omniglot = fetch_omniglot(data_home=home)
    assert omniglot.target_names.tolist() == [
        "Greek/character01",
        "Latin/character01",
        "Latin/character02",
        "Angelic/character01",
    ]
    assert omniglot.target.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert omniglot.drawer.tolist() == [1, 2, 1, 2, 1, 2, 3, 1, 2]
    assert omniglot.alphabet.tolist() == ["Greek", "Latin", "Latin", "Angelic"]
    assert omniglot.images.shape == (9, 28, 28)
    assert omniglot.data.dtype == np.float32
    assert omniglot.images[:, 0].max() < 0.01  # paper is 0, but for the filter
    assert omniglot.data.max() == 1  # ink is 1
    assert sorted(path.name for path in (home / "omniglot").iterdir()) == [
        "omniglot_background_28_gray.npz",
        "omniglot_evaluation_28_gray.npz",
    ]
    monkeypatch.setattr(_omniglot, "download", None)  # not called again
    again = fetch_omniglot(data_home=home, download_if_missing=False)
    np.testing.assert_array_equal(again.data, omniglot.data)


def test_one_original_set_counts_its_classes_from_zero(archives):
    X, y = fetch_omniglot(subset="evaluation", data_home=archives / "home", return_X_y=True)
    assert X.shape == (2, 784)
    assert y.tolist() == [0, 0]


def test_absent_data_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"images_background.zip is not in .*download_if_missing=T"):
        fetch_omniglot(data_home=tmp_path, download_if_missing=False)
    assert not list(tmp_path.iterdir())


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch", reason="a download needs pooch (extra `datasets`)")

    def retrieve(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"could not be downloaded \(no route\); download https://"):
        fetch_omniglot(data_home=tmp_path)


def test_pooch_is_named_where_it_is_missing(tmp_path, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(_optional, "import_module", import_module)
    with pytest.raises(ImportError, match=r"needs pooch: pip install 'fewshot-sklearn\[datasets\]"):
        fetch_omniglot(data_home=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    folder = tmp_path / "omniglot"
    folder.mkdir()
    (folder / "omniglot_evaluation_28_gray.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged .* delete it and fetch it again"):
        fetch_omniglot(subset="evaluation", data_home=tmp_path)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"subset": "both"}, "subset must be one of .* got 'both'"),
        ({"split": "lake"}, "split must be one of .* got 'lake'"),
        ({"split": "vinyals", "subset": "evaluation"}, 'pass subset="all"'),
    ],
)
def test_a_wrong_parameter_is_answered_with_a_sentence(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        fetch_omniglot(**parameters)


def test_rotations_are_new_classes():
    images = np.arange(2 * 9).reshape(2, 3, 3)
    turned, y = rotated_classes(images, [1, 0])
    assert y.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    for k in range(4):
        np.testing.assert_array_equal(turned[2 * k], np.rot90(images[0], k))
    assert rotated_classes(images, [1, 0], n_classes=10)[1].max() == 31


@pytest.mark.parametrize(
    ("images", "y", "sentence"),
    [
        (np.zeros((2, 9)), [0, 1], r"shape \(n, size, size\) to be rotated; got \(2, 9\)"),
        (np.zeros((2, 3, 4)), [0, 1], "to be rotated"),
        (np.zeros((2, 3, 3)), [0], "one integer for each of the 2 images"),
        (np.zeros((2, 3, 3)), ["a", "b"], "LabelEncoder"),
        (np.zeros((2, 3, 3)), [-1, 0], "y must lie between 0 and"),
        (np.zeros((2, 3, 3)), [0, 5], "y must lie between 0 and n_classes - 1 = 1; got 0 to 5"),
    ],
)
def test_what_cannot_be_rotated_is_answered_with_a_sentence(images, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        rotated_classes(images, y, n_classes=2)


@needs_data
def test_omniglot_has_1623_classes_of_twenty():
    omniglot = fetch_omniglot(download_if_missing=False)
    assert omniglot.images.shape == (32460, 28, 28)
    assert np.shares_memory(omniglot.data, omniglot.images)
    assert np.bincount(omniglot.target).tolist() == [20] * 1623
    assert len(np.unique(omniglot.target_names)) == 1623
    assert len(np.unique(omniglot.alphabet)) == 50
    assert omniglot.data.min() == 0
    assert omniglot.data.max() == 1
    assert omniglot.target_names[964] == "Angelic/character01"
    assert set(omniglot.drawer) == set(range(1, 21))
    tasks = EpisodicTasks(omniglot.data, omniglot.target, n_tasks=3, random_state=0)
    assert tasks[0].X_support.shape == (5, 784)
    assert len(set(tasks[0].y_query)) == 5


@needs_data
def test_the_vinyals_split_is_the_published_one():
    expected = json.loads((FOLDER / "vinyals_split.json").read_text(encoding="utf-8"))
    omniglot = fetch_omniglot(split="vinyals", download_if_missing=False)
    for ours, theirs in [("train", "train"), ("validation", "val"), ("test", "test")]:
        assert omniglot[f"{ours}_classes"].tolist() == sorted(expected[theirs])


@needs_data
def test_rotated_omniglot_keeps_the_split_apart():
    plain = fetch_omniglot(split="vinyals", download_if_missing=False)
    omniglot = fetch_omniglot(split="vinyals", rotations=True, download_if_missing=False)
    assert len(omniglot.data) == 4 * 32460
    assert len(omniglot.target_names) == len(np.unique(omniglot.target)) == 4 * 1623
    assert omniglot.target_names[1623] == plain.target_names[0] + "/rot090"
    np.testing.assert_array_equal(omniglot.images[32460], np.rot90(plain.images[0]))
    parts = [omniglot[f"{part}_classes"] for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [4 * 1028, 4 * 172, 4 * 423]
    assert sorted(np.concatenate(parts).tolist()) == list(range(4 * 1623))
    assert (parts[2] % 1623 >= 1200).all()


@needs_data
def test_the_conversion_is_the_one_of_the_shared_files(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="the conversion needs Pillow")
    with np.load(FOLDER / "omniglot_evaluation_105_bits.npz") as bits:
        originals = np.unpackbits(bits["Xbits"][:40], axis=1)[:, :11025].reshape(-1, 105, 105)
    archive = tmp_path / "images_evaluation.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for i, ink in enumerate(originals):
            png = BytesIO()
            image_module.fromarray(255 * (1 - ink)).convert("1").save(png, format="png")
            name = f"images_evaluation/Angelic/character{1 + i // 20:02d}/0001_{1 + i % 20:02d}.png"
            file.writestr(name, png.getvalue())
    with np.load(FOLDER / "omniglot_evaluation_28_gray.npz") as shared:
        np.testing.assert_array_equal(_omniglot._convert(archive)["X"], shared["X"][:40])
