"""What baselines that train a network on the support set share: its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..base import FewShotEstimator
from ..nn.inner_optimizers import InnerOptimizer, adam, sgd
from ..utils._sklearn import Integral, Interval, Real, StrOptions

_OPTIMIZERS = {"adam": adam, "sgd": sgd}


@dataclass(kw_only=True, eq=False, repr=False)
class _InnerTrainingEstimator(FewShotEstimator):
    """One that trains a network on the support set of each task."""

    n_inner_steps: int = 50
    inner_learning_rate: float = 0.01
    inner_optimizer: str = "adam"

    _adaptation_parameters: ClassVar[frozenset[str]] = FewShotEstimator._adaptation_parameters | {
        "n_inner_steps",
        "inner_learning_rate",
        "inner_optimizer",
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "n_inner_steps": [Interval(Integral, 0, None, closed="left")],
        "inner_learning_rate": [Interval(Real, 0, None, closed="left")],
        "inner_optimizer": [StrOptions(set(_OPTIMIZERS))],
    }

    def _inner_training(self) -> dict[str, Any]:
        """Return the learner's parameters ``optimizer`` and ``n_inner_steps``."""
        optimizer: InnerOptimizer = _OPTIMIZERS[self.inner_optimizer](self.inner_learning_rate)
        return {"optimizer": optimizer, "n_inner_steps": self.n_inner_steps}
