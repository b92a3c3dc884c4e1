"""End-to-end memory networks over stories."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._supervised import RowBatch
from ..nn import LinearStartLearner, ages, encode_sentences, memory_hops
from ..nn import noisy_ages as draw_ages
from ..utils._sklearn import Integral, Interval, Real, StrOptions
from ._stories import StoryClassifier


class StoryMemN2NLearner(LinearStartLearner):
    r"""Answer a question by reading its story in several hops [1]_.

    Of sentences :math:`x_i` of words :math:`x_{ij}`, the i-th newest, and a question q,

    .. math::
        m_i^k = \sum_j l_j \odot A^k x_{ij} + T_A^k(i), \qquad
        c_i^k = \sum_j l_j \odot C^k x_{ij} + T_C^k(i), \qquad
        u^1 = \sum_j l_j \odot B q_j

    .. math::
        u^{k+1} = H u^k + \sum_i \mathrm{Softmax}_i(u^{k\top} m_i^k) c_i^k, \qquad
        \hat a = \mathrm{Softmax}(W u^{K+1})

    Adjacent tying: :math:`A^{k+1} = C^k`, B = A^1, W = C^K transposed, H = I. Layer-wise tying: A
    and C are those of all hops, and B, W and H are their own.

    Parameters
    ----------
    n_words, n_classes, n_ages : int
        Words; answers; sentences that T tells apart, where 0 leaves T out.
    size : int
        d, the width of all vectors.
    n_hops : int
        K.
    layer_wise : bool
        Layer-wise tying in place of adjacent.
    answer_words : bool
        Whether the words from 1 on are the answers, so that W can be tied.
    position_encoding : bool
        Whether l is the position encoding, or 1.
    time_noise : float
        Share of empty sentences that are put among the others in training.
    linear_start_iter : int
        Iterations without the softmax of the memory.

    References
    ----------
    .. [1] Sukhbaatar, Szlam, Weston, Fergus (2015). "End-to-end memory networks." NeurIPS.
    """

    time: nn.Parameter | None
    answers: nn.Parameter | None
    carry: nn.Linear | None

    def __init__(
        self,
        *,
        n_words: int,
        n_classes: int,
        n_ages: int,
        size: int,
        n_hops: int,
        layer_wise: bool,
        answer_words: bool,
        position_encoding: bool,
        time_noise: float,
        linear_start_iter: int,
    ) -> None:
        super().__init__()
        self.n_hops, self.layer_wise, self.n_classes = n_hops, layer_wise, n_classes
        self.position_encoding, self.time_noise = position_encoding, time_noise
        self.start_linear(linear_start_iter)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.1 * torch.randn(shape))

        n_tables = 2 if layer_wise else n_hops + 1
        self.words = normal(1 + n_words, n_tables, size)
        self.time = normal(n_ages, n_tables, size) if n_ages else None
        self.question_words = normal(1 + n_words, 1, size) if layer_wise else None
        self.answers = None if answer_words and not layer_wise else normal(n_classes, size)
        self.carry = None
        if layer_wise:
            self.carry = nn.Linear(size, size, bias=False)
            nn.init.normal_(self.carry.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the answers [N, C] of word numbers [N, 1 + M, J]."""
        return self.read(x)[0] @ self._answers()[: self.n_classes].T

    def _answers(self) -> Tensor:
        """Return W: the answers, and behind them, where it is tied, all other words."""
        return self.words[1:, -1] if self.answers is None else self.answers

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return u^{K+1} [N, d], and what every hop attended to [N, K, M]."""
        options = {"position_encoding": self.position_encoding}
        story = x[:, 1:]
        vectors = encode_sentences(story, self.words, **options)
        if self.time is not None:
            mask = (story > 0).any(dim=-1)
            noisy = self.training and self.time_noise
            age = draw_ages(mask, self.time_noise) if noisy else ages(mask)
            times = self.time[age.clamp(0, len(self.time) - 1)]
            vectors = vectors + times * mask[..., None, None]
        tables = vectors.unbind(dim=-2)
        words = self.words[:, :1] if self.question_words is None else self.question_words
        u, attention = memory_hops(
            encode_sentences(x[:, :1], words, **options).squeeze(-2),
            [*pairwise(tables)] * (self.n_hops if self.layer_wise else 1),
            # Empty places take part with a vector of zeros: attention to them is to nothing.
            linear=self.linear,
            carry=self.carry,
        )
        return u.squeeze(1), torch.cat(attention, dim=1)

    def meta_loss(self, batch: RowBatch) -> Tensor:  # type: ignore[override]
        """Return the mean cross-entropy of the answers, among all words where W is tied."""
        return F.cross_entropy(self.read(batch.x)[0] @ self._answers().T, batch.y)


@dataclass(kw_only=True, eq=False, repr=False)
class StoryMemN2NClassifier(StoryClassifier):
    """End-to-end memory network that answers questions about stories [1]_.

    A row is a story with a question, see :class:`StoryVectorizer`, and its label is the answer.
    The question is compared with every sentence, what was found is added to it, and so on in
    several hops; which sentences matter is learned from the answers alone. Prefer it where facts
    must be chained and nothing says which; :class:`MemNNClassifier` is for when something does. It
    is an ordinary classifier: ``fit`` trains it, there are no tasks and no ``meta_fit``.

    Parameters
    ----------
    n_hops : int, default=3
        How often the story is read.
    embedding_size : int, default=20
        Width of all vectors.
    tying : {"adjacent", "layer_wise"}, default="adjacent"
        What hops share: the output vectors of a hop are the input vectors of the next one, or
        all hops have the same, and the state passes a linear layer between them.
    answer_words : bool, default=True
        Whether the word numbers from 1 on are the answers, in the order of ``classes_``, as
        :class:`StoryVectorizer` makes them when it is fitted with the answers, as in a
        pipeline. Adjacent tying then embeds an answer as the word that it is.
    position_encoding : bool, default=True
        Weight words by their place in the sentence; False takes bags of words.
    temporal_encoding : bool, default=True
        Add a learned vector that says how many sentences are newer.
    time_noise : float, default=0.1
        With temporal encoding, the share of empty sentences that training puts among the
        others at random.
    linear_start_iter : int, default=400
        Iterations without the softmax in the memory, before those with it. When training ends
        earlier, or the best validated weights are from then, predictions are without it too.
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
    MemN2NClassifier : The same reading of a memory, of the support set of a task.
    StoryVectorizer : Makes the rows.

    Notes
    -----
    As in the paper the empty places of short stories take part in the softmax, with vectors of
    zeros: a hop can look at nothing. The loss is over all words, not the answers alone.

    Departures from the paper: Adam with a step size that falls to zero along a line trains it,
    which takes a third fewer iterations; the paper has stochastic gradient descent, which is
    ``optimizer="sgd", learning_rate=0.16, clip_norm=1.25`` here, where the loss is averaged over
    a batch, and a step size that is halved after every quarter. The linear start has a fixed
    length.

    References
    ----------
    .. [1] Sukhbaatar, Szlam, Weston, Fergus (2015). "End-to-end memory networks." NeurIPS.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from fewshot_sklearn import StoryMemN2NClassifier, StoryVectorizer
    >>> people, places = ["Mary", "John", "Ann"], ["garden", "office", "kitchen"]
    >>> stories = [
    ...     ([f"{a} went to the {p}.", f"{b} went to the {q}."], f"Where is {a}?")
    ...     for a in people for b in people for p in places for q in places if a != b
    ... ]
    >>> answers = [story[0].rsplit(" ", 1)[1].strip(".") for story, _ in stories]
    >>> clf = StoryMemN2NClassifier(
    ...     n_hops=1, max_iter=200, linear_start_iter=50, learning_rate=0.02, random_state=0
    ... )
    >>> make_pipeline(StoryVectorizer(), clf).fit(stories, answers).score(stories, answers)
    1.0
    """

    n_hops: int = 3
    embedding_size: int = 20
    tying: str = "adjacent"
    answer_words: bool = True
    position_encoding: bool = True
    temporal_encoding: bool = True
    time_noise: float = 0.1
    linear_start_iter: int = 400
    max_iter: int = 2500
    learning_rate: float = 0.01
    schedule: str = "linear"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **StoryClassifier._parameter_constraints,
        "n_hops": [Interval(Integral, 1, None, closed="left")],
        "embedding_size": [Interval(Integral, 1, None, closed="left")],
        "tying": [StrOptions({"adjacent", "layer_wise"})],
        "answer_words": ["boolean"],
        "position_encoding": ["boolean"],
        "temporal_encoding": ["boolean"],
        "time_noise": [Interval(Real, 0, 1, closed="both")],
        "linear_start_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def attention(self, X: ArrayLike) -> NDArray[Any]:
        """Return which sentences each hop attended to.

        Parameters
        ----------
        X : array-like of shape (n_samples, 1 + n_sentences, n_words)
            As in :meth:`fit`.

        Returns
        -------
        weights : ndarray of shape (n_samples, n_hops, n_sentences)
            As the sentences stand in X, the newest last. They sum to one with the empty places.
        """
        return self._compute(X, lambda learner, x: learner.read(x)[1]).numpy()

    def _make_learner(self, X: NDArray[Any], n_classes: int) -> StoryMemN2NLearner:
        return StoryMemN2NLearner(
            n_words=max(self._count_words(X), n_classes),
            n_classes=n_classes,
            n_ages=X.shape[1] - 1 if self.temporal_encoding else 0,
            size=self.embedding_size,
            n_hops=self.n_hops,
            layer_wise=self.tying == "layer_wise",
            answer_words=self.answer_words,
            position_encoding=self.position_encoding,
            time_noise=self.time_noise,
            linear_start_iter=self.linear_start_iter,
        )
