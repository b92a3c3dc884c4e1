"""bAbI: questions about short stories, of twenty kinds."""

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.utils import Bunch

from fewshot_sklearn.datasets._base import check_option, download, get_data_home

_URL = "https://s3.amazonaws.com/text-datasets/babi_tasks_1-20_v1-2.tar.gz"
_HASH = "sha256:84f5296ab9a1ad0dc9464e08c491d65cd08830fca3acae9ab86f75e0fb81573c"
# An archive of the English tasks alone, which is taken where it is there.
_ENGLISH = "babi_tasks_1-20_v1-2_en.tar.gz"
_N_TASKS = 20

_DESCRIPTION = """bAbI, task {task}: {name}

{n_samples} questions about stories that a simulation wrote. A story is all that was told before the
question; several questions are about the growing story of one episode. The answer is one word, or
several with commas between them. 1,000 questions to train and 1,000 to test on (English, version
1.2).

Licence: CC BY 3.0. To be cited as
J. Weston et al. (2016). Towards AI-complete question answering: a set of prerequisite toy tasks.
ICLR.
"""


def fetch_babi(
    task: int = 1,
    *,
    subset: Literal["train", "test", "all"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> Bunch:
    """Load a task of bAbI, questions about stories, downloading it if necessary.

    Parameters
    ----------
    task : int, default=1
        1 to 20: one to three supporting facts are 1 to 3, yes or no questions 6.
    subset : {"train", "test", "all"}, default="train"
        Which questions; "all" puts those to train on first.
    data_home : str or path-like, default=None
        Folder of the data sets, see `get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not there. 12 MB are downloaded.

    Returns
    -------
    babi : :class:`~sklearn.utils.Bunch`
        data : list of (list of str, str), of length n_samples
            The story and the question, as
            :class:`~fewshot_sklearn.memory_based.StoryVectorizer` takes them.
        target : ndarray of shape (n_samples,), str
            The answers.
        stories : list of list of str
            The sentences told before each question, the newest last.
        questions : list of str
            Each question.
        supporting_facts : list of list of int
            Which sentences the answer follows from, in the order of the reasoning. They are
            counted from the end: ``story[-1]`` is the newest.
        split : ndarray of shape (n_samples,), str
            "train" or "test".
        DESCR : str
            Description of the data.

    Raises
    ------
    ValueError
        If a parameter is not one of its options, or the archive is damaged.
    OSError
        If the data is absent and may not, or cannot, be downloaded.
    ImportError
        If a download needs pooch and it is not installed (extra `datasets`).

    See Also
    --------
    fewshot_sklearn.StoryMemN2NClassifier : Answers such questions.

    References
    ----------
    .. [1] J. Weston et al. (2016). "Towards AI-complete question answering: a set of prerequisite
       toy tasks." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import fetch_babi
    >>> babi = fetch_babi(task=1)  # doctest: +SKIP
    >>> babi.data[0]  # doctest: +SKIP
    (['Mary moved to the bathroom.', 'John went to the hallway.'], 'Where is Mary?')
    >>> babi.target[0], babi.supporting_facts[0]  # doctest: +SKIP
    ('bathroom', [-2])
    """
    check_option("task", task, range(1, _N_TASKS + 1))
    check_option("subset", subset, ["train", "test", "all"])
    folder = get_data_home(data_home) / "babi"
    path = folder / _ENGLISH
    if not path.exists():
        path = download(_URL, folder, known_hash=_HASH, download_if_missing=download_if_missing)
    splits: list[str] = ["train", "test"] if subset == "all" else [subset]
    try:
        name, texts = _read(path, task, splits)
        parts = [_parse(text) for text in texts]
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again.") from error
    samples = [sample for part in parts for sample in part]
    stories, questions, answers, facts = (list(column) for column in zip(*samples, strict=True))
    return Bunch(
        data=list(zip(stories, questions, strict=True)),
        target=np.array(answers),
        stories=stories,
        questions=questions,
        supporting_facts=facts,
        split=np.repeat(splits, [len(part) for part in parts]),
        DESCR=_DESCRIPTION.format(task=task, name=name, n_samples=len(samples)),
    )


def _read(path: Path, task: int, splits: list[str]) -> tuple[str, list[str]]:
    """Return the name of a task and the text of each split, from the English files."""
    with tarfile.open(path) as archive:
        members = {
            Path(name).name: name for name in archive.getnames() if Path(name).parent.name == "en"
        }
        found = [name for name in members if name.startswith(f"qa{task}_")]
        title = min(found, default="").removesuffix("_test.txt")
        texts = []
        for split in splits:
            file: Any = archive.extractfile(members[f"{title}_{split}.txt"])
            texts.append(file.read().decode("utf-8"))
    return title.partition("_")[2].replace("-", " "), texts


def _parse(text: str) -> list[tuple[list[str], str, str, list[int]]]:
    """Return the story, question, answer and supporting facts of every question in a file."""
    samples = []
    story: list[str] = []
    places: dict[int, int] = {}  # of the numbered lines among the sentences
    for line in filter(None, map(str.strip, text.splitlines())):
        number, _, rest = line.partition(" ")
        if int(number) == 1:
            story, places = [], {}
        question, *answered = rest.split("\t")
        if answered:
            answer, facts = answered
            samples.append(
                ([*story], question.strip(), answer, _from_end(facts.split(), places, len(story)))
            )
        else:
            places[int(number)] = len(story)
            story.append(question.strip())
    if not samples:
        raise ValueError("it has no questions")
    return samples


def _from_end(lines: Iterable[str], places: dict[int, int], n_sentences: int) -> list[int]:
    return [places[int(line)] - n_sentences for line in lines]
