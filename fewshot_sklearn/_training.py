"""The training loop of every method."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .exceptions import MetaTrainingError
from .nn import Learner
from .tasks._batch import TaskBatch

_LOGGER = logging.getLogger("fewshot_sklearn")
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
IterationHook = Callable[[int], AbstractContextManager[Callable[[], bool]]]


def _one_cycle(progress: float) -> float:
    """Rise to 1 over the first 30 % of training, then fall to 1e-4, both along a cosine."""
    if progress < 0.3:
        start, end, share = 0.04, 1.0, progress / 0.3
    else:
        start, end, share = 1.0, 1e-4, (progress - 0.3) / 0.7
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "step": lambda progress: 0.5 ** int(10 * progress),
    "one_cycle": _one_cycle,
}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the fields mean what the estimators' parameters mean."""

    max_iter: int
    max_time: float | None
    optimizer: str
    learning_rate: float
    schedule: str
    clip_norm: float | None
    early_stopping: bool
    validation_interval: int
    n_iter_no_change: int
    tol: float
    precision: str
    verbose: int

    def learning_rate_at(self, n_iter: int, seconds: float) -> float:
        """Return the step size after ``n_iter`` iterations and ``seconds``."""
        progress = n_iter / self.max_iter
        if self.max_time is not None:
            progress = max(progress, min(seconds / self.max_time, 1.0))
        return self.learning_rate * SCHEDULES[self.schedule](progress)

    def validates_at(self, iteration: int) -> bool:
        """Say whether the weights after this iteration, counted from zero, are validated.

        The last weights always are.
        """
        return (iteration + 1) % self.validation_interval == 0

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Return the context in which losses are computed."""
        if self.precision == "bf16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return nullcontext()


@dataclass
class TrainingLog:
    """What meta-training has done so far; a later call continues from it.

    Attributes
    ----------
    n_iter : int
        Meta-iterations taken.
    losses : list of float
        The meta-loss of every iteration.
    validation_scores : list of (int, float)
        The iteration and the score of every validation.
    optimizer_state : dict or None
        The optimizer's ``state_dict``.
    """

    n_iter: int = 0
    losses: list[float] = field(default_factory=list)
    validation_scores: list[tuple[int, float]] = field(default_factory=list)
    optimizer_state: dict[str, Any] | None = None

    def copy(self) -> TrainingLog:
        """Return a log to continue, which leaves this one as it is."""
        state = copy.deepcopy(self.optimizer_state)
        return TrainingLog(self.n_iter, [*self.losses], [*self.validation_scores], state)


class _Snapshot:
    """A copy of a learner's weights and buffers to return to."""

    def __init__(self, learner: nn.Module) -> None:
        self._live = [*learner.parameters(), *learner.buffers()]
        self._kept = [t.detach().clone() for t in self._live]

    @torch.no_grad()
    def take(self) -> None:
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live)

    @torch.no_grad()
    def restore(self) -> None:
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)


class _BestState:
    """The best validated weights so far, and how long ago they were found."""

    def __init__(self, learner: nn.Module, tol: float) -> None:
        self.snapshot = _Snapshot(learner)
        self.tol = tol
        self.score = -math.inf
        self.bar = -math.inf
        self.n_worse = 0

    def record(self, score: float) -> None:
        """Keep the weights when they are the best; count a gain below ``tol`` as none."""
        if score > self.score:
            self.score = score
            self.snapshot.take()
        if score > self.bar + self.tol:
            self.bar = score
            self.n_worse = 0
        else:
            self.n_worse += 1

    def is_stale(self, options: TrainingOptions) -> bool:
        """Say whether early stopping should stop."""
        return options.early_stopping and self.n_worse >= options.n_iter_no_change


def meta_train(
    learner: Learner,
    batches: Iterator[TaskBatch],
    options: TrainingOptions,
    log: TrainingLog,
    *,
    validate: Callable[[], float] | None = None,
    around_iteration: IterationHook | None = None,
) -> None:
    """Train ``learner`` in place by stochastic gradient descent on its meta-gradient.

    Parameters
    ----------
    learner : Learner
        On the device where the batches are.
    batches : iterator of TaskBatch
        Infinite.
    options : TrainingOptions
    log : TrainingLog
        Continued from and written to.
    validate : callable or None
        Returns the score of the current weights, the higher the better. With it the best
        weights, not the last, are kept.
    around_iteration : callable or None
        A context manager around each iteration; what it yields is called after the step and
        returns whether to stop.

    Raises
    ------
    MetaTrainingError
        When a loss or gradient is not finite. The learner then holds the last weights whose
        loss was finite, or the best validated ones.
    """
    parameters = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        learner.eval()
        return
    optimizer = _make_optimizer(parameters, options, log)
    good = _Snapshot(learner)
    best = None if validate is None else _BestState(learner, options.tol)
    start, first = time.monotonic(), log.n_iter
    learner.train()
    try:
        if first and best is not None:
            _report(learner, log, validate, best, options.verbose)
        for iteration in range(options.max_iter):
            seconds = time.monotonic() - start
            if options.max_time is not None and iteration and seconds >= options.max_time:
                break
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate_at(iteration, seconds)
            with (around_iteration or _no_hook)(iteration) as end_iteration:
                _step(learner, next(batches), parameters, optimizer, options, log, good)
                if options.validates_at(iteration):
                    _report(learner, log, validate, best, options.verbose)
                stop = end_iteration()
            if stop or (best is not None and best.is_stale(options)):
                break
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            good.restore()
            raise MetaTrainingError(
                f"meta-training diverged at iteration {log.n_iter}: its step led to weights that "
                "are not finite. The weights before it are kept. Lower meta_learning_rate or "
                "clip_norm.",
                iteration=log.n_iter,
            )
        if best is not None and [n for n, _ in log.validation_scores[-1:]] != [log.n_iter]:
            _report(learner, log, validate, best, options.verbose)
    except KeyboardInterrupt:
        if log.n_iter == first:
            raise  # nothing was learned that could be kept
        warnings.warn(
            f"meta-training was interrupted after {log.n_iter} iterations; "
            "what was learned so far is kept.",
            UserWarning,
            stacklevel=2,
        )
    finally:
        log.optimizer_state = _on_cpu(optimizer.state_dict())
        if best is not None and best.score > -math.inf:
            best.snapshot.restore()
        learner.eval()
        learner.zero_grad(set_to_none=True)


@contextmanager
def _no_hook(iteration: int) -> Iterator[Callable[[], bool]]:
    yield lambda: False


def _make_optimizer(
    parameters: list[nn.Parameter], options: TrainingOptions, log: TrainingLog
) -> torch.optim.Optimizer:
    optimizer = _OPTIMIZERS[options.optimizer](parameters, lr=options.learning_rate)
    if log.optimizer_state is not None:
        optimizer.load_state_dict(log.optimizer_state)
    return optimizer


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state for any machine; ``load_state_dict`` takes it back."""
    kept = {
        i: {k: v.cpu() if torch.is_tensor(v) else v for k, v in values.items()}
        for i, values in state["state"].items()
    }
    return {**state, "state": kept}


def _step(
    learner: Learner,
    batch: TaskBatch,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    options: TrainingOptions,
    log: TrainingLog,
    good: _Snapshot,
) -> None:
    """Take one meta-iteration, or restore the last good weights and raise."""
    optimizer.zero_grad(set_to_none=True)
    with options.autocast(parameters[0].device):
        loss = learner.meta_gradient(batch).item()
    norm = nn.utils.clip_grad_norm_(parameters, options.clip_norm or math.inf).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        good.restore()
        iteration = log.n_iter + 1
        raise MetaTrainingError(
            f"meta-training diverged at iteration {iteration}: the meta-loss is {loss} and the "
            f"gradient's norm {norm}. The last weights with a finite loss are kept. Scale the "
            "features, or lower meta_learning_rate or clip_norm.",
            iteration=iteration,
        )
    good.take()
    optimizer.step()
    log.n_iter += 1
    log.losses.append(loss)


def _report(
    learner: Learner,
    log: TrainingLog,
    validate: Callable[[], float] | None,
    best: _BestState | None,
    verbose: int,
) -> None:
    """Validate, keep the best weights, and log how training goes."""
    if validate is not None and best is not None:
        learner.eval()
        with torch.no_grad():
            score = validate()
        learner.train()
        log.validation_scores.append((log.n_iter, score))
        best.record(score)
    if verbose:
        scores = log.validation_scores[-1:]
        _LOGGER.info("meta-iteration %d: loss %.4g %s", log.n_iter, log.losses[-1], scores or "")
