"""Estimators that the training loop trains on labelled samples: no tasks and no support set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from ._generators import own_generators
from ._meta_state import changed_parameters, snapshot_parameters
from ._parameters import DTYPES, TrainingParameters
from ._training import meta_train
from ._training_run import TrainingLog, TrainingOptions
from .nn import Learner
from .tasks._random import resolve_random_state, stream
from .utils._sklearn import Integral, Interval, Real, StrOptions

MakeBatches = Callable[[np.random.Generator], Iterator[Any]]


def hold_out(n_samples: int, random_state: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the samples that are kept, and of a random tenth that is not."""
    order = stream(resolve_random_state(random_state)[1], 0, 1).permutation(n_samples)
    n_held_out = -(-n_samples // 10)
    return order[n_held_out:], order[:n_held_out]


@dataclass(kw_only=True, eq=False, repr=False)
class SupervisedEstimator(TrainingParameters, BaseEstimator):
    """Base class of estimators whose ``fit`` trains a network on samples.

    A subclass checks its data, hands :meth:`_train` a way to make the network and the batches,
    and predicts with ``_learner``.

    Parameters
    ----------
    %(supervised_parameters)s
    """

    max_iter: int = 1000
    batch_size: int = 16
    optimizer: str = "adam"
    learning_rate: float = 1e-3

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TrainingParameters._parameter_constraints,
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions({"adam", "sgd", "rmsprop"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    def _train(
        self,
        make_learner: Callable[[], Learner],
        make_batches: MakeBatches,
        validate: Callable[[Learner], float] | None,
        *,
        learned: Mapping[str, Any],
        anew: bool,
    ) -> None:
        """Train a new network, or what was trained before, and publish it.

        What was learned before an error or an interruption is published too.

        Parameters
        ----------
        make_learner : callable
            Returns a new network. It, and training, draw from torch's generator, which is put
            back afterwards.
        make_batches : callable
            Returns batches without end, whatever ``meta_loss`` of the network takes, drawn with a
            NumPy generator.
        validate : callable or None
            Returns the score of a network, the higher the better; the weights with the best are
            kept.
        learned : mapping of str to object
            Attributes that belong to the network, such as ``n_features_in_``.
        anew : bool
            Whether to forget what was trained before.
        """
        key = resolve_random_state(self.random_state)[1]
        device = self._torch_device()
        n_before = 0 if anew else self._log.n_iter
        seed = (int(key[0]) + n_before) % 2**63
        with own_generators(seed, [device] if device.type == "cuda" else []):
            learner, log = (make_learner(), TrainingLog()) if anew else self._copy_of_trained()
            learner.to(device, DTYPES[self.precision]).requires_grad_(True)
            try:
                meta_train(
                    learner,
                    make_batches(stream(key, 1, n_before)),
                    self._options(),
                    log,
                    validate=None if validate is None else lambda: validate(learner),
                )
            finally:
                if log.n_iter > n_before:
                    self.__dict__.update(learned)
                    self._publish(learner.requires_grad_(False).eval(), log)

    def _options(self) -> TrainingOptions:
        return TrainingOptions(**{f.name: getattr(self, f.name) for f in fields(TrainingOptions)})

    def _copy_of_trained(self) -> tuple[Learner, TrainingLog]:
        """Return what to go on from; the present state stays as it is until there is another."""
        return copy.deepcopy(self._learner), self._log.copy()

    def _publish(self, learner: Learner, log: TrainingLog) -> None:
        self._learner, self._log = learner, log
        self._trained_parameters = snapshot_parameters(self._parameters())
        self.n_iter_, self.loss_curve_ = log.n_iter, log.losses
        self.validation_scores_ = log.validation_scores

    def _goes_on(self, *, anew: bool) -> bool:
        """Say whether training continues; refuse it where the network would be another one."""
        if anew or not self.__sklearn_is_fitted__():
            return False
        now, then = self._parameters(), self._trained_parameters
        free = {f.name for f in fields(SupervisedEstimator)} - {"optimizer"}
        changed = changed_parameters(now, then, sorted(now.keys() - free))
        if changed:
            shown = ", ".join(f"{name}={now[name]!r} (was {then[name]!r})" for name in changed)
            raise ValueError(
                f"training can only go on with the same network, but {shown} changed after fit; "
                "set it back, or call fit with warm_start=False to begin anew."
            )
        return True

    def _check_trained(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} instance is not fitted yet; call fit(X, y) first."
            )

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether something was trained."""
        return "_learner" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return a state that any machine can read."""
        state = super().__getstate__()
        learner = state.get("_learner")
        if learner is not None and any(p.device.type != "cpu" for p in learner.parameters()):
            state["_learner"] = copy.deepcopy(learner).to(torch.device("cpu"))
        return state
