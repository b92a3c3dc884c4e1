"""Methods that read the support set, a sequence or a story into a memory."""

from ._mann import MANNClassifier
from ._mem_n2n import MemN2NClassifier
from ._mem_nn import MemNNClassifier
from ._ntm_sequence import NTMSequenceClassifier, NTMSequenceRegressor
from ._story_mem_n2n import StoryMemN2NClassifier
from ._story_vectorizer import StoryVectorizer

__all__ = [
    "MANNClassifier",
    "MemN2NClassifier",
    "MemNNClassifier",
    "NTMSequenceClassifier",
    "NTMSequenceRegressor",
    "StoryMemN2NClassifier",
    "StoryVectorizer",
]
