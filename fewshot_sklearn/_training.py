"""The training loop of every method."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from ._distributed import World
from ._training_run import TrainingLog, TrainingOptions, TrainingRun
from .exceptions import MetaTrainingError
from .nn import Learner
from .tasks._batch import TaskBatch

_LOGGER = logging.getLogger("fewshot_sklearn")
IterationHook = Callable[[int], AbstractContextManager[Callable[[], bool]]]


def meta_train(
    learner: Learner,
    batches: Iterator[TaskBatch],
    options: TrainingOptions,
    log: TrainingLog,
    *,
    validate: Callable[[], float] | None = None,
    around_iteration: IterationHook | None = None,
    resume: dict[str, Any] | None = None,
    keep: Callable[[TrainingRun], None] | None = None,
    world: World | None = None,
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
    resume : dict or None
        The :meth:`TrainingRun.state` to go on from.
    keep : callable or None
        Gets the run after each iteration, and may ask for its state.
    world : World or None
        The processes that take part, each with batches of its own; None is this one.

    Raises
    ------
    MetaTrainingError
        When a loss or gradient is not finite. The learner then holds the last weights whose
        loss was finite, or the best validated ones.
    """
    world = World() if world is None else world
    weights = [*learner.parameters(), *learner.buffers()]
    world.spread(weights)
    if not any(p.requires_grad for p in learner.parameters()):
        next(batches)  # tasks that cannot be learned from are refused all the same
        learner.eval()
        return
    first = log.n_iter
    run = TrainingRun(learner, options, log, validated=validate is not None, world=world)
    if resume is not None:
        run.restore(resume)
    learner.train()
    try:
        if first and resume is None and validate is not None:
            _report(run, validate)
        _iterate(run, batches, validate, around_iteration or _no_hook, keep)
        _check_weights(run)
        if validate is not None and [n for n, _ in log.validation_scores[-1:]] != [log.n_iter]:
            _report(run, validate)
    except KeyboardInterrupt:
        if log.n_iter == first or world.size > 1:
            raise  # nothing was learned that could be kept, or others would go on without this one
        warnings.warn(
            f"meta-training was interrupted after {log.n_iter} iterations; "
            "what was learned so far is kept.",
            UserWarning,
            stacklevel=6,
        )
    finally:
        log.optimizer_state = _on_cpu(run.optimizer.state_dict())
        if run.best is not None and run.best.score > -math.inf:
            run.best.snapshot.restore()
        learner.eval()
        learner.zero_grad(set_to_none=True)
    world.spread(weights)  # processors of different kinds round differently


def _iterate(
    run: TrainingRun,
    batches: Iterator[TaskBatch],
    validate: Callable[[], float] | None,
    around_iteration: IterationHook,
    keep: Callable[[TrainingRun], None] | None,
) -> None:
    """Take iterations until one of the reasons to stop."""
    options, decide = run.options, _by_itself
    # What one process alone does may fail there, which the others then have to hear of.
    watched = around_iteration is not _no_hook or keep is not None
    if any(run.world.exchange(watched)) or options.max_time is not None:
        decide = run.world.decide
    while run.n_done < options.max_iter and not run.finished:
        seconds = decide(lambda: run.seconds)
        if options.max_time is not None and run.n_done and seconds >= options.max_time:
            run.finished = True
            decide(partial(_offer, run, keep))
            break
        for group in run.optimizer.param_groups:
            group["lr"] = options.learning_rate_at(run.n_done, seconds)
        with ExitStack() as stack:
            ends: list[Callable[[], bool]] = []
            decide(partial(_begin, stack, around_iteration(run.n_done), ends))
            _step(run, batches)
            if options.validates_at(run.n_done):
                _report(run, validate)
            stop = decide(ends[0])
        run.n_done += 1
        run.finished = stop or (run.best is not None and run.best.is_stale(options))
        decide(partial(_offer, run, keep))


def _begin(
    stack: ExitStack,
    iteration: AbstractContextManager[Callable[[], bool]],
    ends: list[Callable[[], bool]],
) -> None:
    """Announce an iteration, and note how to announce its end."""
    ends.append(stack.enter_context(iteration))


def _offer(run: TrainingRun, keep: Callable[[TrainingRun], None] | None) -> None:
    """Hand the run to whoever keeps it."""
    if keep is not None:
        keep(run)


def _check_weights(run: TrainingRun) -> None:
    """Restore the last good weights and raise when a step led to weights that are not finite."""
    if not all(bool(torch.isfinite(p).all()) for p in run.parameters):
        run.good.restore()
        iteration = run.log.n_iter
        raise MetaTrainingError(
            f"meta-training diverged at iteration {iteration}: its step led to weights that "
            "are not finite. The weights before it are kept. Lower meta_learning_rate or "
            "clip_norm.",
            iteration=iteration,
        )


@contextmanager
def _no_hook(iteration: int) -> Iterator[Callable[[], bool]]:
    yield lambda: False


def _by_itself(compute: Callable[[], Any]) -> Any:
    """Decide where all processes are sure to decide alike."""
    return compute()


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state for any machine; ``load_state_dict`` takes it back."""
    kept = {
        i: {k: v.cpu() if torch.is_tensor(v) else v for k, v in values.items()}
        for i, values in state["state"].items()
    }
    return {**state, "state": kept}


def _step(run: TrainingRun, batches: Iterator[TaskBatch]) -> None:
    """Take one meta-iteration, or restore the last good weights and raise."""
    options, log = run.options, run.log
    run.clear_gradient()
    run.world.seed_noise(run.generators(), log.n_iter)

    def compute() -> float:
        batch = next(batches)
        with options.autocast(run.parameters[0].device):
            return run.learner.meta_gradient(batch).item()

    loss = run.world.average_gradient(run.parameters, compute)
    run.world.spread(run.buffers)
    norm = run.clip_gradient()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        run.good.restore()
        iteration = log.n_iter + 1
        raise MetaTrainingError(
            f"meta-training diverged at iteration {iteration}: the meta-loss is {loss} and the "
            f"gradient's norm {norm}. The last weights with a finite loss are kept. Scale the "
            "features, or lower meta_learning_rate, clip_norm or, where tasks are adapted to by "
            "gradient steps, inner_learning_rate.",
            iteration=iteration,
        )
    run.good.take()
    run.optimizer.step()
    log.n_iter += 1
    log.losses.append(loss)


def _report(run: TrainingRun, validate: Callable[[], float] | None) -> None:
    """Validate, keep the best weights, and log how training goes."""
    log = run.log
    if validate is not None and run.best is not None:
        run.learner.eval()
        with torch.no_grad():
            score = validate()
        run.learner.train()
        log.validation_scores.append((log.n_iter, score))
        run.best.record(score)
    if run.options.verbose and run.world.is_main:
        scores = log.validation_scores[-1:]
        _LOGGER.info("meta-iteration %d: loss %.4g %s", log.n_iter, log.losses[-1], scores or "")
