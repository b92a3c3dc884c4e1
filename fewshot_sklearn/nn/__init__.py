"""The torch half of the package: learners, backbones and their building blocks."""

from .backbones import MLP, BackboneSpec, Conv4, build_backbone, embedding_size
from .context import FiLMContext, InputContext
from .controllers import FeedForwardCell, LSTMCell
from .coordinatewise import CoordinatewiseLearner, log_and_sign
from .covariance import COVARIANCES, Covariance
from .dnc import DNCCell
from .film import FiLM, embed_modulated, modulated_layers
from .gaussian_process import GaussianProcess
from .generated import GeneratedMLP, LayerGenerator
from .graph import Adjacency, GraphConvolution
from .heads import CosineHead, LinearHead
from .inner_optimizers import InnerOptimizer, adam, minimize, sgd
from .learner import Learner
from .memory import LRUMemoryCell
from .memory_network import (
    LinearStartLearner,
    ages,
    attend,
    encode_sentences,
    memory_hops,
    noisy_ages,
)
from .mlp_network import MLPNetwork, task_network
from .network_learner import NetworkLearner
from .ntm import NTMCell
from .quadratic_program import simplex_quadratic_program
from .recurrent import IncrementalRecurrentLearner, RecurrentLearner
from .relation import ConvRelation, DenseRelation
from .sequence_learner import SequenceBatch, SequenceLearner
from .sequential import IncrementalSequentialLearner, SequentialLearner
from .support_rows import SupportRowsLearner
from .table_attention import TableBlock
from .table_batches import alike_tables
from .table_cells import describe_columns, place_cells
from .task_map import map_tasks, should_loop
from .task_network import TaskNetwork

__all__ = [
    "COVARIANCES",
    "MLP",
    "Adjacency",
    "BackboneSpec",
    "Conv4",
    "ConvRelation",
    "CoordinatewiseLearner",
    "CosineHead",
    "Covariance",
    "DNCCell",
    "DenseRelation",
    "FeedForwardCell",
    "FiLM",
    "FiLMContext",
    "GaussianProcess",
    "GeneratedMLP",
    "GraphConvolution",
    "IncrementalRecurrentLearner",
    "IncrementalSequentialLearner",
    "InnerOptimizer",
    "InputContext",
    "LRUMemoryCell",
    "LSTMCell",
    "LayerGenerator",
    "Learner",
    "LinearHead",
    "LinearStartLearner",
    "MLPNetwork",
    "NTMCell",
    "NetworkLearner",
    "RecurrentLearner",
    "SequenceBatch",
    "SequenceLearner",
    "SequentialLearner",
    "SupportRowsLearner",
    "TableBlock",
    "TaskNetwork",
    "adam",
    "ages",
    "alike_tables",
    "attend",
    "build_backbone",
    "describe_columns",
    "embed_modulated",
    "embedding_size",
    "encode_sentences",
    "log_and_sign",
    "map_tasks",
    "memory_hops",
    "minimize",
    "modulated_layers",
    "noisy_ages",
    "place_cells",
    "sgd",
    "should_loop",
    "simplex_quadratic_program",
    "task_network",
]
