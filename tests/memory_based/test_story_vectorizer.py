"""Stories as arrays of word numbers, by the conventions of scikit-learn's vectorizers."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from fewshot_sklearn import StoryVectorizer

STORIES = [
    (["Mary went to the garden.", "John went home."], "Where is Mary?"),
    (["John took the ball.", "Mary left.", "John went to the garden."], "Where is the ball?"),
]
ANSWERS = ["garden", "Garden path"]


def words_of(vectorizer, X):
    return [[" ".join(sentence).strip() for sentence in story] for story in names(vectorizer)[X]]


def names(vectorizer):
    return vectorizer.get_feature_names_out()


def test_the_question_comes_first_and_the_newest_sentence_last():
    vectorizer = StoryVectorizer()
    X = vectorizer.fit_transform(STORIES)
    assert X.shape == (2, 1 + 3, 5)
    assert X.dtype.kind == "i"
    assert words_of(vectorizer, X) == [
        ["where is mary", "", "mary went to the garden", "john went home"],
        ["where is the ball", "john took the ball", "mary left", "john went to the garden"],
    ]


def test_words_are_numbered_from_one_in_their_order():
    vectorizer = StoryVectorizer().fit(STORIES)
    words = names(vectorizer)
    assert words[0] == ""
    assert words[1:].tolist() == sorted(vectorizer.vocabulary_)
    assert all(words[number] == word for word, number in vectorizer.vocabulary_.items())


def test_answers_come_first_in_the_order_of_the_classes():
    vectorizer = StoryVectorizer().fit(STORIES, ANSWERS)
    assert (
        names(vectorizer)[1:3].tolist() == np.unique(ANSWERS).tolist() == ["Garden path", "garden"]
    )
    assert vectorizer.vocabulary_["garden"] == 2
    assert StoryVectorizer().fit(STORIES, [7, 3]).vocabulary_["7"] == 2


def test_answers_that_differ_by_case_alone_keep_a_number_each():
    vectorizer = StoryVectorizer().fit(STORIES, ["garden", "Garden"])
    assert names(vectorizer)[1:3].tolist() == ["Garden", "garden"]
    assert vectorizer.vocabulary_["garden"] == 1


def test_of_a_long_story_the_most_recent_sentences_are_kept():
    vectorizer = StoryVectorizer(max_sentences=2)
    X = vectorizer.fit_transform(STORIES)
    assert words_of(vectorizer, X)[1] == [
        "where is the ball",
        "mary left",
        "john went to the garden",
    ]
    assert "took" not in vectorizer.vocabulary_
    longer = (["Mary left."] * 9 + ["John went home."], "Where is John?")
    assert words_of(vectorizer, vectorizer.transform([longer]))[0][1:] == [
        "mary left",
        "john went home",
    ]


def test_unknown_words_and_those_beyond_the_longest_sentence_are_left_out():
    vectorizer = StoryVectorizer().fit(STORIES)
    X = vectorizer.transform(
        [(["Ann went to the garden to the garden.", "Ann slept."], "Who is Ann?")]
    )
    assert words_of(vectorizer, X)[0] == ["is", "", "went to the garden to", ""]


def test_a_story_may_be_empty():
    X = StoryVectorizer().fit(STORIES).transform([([], "Where is Mary?")])
    assert X[0, 0].any()
    assert not X[0, 1:].any()


def test_case_and_words_can_be_chosen():
    vectorizer = StoryVectorizer(lowercase=False, token_pattern=r"[A-Z]\w+").fit(STORIES)
    assert sorted(vectorizer.vocabulary_) == ["John", "Mary", "Where"]


def test_fit_transform_is_fit_and_transform_and_survives_clone_and_pickle():
    vectorizer = StoryVectorizer(max_sentences=2)
    X = vectorizer.fit_transform(STORIES, ANSWERS)
    np.testing.assert_array_equal(clone(vectorizer).fit(STORIES, ANSWERS).transform(STORIES), X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vectorizer)).transform(STORIES), X)
    with pytest.raises(NotFittedError):
        clone(vectorizer).transform(STORIES)
    with pytest.raises(NotFittedError):
        clone(vectorizer).get_feature_names_out()


NO_STORIES = [
    "text", ["text"], ["ab"], [("story", "question")], [(["a"], ["b"])], [(["a"], 3)], [3],
    [(["a"], "b", 1)],
]  # fmt: skip


@pytest.mark.parametrize("X", NO_STORIES, ids=str)
def test_what_is_no_story_is_refused_by_its_number(X):
    with pytest.raises(ValueError, match=r"a pair \(story, question\), .* for sample 0"):
        StoryVectorizer().fit(X)


def test_no_stories_and_a_memory_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one story"):
        StoryVectorizer().fit([])
    with pytest.raises(ValueError, match="'max_sentences' parameter"):
        StoryVectorizer(max_sentences=0).fit(STORIES)


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_the_checks_of_sklearn_find_nothing():
    check_estimator(StoryVectorizer())
