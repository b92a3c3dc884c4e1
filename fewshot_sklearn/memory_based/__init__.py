"""Methods that read the support set into a memory."""

from ._dnc import DNCClassifier
from ._lstm import LSTMClassifier, LSTMRegressor
from ._mann import MANNClassifier, MANNRegressor
from ._ntm import NTMClassifier, NTMRegressor

__all__ = [
    "DNCClassifier",
    "LSTMClassifier",
    "LSTMRegressor",
    "MANNClassifier",
    "MANNRegressor",
    "NTMClassifier",
    "NTMRegressor",
]
