"""Meta-training under way: how it should go, how it went, and what it needs to go on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ._distributed import World
from .nn import Learner

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def _fused(optimizer: str, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Return the option that lets the step of all parameters be one pass, where it is safe."""
    # The kernel of a CPU does not look at strides.
    plain = all(p.device.type == "cpu" and p.is_contiguous() for p in parameters)
    return {} if optimizer == "rmsprop" else {"fused": plain or None}


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
        self.kept = [t.detach().clone() for t in self._live]

    @torch.no_grad()
    def take(self) -> None:
        for kept, live in zip(self.kept, self._live, strict=True):
            kept.copy_(live)

    @torch.no_grad()
    def restore(self) -> None:
        for kept, live in zip(self.kept, self._live, strict=True):
            live.copy_(kept)

    @torch.no_grad()
    def load(self, tensors: list[Tensor]) -> None:
        for kept, tensor in zip(self.kept, tensors, strict=True):
            kept.copy_(tensor)


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

    def state(self) -> dict[str, Any]:
        """Return everything in numbers and tensors."""
        kept = self.snapshot.kept
        return {"score": self.score, "bar": self.bar, "n_worse": self.n_worse, "weights": kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.score, self.bar, self.n_worse = state["score"], state["bar"], state["n_worse"]
        self.snapshot.load(state["weights"])

    def is_stale(self, options: TrainingOptions) -> bool:
        """Say whether early stopping should stop."""
        return options.early_stopping and self.n_worse >= options.n_iter_no_change


class TrainingRun:
    """Meta-training under way: all that its next iteration depends on, but for the batches.

    Parameters
    ----------
    learner : Learner
    options : TrainingOptions
    log : TrainingLog
        Continued from and written to.
    validated : bool
        Whether the best validated weights are kept.
    world : World
        The processes that take part.

    Attributes
    ----------
    n_done : int
        Iterations of this run.
    finished : bool
        Whether there will be no more of them, for another reason than ``max_iter``.
    """

    def __init__(
        self,
        learner: Learner,
        options: TrainingOptions,
        log: TrainingLog,
        *,
        validated: bool,
        world: World,
    ) -> None:
        self.learner, self.options, self.log, self.world = learner, options, log, world
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.buffers = [*learner.buffers()]
        self._fused = _fused(options.optimizer, self.parameters)
        self.optimizer = _OPTIMIZERS[options.optimizer](
            self.parameters, lr=options.learning_rate, **self._fused
        )
        if log.optimizer_state is not None:
            self._load_optimizer(log.optimizer_state)
        self.good = _Snapshot(learner)
        self.best = _BestState(learner, options.tol) if validated else None
        self.n_done = 0
        self.finished = False
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """Return everything in numbers, strings and tensors; :meth:`restore` takes it back."""
        return {
            "n_done": self.n_done,
            "finished": self.finished,
            "seconds": self.seconds,
            "weights": _Snapshot(self.learner).kept,
            "good": self.good.kept,
            "best": self.best and self.best.state(),
            "optimizer": self.optimizer.state_dict(),
            "log": [self.log.n_iter, [*self.log.losses], [*self.log.validation_scores]],
            "generators": [g.get_state() for g in self.generators()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to the run that a state describes."""
        weights = _Snapshot(self.learner)
        weights.load(state["weights"])
        weights.restore()
        self.good.load(state["good"])
        if self.best is not None:
            self.best.restore(state["best"])
        self._load_optimizer(state["optimizer"])
        self.log.n_iter, self.log.losses, self.log.validation_scores = state["log"]
        for generator, kept in zip(self.generators(), state["generators"], strict=False):
            generator.set_state(kept)
        self.n_done, self.finished = state["n_done"], state["finished"]
        self._began = time.monotonic() - state["seconds"]

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Take an optimizer's state, which may come from another device."""
        groups = [{**group, **self._fused} for group in state["param_groups"]]
        n_before, n_now = sum(len(g["params"]) for g in groups), len(self.parameters)
        if n_before != n_now:
            raise ValueError(
                f"meta-training goes on with the {n_before} tensors of weights that it learned so "
                f"far, but as the parameters are now it learns {n_now}: some have an effect in "
                "certain numbers of n_inner_steps only. Set n_inner_steps back to what it was in "
                "meta_fit, or call meta_fit again."
            )
        self.optimizer.load_state_dict({**state, "param_groups": groups})

    def clear_gradient(self) -> None:
        """Forget the gradient of the last iteration."""
        for p in self.parameters:
            p.grad = None

    def clip_gradient(self) -> float:
        """Return the norm of the gradient before it was scaled down to ``clip_norm``."""
        gradients = []
        for p in self.parameters:
            if p.grad is not None:
                if p.grad.stride() != p.stride():  # fused steps run through memory as it lies
                    p.grad = torch.empty_like(p).copy_(p.grad)
                gradients.append(p.grad)
        length, most = nn.utils.get_total_norm(gradients).item(), self.options.clip_norm
        if most is not None and length > most:
            for gradient in gradients:
                gradient.mul_(most / length)
        return length

    def generators(self) -> list[torch.Generator]:
        """Return torch's generators that the learner draws from."""
        device = self.parameters[0].device
        on_device = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
        return [torch.default_generator, *on_device]
