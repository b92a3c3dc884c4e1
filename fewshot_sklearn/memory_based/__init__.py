"""Methods that read the support set into a memory."""

from ._mann import MANNClassifier
from ._snail import SNAILClassifier

__all__ = ["MANNClassifier", "SNAILClassifier"]
