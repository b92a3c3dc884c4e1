"""Methods that read the support set, or a story, into a memory."""

from ._anp import ANPRegressor
from ._cnp import CNPClassifier, CNPRegressor
from ._dnc import DNCClassifier
from ._hyper_net import HyperNetClassifier, HyperNetRegressor
from ._in_context import InContextClassifier, InContextRegressor
from ._latent_np import NPRegressor
from ._lstm import LSTMClassifier, LSTMRegressor
from ._mann import MANNClassifier, MANNRegressor
from ._mem_n2n import MemN2NClassifier
from ._mem_nn import MemNNClassifier
from ._memory_module import MemoryModuleClassifier
from ._meta_net import MetaNetClassifier
from ._neural_statistician import NeuralStatisticianClassifier
from ._ntm import NTMClassifier, NTMRegressor
from ._ntm_sequence import NTMSequenceClassifier, NTMSequenceRegressor
from ._snail import SNAILClassifier
from ._story_mem_n2n import StoryMemN2NClassifier
from ._story_vectorizer import StoryVectorizer

__all__ = [
    "ANPRegressor",
    "CNPClassifier",
    "CNPRegressor",
    "DNCClassifier",
    "HyperNetClassifier",
    "HyperNetRegressor",
    "InContextClassifier",
    "InContextRegressor",
    "LSTMClassifier",
    "LSTMRegressor",
    "MANNClassifier",
    "MANNRegressor",
    "MemN2NClassifier",
    "MemNNClassifier",
    "MemoryModuleClassifier",
    "MetaNetClassifier",
    "NPRegressor",
    "NTMClassifier",
    "NTMRegressor",
    "NTMSequenceClassifier",
    "NTMSequenceRegressor",
    "NeuralStatisticianClassifier",
    "SNAILClassifier",
    "StoryMemN2NClassifier",
    "StoryVectorizer",
]
