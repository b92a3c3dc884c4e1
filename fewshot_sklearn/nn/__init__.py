"""The torch half of the package: learners, backbones and their building blocks."""

from .backbones import MLP, BackboneSpec, Conv4, build_backbone, embedding_size
from .context import FiLMContext, InputContext
from .coordinatewise import CoordinatewiseLearner, log_and_sign
from .covariance import COVARIANCES, Covariance
from .film import FiLM, embed_modulated, modulated_layers
from .gaussian_process import GaussianProcess
from .graph import Adjacency, GraphConvolution
from .heads import CosineHead, LinearHead
from .inner_optimizers import InnerOptimizer, adam, minimize, sgd
from .learner import Learner
from .memory import LRUMemoryCell
from .mlp_network import MLPNetwork, task_network
from .network_learner import NetworkLearner
from .quadratic_program import simplex_quadratic_program
from .recurrent import IncrementalRecurrentLearner, RecurrentLearner
from .relation import ConvRelation, DenseRelation
from .sequential import IncrementalSequentialLearner, SequentialLearner
from .snail import AttentionBlock, DenseBlock
from .support_rows import SupportRowsLearner
from .task_map import map_tasks, should_loop
from .task_network import TaskNetwork

__all__ = [
    "COVARIANCES",
    "MLP",
    "Adjacency",
    "AttentionBlock",
    "BackboneSpec",
    "Conv4",
    "ConvRelation",
    "CoordinatewiseLearner",
    "CosineHead",
    "Covariance",
    "DenseBlock",
    "DenseRelation",
    "FiLM",
    "FiLMContext",
    "GaussianProcess",
    "GraphConvolution",
    "IncrementalRecurrentLearner",
    "IncrementalSequentialLearner",
    "InnerOptimizer",
    "InputContext",
    "LRUMemoryCell",
    "Learner",
    "LinearHead",
    "MLPNetwork",
    "NetworkLearner",
    "RecurrentLearner",
    "SequentialLearner",
    "SupportRowsLearner",
    "TaskNetwork",
    "adam",
    "build_backbone",
    "embed_modulated",
    "embedding_size",
    "log_and_sign",
    "map_tasks",
    "minimize",
    "modulated_layers",
    "sgd",
    "should_loop",
    "simplex_quadratic_program",
    "task_network",
]
