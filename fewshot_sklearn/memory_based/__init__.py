"""Methods that read the support set, or a story, into a memory."""

from ._anp import ANPRegressor
from ._cnp import CNPClassifier, CNPRegressor
from ._hyper_net import HyperNetClassifier, HyperNetRegressor
from ._latent_np import NPRegressor
from ._mann import MANNClassifier
from ._mem_n2n import MemN2NClassifier
from ._mem_nn import MemNNClassifier
from ._memory_module import MemoryModuleClassifier
from ._meta_net import MetaNetClassifier
from ._neural_statistician import NeuralStatisticianClassifier
from ._snail import SNAILClassifier
from ._story_mem_n2n import StoryMemN2NClassifier
from ._story_vectorizer import StoryVectorizer

__all__ = [
    "ANPRegressor",
    "CNPClassifier",
    "CNPRegressor",
    "HyperNetClassifier",
    "HyperNetRegressor",
    "MANNClassifier",
    "MemN2NClassifier",
    "MemNNClassifier",
    "MemoryModuleClassifier",
    "MetaNetClassifier",
    "NPRegressor",
    "NeuralStatisticianClassifier",
    "SNAILClassifier",
    "StoryMemN2NClassifier",
    "StoryVectorizer",
]
