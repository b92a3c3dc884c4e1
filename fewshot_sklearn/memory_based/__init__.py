"""Methods that read the support set into a memory."""

from ._mann import MANNClassifier
from ._memory_module import MemoryModuleClassifier
from ._meta_net import MetaNetClassifier

__all__ = ["MANNClassifier", "MemoryModuleClassifier", "MetaNetClassifier"]
