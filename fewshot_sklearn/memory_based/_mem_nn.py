"""Memory networks that are told which facts support an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._supervised import RowBatch, RowLearner
from ..nn import ages, encode_sentences
from ..utils._sklearn import Integral, Interval, Real
from ._stories import StoryClassifier

_ABSENT = -1


class MemNNLearner(RowLearner):
    r"""Find the supporting facts one after the other, then answer [1]_.

    Of the question x and the memories :math:`m_i`, both bags of words,

    .. math::
        o_1 &= O_1(x, m) = \arg\max_i s_O(x, m_i) , \qquad
        o_2 = O_2(x, m) = \arg\max_i s_O([x, m_{o_1}], m_i) , \\
        r &= \arg\max_w s_R([x, m_{o_1}, m_{o_2}], w) , \qquad
        s(x, y) = \Phi_x(x)^\top U^\top U \Phi_y(y)

    (eqs. 2 to 5). To take time into account memories are compared in pairs (eq. 9): going
    through them from the newest on, :math:`m_i` replaces the best one :math:`m_t` so far if

    .. math::
        s_{O_t}(x, m_i, m_t) =
            \Phi_x(x)^\top U^\top U (\Phi_y(m_i) - \Phi_y(m_t) + \Phi_t(x, m_i, m_t)) > 0

    where :math:`\Phi_t` says whether x is older than :math:`m_i`, than :math:`m_t`, and
    :math:`m_i` than :math:`m_t`. The age of :math:`[x, m_{o_1}]` is that of its last fact.

    Parameters
    ----------
    n_words, n_classes : int
        Words; answers.
    size : int
        n, the width of all vectors.
    n_hops : int
        Supporting facts; two in the equations above.
    margin : float
        gamma.

    References
    ----------
    .. [1] Weston, Chopra, Bordes (2015). "Memory networks." ICLR.
    """

    def __init__(
        self, *, n_words: int, n_classes: int, size: int, n_hops: int, margin: float
    ) -> None:
        super().__init__()
        self.n_hops, self.margin = n_hops, margin

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(shape))

        # U of s_O has three columns for a word: in the question, in a fact of x, in y.
        self.words = normal(1 + n_words, 3, size)
        self.time = normal(3, size)
        # U of s_R has two, and y is an answer.
        self.response_words = normal(1 + n_words, 2, size)
        self.answers = normal(n_classes, size)

    def forward(self, x: Tensor) -> Tensor:
        """Return s_R of every answer [N, C] of word numbers [N, 1 + M, J]."""
        return self.read(x)[0]

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_R of every answer [N, C], and the places of the facts [N, K] in the story."""
        memory = _Memory(self, x)
        facts: list[Tensor] = []
        for _ in range(self.n_hops):
            facts.append(memory.find(facts))
        return memory.respond(facts), torch.stack(facts, dim=1)

    def meta_loss(self, batch: RowBatch) -> Tensor:  # type: ignore[override]
        r"""Return the mean margin ranking loss (eqs. 6 to 8, and 10 to 13 with time).

        Every wrong fact and answer counts; the paper draws one of each. A fact that is not in the
        memory is -1, and its part of the loss is left out.
        """
        memory = _Memory(self, batch.x)
        facts: list[Tensor] = []
        loss = batch.x.new_zeros(len(batch.x), dtype=self.words.dtype)
        for fact in batch.extra.unbind(dim=1):  # type: ignore[union-attr]
            wrong = memory.mask & (memory.places != fact.unsqueeze(-1))
            kept, against = memory.compare(facts, fact)
            errors = F.relu(self.margin - kept) + F.relu(self.margin + against)
            loss = loss + (errors * wrong).sum(dim=-1) * (fact != _ABSENT)
            facts.append(fact)
        scores = memory.respond(facts)
        right = scores.gather(1, batch.y.unsqueeze(1))
        ranking = F.relu(self.margin - right + scores).scatter(1, batch.y.unsqueeze(1), 0.0)
        return (loss + ranking.sum(dim=-1)).mean()


class _Memory:
    """The embedded stories of a batch, and how their sentences compare.

    Parameters
    ----------
    learner : MemNNLearner
    x : int Tensor of shape (N, 1 + M, J)
    """

    def __init__(self, learner: MemNNLearner, x: Tensor) -> None:
        self.learner = learner
        question, story = x[:, :1], x[:, 1:]
        self.mask = (story > 0).any(dim=-1)
        self.ages = ages(self.mask)
        self.places = torch.arange(story.shape[1], device=x.device)
        bags = {"position_encoding": False}
        self.question = encode_sentences(question, learner.words[:, :1], **bags).flatten(1)
        sentences = encode_sentences(story, learner.words[:, 1:], **bags)
        self.as_x, self.as_y = sentences.unbind(dim=-2)
        both = learner.response_words
        self.response_question = encode_sentences(question, both[:, :1], **bags).flatten(1)
        self.response_facts = encode_sentences(story, both[:, 1:], **bags).squeeze(-2)

    def _pick(self, of_places: Tensor, fact: Tensor) -> Tensor:
        """Return what belongs to one place of each story; zero where the fact is absent."""
        picked = of_places[torch.arange(len(fact), device=fact.device), fact.clamp_min(0)]
        present = (fact != _ABSENT).to(picked.dtype)
        return picked * present.reshape(-1, *[1] * (picked.dim() - 1))

    def _scores(self, facts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return what a pair of sentences gets from the first, from the second, and from both.

        :math:`s_{O_t}(x, m_i, m_t)` is the first [N, M] of i, minus the second [N, M] of t, and the
        third [N, 1] if i is older than t.
        """
        u = self.question + sum((self._pick(self.as_x, fact) for fact in facts), start=0)
        score = (self.as_y @ u.unsqueeze(-1)).squeeze(-1)
        *of_x, both = (u @ self.learner.time.T).unsqueeze(-1).unbind(dim=1)
        if not facts:  # nothing is newer than the question
            return score, score, both
        older = self._pick(self.ages, facts[-1]).unsqueeze(-1) > self.ages
        return score + older * of_x[0], score - older * of_x[1], both

    def compare(self, facts: Sequence[Tensor], fact: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_Ot of the next fact against each sentence, and of each against it [N, M]."""
        left, right, both = self._scores(facts)
        age = self._pick(self.ages, fact).unsqueeze(-1)
        kept = self._pick(left, fact).unsqueeze(-1) - right + both * (age > self.ages)
        against = left - self._pick(right, fact).unsqueeze(-1) + both * (self.ages > age)
        return kept, against

    def find(self, facts: Sequence[Tensor]) -> Tensor:
        """Return the place [N] of the sentence that no older one beats, from the newest on."""
        left, right, both = self._scores(facts)
        best = torch.full_like(self.places[:1], _ABSENT).expand(len(left))
        for i in range(len(self.places) - 1, -1, -1):
            beats = left[:, i] - self._pick(right, best) + both.squeeze(-1) > 0
            best = torch.where(self.mask[:, i] & (beats | (best == _ABSENT)), i, best)
        return best

    def respond(self, facts: Sequence[Tensor]) -> Tensor:
        """Return s_R of every answer [N, C]."""
        found = sum((self._pick(self.response_facts, fact) for fact in facts), start=0)
        return (self.response_question + found) @ self.learner.answers.T


@dataclass(kw_only=True, eq=False, repr=False)
class MemNNClassifier(StoryClassifier):
    """Memory network that is told which facts support an answer [1]_.

    A row is a story with a question, see :class:`StoryVectorizer`, and its label is the answer.
    Besides, ``fit`` gets the sentences that each answer follows from: the strong supervision of
    the paper. It learns to find these one after the other, each with what was found before, and to
    answer from them. Prefer it to :class:`StoryMemN2NClassifier` where supporting facts are
    known: it needs far fewer questions. It is an ordinary classifier: ``fit`` trains it, there are
    no tasks and no ``meta_fit``.

    Parameters
    ----------
    n_hops : int, default=2
        How many supporting facts are looked for. Of questions with more the first ones
        are learned.
    embedding_size : int, default=50
        Width of all vectors.
    margin : float, default=0.1
        How much better a right fact or answer must score than a wrong one.
    %(supervised_parameters)s

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The answers, sorted.
    n_features_in_ : int
        Number of rows of a story with its question.
    %(supervised_attributes)s

    See Also
    --------
    StoryMemN2NClassifier : Learns from the answers alone.
    StoryVectorizer : Makes the rows.

    Notes
    -----
    Scores are trained to be in order; the probabilities, their softmax, are not true to
    frequencies.

    This is the paper's model for text with the write time of its section 3.4. Bags of words cannot
    tell whether two facts agree, so questions to be answered by yes or no stay at chance; the
    extensions of later papers are left out. Departures: the loss counts every wrong fact and
    answer, where the paper draws one of each; memories are compared from the newest on, where the
    paper begins with the oldest; its model of unseen words is left out; Adam trains it, where the
    paper has stochastic gradient descent.

    References
    ----------
    .. [1] Weston, Chopra, Bordes (2015). "Memory networks." ICLR.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from fewshot_sklearn import MemNNClassifier, StoryVectorizer
    >>> people, places = ["Mary", "John", "Ann"], ["garden", "office", "kitchen"]
    >>> stories = [
    ...     ([f"{a} went to the {p}.", f"{b} went to the {q}."], f"Where is {a}?")
    ...     for a in people for b in people for p in places for q in places if a != b
    ... ]
    >>> answers = [story[0].rsplit(" ", 1)[1].strip(".") for story, _ in stories]
    >>> clf = MemNNClassifier(n_hops=1, max_iter=100, random_state=0)
    >>> pipeline = make_pipeline(StoryVectorizer(), clf)
    >>> facts = [[-2]] * len(stories)  # the last sentence but one
    >>> pipeline.fit(stories, answers, memnnclassifier__supporting_facts=facts)
    ... # doctest: +ELLIPSIS
    Pipeline(...)
    >>> pipeline.score(stories, answers)
    1.0
    """

    n_hops: int = 2
    embedding_size: int = 50
    margin: float = 0.1
    max_iter: int = 1000
    learning_rate: float = 0.01
    schedule: str = "linear"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **StoryClassifier._parameter_constraints,
        "n_hops": [Interval(Integral, 1, None, closed="left")],
        "embedding_size": [Interval(Integral, 1, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="neither")],
    }

    def fit(self, X: ArrayLike, y: ArrayLike, supporting_facts: Any = None) -> Self:
        """Learn from stories, answers and the facts that support them.

        Parameters
        ----------
        X : array-like of shape (n_samples, 1 + n_sentences, n_words)
            Word numbers, the question first, from :class:`StoryVectorizer`.
        y : array-like of shape (n_samples,)
            The answers.
        supporting_facts : sequence of sequence of int
            The sentences that each answer follows from, ``n_hops`` at least, in the order of the
            reasoning, counted from the end: -1 is the newest. A sentence that is no longer in the
            memory is passed over.

        Returns
        -------
        self : object
        """
        return self._fit_rows(X, y, supporting_facts)

    def _check_extra(self, X: NDArray[Any], extra: Any) -> NDArray[np.int64]:
        """Return the places of the facts among the sentences, -1 for those too old."""
        if extra is None:
            raise ValueError(
                "MemNNClassifier learns from the facts that support each answer; pass "
                "supporting_facts, or take StoryMemN2NClassifier, which needs none."
            )
        fewest = min((len(facts) for facts in extra), default=0)
        if len(extra) != len(X) or fewest < self.n_hops:
            raise ValueError(
                f"supporting_facts must have n_hops={self.n_hops} sentences or more for each of "
                f"the {len(X)} rows, got {fewest} for some of {len(extra)}; lower n_hops, or leave "
                "these questions out."
            )
        counted = np.array([list(facts)[: self.n_hops] for facts in extra])
        if counted.dtype.kind != "i" or (counted >= 0).any():
            raise ValueError(
                "supporting_facts must be whole numbers below zero, counted from the end of the "
                "story, -1 for the newest sentence."
            )
        n_sentences = X.shape[1] - 1
        return np.where(counted < -n_sentences, _ABSENT, n_sentences + counted).astype(np.int64)

    def facts(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the supporting facts that are found.

        Parameters
        ----------
        X : array-like of shape (n_samples, 1 + n_sentences, n_words)
            As in :meth:`fit`.

        Returns
        -------
        facts : ndarray of shape (n_samples, n_hops)
            Counted from the end of the story: -1 is the newest sentence.
        """
        places = self._compute(X, lambda learner, x: learner.read(x)[1]).numpy()
        return places - (np.shape(X)[1] - 1)

    def _make_learner(self, X: NDArray[Any], n_classes: int) -> MemNNLearner:
        return MemNNLearner(
            n_words=self._count_words(X),
            n_classes=n_classes,
            size=self.embedding_size,
            n_hops=self.n_hops,
            margin=self.margin,
        )
