"""Methods that read the support set into a memory."""

from ._mann import MANNClassifier
from ._memory_module import MemoryModuleClassifier

__all__ = ["MANNClassifier", "MemoryModuleClassifier"]
