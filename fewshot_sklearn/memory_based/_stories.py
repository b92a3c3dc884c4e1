"""What classifiers of stories share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from .._supervised import SupervisedClassifier


@dataclass(kw_only=True, eq=False, repr=False)
class StoryClassifier(SupervisedClassifier):
    """A classifier of stories with questions, as :class:`StoryVectorizer` makes them."""

    _kind: ClassVar[str] = "story"

    def _check_rows(self, X: Any, *, reset: bool) -> NDArray[Any]:
        X = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric")
        if X.ndim != 3 or X.shape[1] < 2:
            raise ValueError(
                "X must be word numbers of shape (n_samples, 1 + n_sentences, n_words), the "
                f"question first, as StoryVectorizer gives them; got the shape {X.shape}."
            )
        numbers = X.astype(np.int64)
        if (numbers != X).any() or (numbers < 0).any():
            raise ValueError("X must be whole word numbers from 0, as StoryVectorizer gives them.")
        if not reset:  # a word that fit did not see is none
            numbers[numbers > self._n_words] = 0
        return numbers

    def _count_words(self, X: NDArray[Any]) -> int:
        """Return the largest word number, and remember it."""
        self._n_words = int(X.max())
        return self._n_words

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        return tags
