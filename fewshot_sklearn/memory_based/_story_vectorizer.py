"""Stories as arrays of word numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..utils._sklearn import Integral, Interval

Tokens = list[str]


@dataclass(kw_only=True, eq=False, repr=False)
class StoryVectorizer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Turn stories with questions into arrays of word numbers.

    A sample is a pair ``(story, question)``: a list of sentences, the newest last, and a string.
    It becomes a row [1 + n_sentences, n_words] of word numbers: the question, then the sentences,
    so that the newest is the last one; 0 stands where there is no word. Words keep their order.

    Parameters
    ----------
    max_sentences : int, default=50
        The memory: of longer stories the most recent sentences are kept.
    lowercase : bool, default=True
        Convert all words to lower case.
    token_pattern : str, default=r"(?u)\\\\w+"
        The regular expression of a word.

    Attributes
    ----------
    vocabulary_ : dict
        The number of each word, from 1. When ``fit`` gets the answers, theirs come first, in
        the order of the sorted classes.
    n_sentences_ : int
        The length of the longest story, ``max_sentences`` at most.
    n_words_ : int
        The length of the longest sentence or question. In ``transform`` the words of a
        longer one that are too many are left out.

    See Also
    --------
    StoryMemN2NClassifier : Answers the questions.

    Notes
    -----
    Words that ``fit`` did not see are left out, as ``CountVectorizer`` of scikit-learn does.

    Examples
    --------
    >>> from fewshot_sklearn import StoryVectorizer
    >>> stories = [
    ...     (["Mary went to the garden.", "John went home."], "Where is Mary?"),
    ...     (["John took the ball."], "Who has the ball?"),
    ... ]
    >>> vectorizer = StoryVectorizer()
    >>> X = vectorizer.fit_transform(stories, ["garden", "John"])
    >>> X.shape
    (2, 3, 5)
    >>> X[1].tolist()
    [[13, 4, 8, 3, 0], [0, 0, 0, 0, 0], [1, 10, 8, 3, 0]]
    >>> vectorizer.get_feature_names_out()[:4].tolist()
    ['', 'John', 'garden', 'ball']
    """

    max_sentences: int = 50
    lowercase: bool = True
    token_pattern: str = r"(?u)\w+"

    _kind: ClassVar[str] = "story"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "max_sentences": [Interval(Integral, 1, None, closed="left")],
        "lowercase": ["boolean"],
        "token_pattern": [str],
    }

    def fit(self, X: Sequence[Any], y: Any = None) -> Self:
        """Learn the vocabulary and the size of stories.

        Parameters
        ----------
        X : sequence of (list of str, str)
            Stories and questions.
        y : array-like of shape (n_samples,), default=None
            The answers, whose words are put first in the vocabulary.

        Returns
        -------
        self : object
        """
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: Sequence[Any], y: Any = None) -> NDArray[np.int64]:
        """Learn the vocabulary and the size of stories, and return the arrays.

        Parameters
        ----------
        X : sequence of (list of str, str)
            Stories and questions.
        y : array-like of shape (n_samples,), default=None
            The answers.

        Returns
        -------
        X : ndarray of shape (n_samples, 1 + n_sentences, n_words)
            As many sentences and words as ``n_sentences_`` and ``n_words_`` say.
        """
        self._validate_params()
        samples = self._tokenize(X)
        answers = [] if y is None else [str(answer) for answer in np.unique(np.asarray(y))]
        of_answers = [self._in_case(answer) for answer in answers]
        words = {word for sample in samples for sentence in sample for word in sentence}
        self._names = np.array(["", *answers, *sorted(words.difference(of_answers))], dtype=object)
        numbers = {self._in_case(name): i for i, name in reversed([*enumerate(self._names)])}
        del numbers[""]
        self.vocabulary_ = dict(sorted(numbers.items(), key=lambda entry: entry[1]))
        self.n_sentences_ = max(len(sample) - 1 for sample in samples)
        self.n_words_ = max(len(sentence) for sample in samples for sentence in sample)
        return self._to_array(samples)

    def transform(self, X: Sequence[Any]) -> NDArray[np.int64]:
        """Return stories as arrays.

        Parameters
        ----------
        X : sequence of (list of str, str)
            Stories and questions.

        Returns
        -------
        X : ndarray of shape (n_samples, 1 + n_sentences, n_words)
            As many sentences and words as ``n_sentences_`` and ``n_words_`` say.
        """
        check_is_fitted(self, "vocabulary_")
        return self._to_array(self._tokenize(X))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the words by their number.

        Parameters
        ----------
        input_features : None
            Not used, as in ``CountVectorizer`` of scikit-learn.

        Returns
        -------
        words : ndarray of shape (1 + n_words,), dtype object
            The empty string stands for 0, so that ``words[X]`` are the words of stories.
        """
        check_is_fitted(self, "vocabulary_")
        return self._names.copy()

    def _in_case(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def _tokenize(self, X: Sequence[Any]) -> list[list[Tokens]]:
        """Return the words of the question and of the most recent sentences of each sample."""
        find = re.compile(self.token_pattern).findall
        samples = []
        for i, sample in enumerate(X):
            story, question = _pair(sample, i)
            recent = [question, *story[-self.max_sentences :]]
            samples.append([find(self._in_case(sentence)) for sentence in recent])
        if not samples:
            raise ValueError("at least one story is needed, got none.")
        return samples

    def _to_array(self, samples: list[list[Tokens]]) -> NDArray[np.int64]:
        X = np.zeros((len(samples), 1 + self.n_sentences_, self.n_words_), dtype=np.int64)
        for row, (question, *story) in zip(X, samples, strict=True):
            recent = story[max(0, len(story) - self.n_sentences_) :]
            filled = [0, *range(len(row) - len(recent), len(row))]
            for place, sentence in zip(filled, [question, *recent], strict=True):
                known = [self.vocabulary_[word] for word in sentence if word in self.vocabulary_]
                row[place, : len(known)] = known[: self.n_words_]
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _pair(sample: Any, i: int) -> tuple[list[str], str]:
    """Return the story and the question of a sample, or say what it must be."""
    try:
        story, question = sample
        story = [story] if isinstance(story, str) else [*story]
        fine = not isinstance(sample, str) and isinstance(sample[0], (list, tuple, np.ndarray))
    except (TypeError, ValueError):
        fine = False
    if not (fine and all(isinstance(sentence, str) for sentence in [*story, question])):
        raise ValueError(
            "every sample must be a pair (story, question), a list of sentences and a string; "
            f"got {sample!r} for sample {i}."
        )
    return story, question
