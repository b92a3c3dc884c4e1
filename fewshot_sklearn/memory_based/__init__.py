"""Methods that read the support set into a memory."""

from ._mann import MANNClassifier

__all__ = ["MANNClassifier"]
