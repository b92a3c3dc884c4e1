"""bAbI: reading the files, and saying where they belong."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from fewshot_sklearn.datasets import _babi, fetch_babi

DATA = os.environ.get("FEWSHOT_SKLEARN_DATA")
needs_data = pytest.mark.skipif(
    not (Path(DATA or "nowhere") / "babi").is_dir(),
    reason="needs the data set: set FEWSHOT_SKLEARN_DATA to its folder",
)
TRAIN = """\
1 Mary went to the garden.
2 John took the ball.
3 Where is Mary? \tgarden\t1
4 John went home.
5 Where is the ball?\thome\t2 4
1 Ann left.
2 Who left?\tann\t1

"""
TEST = "1 Ann went out.\n2 Where is Ann?\tout,away\t1\n"


@pytest.fixture
def home(tmp_path):
    """Write a small archive, and return the folder of data sets."""
    write(tmp_path, {"en/qa1_one-fact_train.txt": TRAIN, "en/qa1_one-fact_test.txt": TEST})
    return tmp_path


def write(home, texts, name="babi_tasks_1-20_v1-2_en.tar.gz"):
    (home / "babi").mkdir(exist_ok=True)
    with tarfile.open(home / "babi" / name, "w:gz") as archive:
        for path, text in texts.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_a_story_is_all_that_was_told_before_the_question(home):
    babi = fetch_babi(1, data_home=home)
    story = ["Mary went to the garden.", "John took the ball."]
    assert babi.stories == [story, [*story, "John went home."], ["Ann left."]]
    assert babi.questions == ["Where is Mary?", "Where is the ball?", "Who left?"]
    assert babi.target.tolist() == ["garden", "home", "ann"]
    assert babi.data == list(zip(babi.stories, babi.questions, strict=True))


def test_supporting_facts_are_places_from_the_end_of_the_story(home):
    babi = fetch_babi(1, data_home=home)
    assert babi.supporting_facts == [[-2], [-2, -1], [-1]]
    assert babi.stories[1][-2] == "John took the ball."


def test_subsets(home):
    assert fetch_babi(1, subset="test", data_home=home).target.tolist() == ["out,away"]
    both = fetch_babi(1, subset="all", data_home=home)
    assert both.split.tolist() == ["train"] * 3 + ["test"]
    assert both.DESCR.startswith("bAbI, task 1: one fact\n\n4 questions")


def test_the_whole_archive_does_as_well(tmp_path, monkeypatch):
    """Only its English files are read, and not those of 10,000 questions."""
    texts = {
        f"tasks_1-20_v1-2/{language}/qa1_one-fact_{split}.txt": text if language == "en" else "x"
        for language in ("en", "en-10k", "hn")
        for split, text in {"train": TRAIN, "test": TEST}.items()
    }
    write(tmp_path, texts, name="all.tar.gz")
    path = tmp_path / "babi" / "all.tar.gz"
    monkeypatch.setattr(_babi, "download", lambda *args, **options: path)
    assert len(fetch_babi(1, subset="all", data_home=tmp_path).data) == 4


def test_absent_data_are_asked_for_by_address_and_place(tmp_path):
    with pytest.raises(OSError, match=r"download https.*into .*babi, or set FEWSHOT_SKLEARN_DATA"):
        fetch_babi(data_home=tmp_path, download_if_missing=False)


@pytest.mark.parametrize(
    "text",
    ["", "1 Ann left.\n", "one Ann left.\n", "1 Who?\tAnn\t7\n", "1 Who?\tAnn\n"],
    ids=["empty", "no question", "no number", "no such fact", "no facts"],
)
def test_a_damaged_file_is_named(home, text):
    write(home, {"en/qa1_one-fact_train.txt": text, "en/qa1_one-fact_test.txt": TEST})
    with pytest.raises(ValueError, match=r"v1-2_en.tar.gz is damaged"):
        fetch_babi(1, data_home=home)


def test_a_damaged_or_wrong_archive_is_named(home):
    with pytest.raises(ValueError, match="is damaged"):
        fetch_babi(2, data_home=home)
    (home / "babi" / "babi_tasks_1-20_v1-2_en.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is damaged"):
        fetch_babi(1, data_home=home)


def test_tasks_and_subsets_that_do_not_exist_are_refused(home):
    with pytest.raises(ValueError, match="task must be one of"):
        fetch_babi(21, data_home=home)
    with pytest.raises(ValueError, match="subset must be one of"):
        fetch_babi(1, subset="validation", data_home=home)


@needs_data
@pytest.mark.parametrize(("task", "n_facts"), [(1, 1), (2, 2), (3, 3), (6, 1)])
def test_the_tasks_have_a_thousand_questions_each(task, n_facts):
    babi = fetch_babi(task, subset="all")
    assert len(babi.data) == len(babi.target) == 2000
    assert {len(facts) for facts in babi.supporting_facts} == {n_facts}
    assert all(
        -len(story) <= fact < 0
        for story, facts in zip(babi.stories, babi.supporting_facts, strict=True)
        for fact in facts
    )
