"""Methods that learn a task by gradient steps from a learned start."""

from ._anil import ANILClassifier, ANILRegressor
from ._boil import BOILClassifier, BOILRegressor
from ._cavia import CAVIAClassifier, CAVIARegressor
from ._es_maml import ESMAMLClassifier, ESMAMLRegressor
from ._imaml import IMAMLClassifier, IMAMLRegressor
from ._learned_optimizer import LearnedOptimizerClassifier, LearnedOptimizerRegressor
from ._lstm_meta_learner import LSTMMetaLearnerClassifier, LSTMMetaLearnerRegressor
from ._maml import MAMLClassifier, MAMLRegressor
from ._meta_sgd import MetaSGDClassifier, MetaSGDRegressor
from ._proto_maml import ProtoMAMLClassifier
from ._reptile import ReptileClassifier, ReptileRegressor

__all__ = [
    "ANILClassifier",
    "ANILRegressor",
    "BOILClassifier",
    "BOILRegressor",
    "CAVIAClassifier",
    "CAVIARegressor",
    "ESMAMLClassifier",
    "ESMAMLRegressor",
    "IMAMLClassifier",
    "IMAMLRegressor",
    "LSTMMetaLearnerClassifier",
    "LSTMMetaLearnerRegressor",
    "LearnedOptimizerClassifier",
    "LearnedOptimizerRegressor",
    "MAMLClassifier",
    "MAMLRegressor",
    "MetaSGDClassifier",
    "MetaSGDRegressor",
    "ProtoMAMLClassifier",
    "ReptileClassifier",
    "ReptileRegressor",
]
