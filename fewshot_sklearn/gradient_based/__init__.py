"""Methods that learn a task by gradient steps from a learned start."""

from ._maml import MAMLClassifier, MAMLRegressor

__all__ = ["MAMLClassifier", "MAMLRegressor"]
