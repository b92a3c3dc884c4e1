"""Methods that read the support set into a memory."""

from ._in_context import InContextClassifier, InContextRegressor
from ._mann import MANNClassifier

__all__ = ["InContextClassifier", "InContextRegressor", "MANNClassifier"]
