"""CLINC150: reading the table, reading the original files, saying where they belong."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fewshot_sklearn.datasets import fetch_clinc150

DATA = os.environ.get("FEWSHOT_SKLEARN_DATA")
needs_data = pytest.mark.skipif(
    not (Path(DATA or "nowhere") / "intents").is_dir(),
    reason="needs the data set: set FEWSHOT_SKLEARN_DATA to its folder",
)
TEXTS = {
    "train": [["how old are you", "age"], ["null", "weather"]],
    "test": [["will it rain", "weather"]],
    "oos_test": [["purple, and why", "oos"]],
}
DOMAINS = {"small_talk": ["age"], "utility": ["weather"]}


@pytest.fixture
def folder(tmp_path):
    """The folder that the files belong in."""
    (tmp_path / "intents").mkdir()
    return tmp_path / "intents"


def write_originals(folder):
    (folder / "data_full.json").write_text(json.dumps(TEXTS))
    (folder / "domains.json").write_text(json.dumps(DOMAINS))


def write_table(folder):
    domains = {"age": "small_talk", "weather": "utility", "oos": "oos"}
    rows = [(s, t, i, domains[i]) for s, members in TEXTS.items() for t, i in members]
    table = pd.DataFrame(rows, columns=["split", "text", "intent", "domain"])
    table.to_csv(folder / "clinc150.csv.gz", index=False)


@pytest.mark.parametrize("write", [write_originals, write_table])
def test_the_table_and_the_original_files_say_the_same(folder, write):
    write(folder)
    intents = fetch_clinc150(data_home=folder.parent)
    assert intents.data.tolist() == ["how old are you", "null", "will it rain", "purple, and why"]
    assert intents.target_names.tolist() == ["age", "oos", "weather"]
    assert intents.target.tolist() == [0, 2, 2, 1]
    assert intents.domain.tolist() == ["small_talk", "oos", "utility"]
    assert intents.split.tolist() == ["train", "train", "test", "oos_test"]


def test_absent_files_are_asked_for_by_name_and_place(folder):
    (folder / "domains.json").write_text("{}")
    with pytest.raises(OSError, match=r"not in .*intents; download data_full.json and domains.js"):
        fetch_clinc150(data_home=folder.parent)


@pytest.mark.parametrize(
    "content", [b"", b"split,text\ntrain,hello\n", b"split,text,intent,domain\n"]
)
def test_a_damaged_table_is_named(folder, content):
    (folder / "clinc150.csv.gz").write_bytes(gzip.compress(content) if content else b"")
    with pytest.raises(ValueError, match=r"clinc150.csv.gz is damaged"):
        fetch_clinc150(data_home=folder.parent)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("domains.json", "[1, 2"),
        ("domains.json", "[]"),
        ("data_full.json", "[]"),
        ("data_full.json", "{}"),
        ("data_full.json", '{"train": []}'),
    ],
)
def test_a_damaged_original_is_named(folder, name, content):
    write_originals(folder)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=r"data_full.json is damaged"):
        fetch_clinc150(data_home=folder.parent)


@needs_data
def test_the_data_set_has_the_published_counts():
    intents = fetch_clinc150()
    assert len(intents.data) == 23_700
    assert all(isinstance(text, str) and text for text in intents.data)
    scope = intents.target_names != "oos"
    assert scope.sum() == 150
    domains, counts = np.unique(intents.domain[scope], return_counts=True)
    assert len(domains) == 10
    assert set(counts) == {15}
    for split, n in (("train", 100), ("val", 20), ("test", 30)):
        sizes = np.bincount(intents.target[intents.split == split], minlength=151)
        assert set(sizes[scope]) == {n}
