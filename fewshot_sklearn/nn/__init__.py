"""The torch half of the package: learners, backbones and their building blocks."""

from .backbones import MLP, BackboneSpec, Conv4, build_backbone, embedding_size
from .inner_loop import gradient_descent, map_tasks, should_loop
from .learner import Learner
from .memory import LRUMemoryCell

__all__ = [
    "MLP",
    "BackboneSpec",
    "Conv4",
    "LRUMemoryCell",
    "Learner",
    "build_backbone",
    "embedding_size",
    "gradient_descent",
    "map_tasks",
    "should_loop",
]
