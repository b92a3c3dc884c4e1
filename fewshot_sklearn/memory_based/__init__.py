"""Methods that read the support set into a memory."""

from ._anp import ANPRegressor
from ._cnp import CNPClassifier, CNPRegressor
from ._latent_np import NPRegressor
from ._mann import MANNClassifier

__all__ = ["ANPRegressor", "CNPClassifier", "CNPRegressor", "MANNClassifier", "NPRegressor"]
