"""Methods that read the support set into a memory."""

from ._hyper_net import HyperNetClassifier, HyperNetRegressor
from ._mann import MANNClassifier
from ._neural_statistician import NeuralStatisticianClassifier

__all__ = [
    "HyperNetClassifier",
    "HyperNetRegressor",
    "MANNClassifier",
    "NeuralStatisticianClassifier",
]
