"""How the shell meta-trains: from tasks as users have them to a meta state."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._calibration import fit_temperature
from ._checkpoint import Checkpoint
from ._configuration import (
    describe_configuration,
    describe_network,
    describe_parameters,
    identify_tasks,
)
from ._distributed import World
from ._generators import own_generators
from ._loading import make_loader
from ._meta_state import FEATURE_ATTRIBUTES, MetaState, TaskSpec, snapshot_parameters
from ._training import meta_train
from ._training_run import TrainingLog, TrainingOptions, TrainingRun
from ._validation import hold_out, validate, validation_batches
from .exceptions import NotMetaFittedWarning, SkippedTaskWarning, TaskError
from .tasks import GroupedTasks, IndexedTaskSet, StreamTasks, TaskList, TaskSet
from .tasks._batch import TaskBatch, TaskLoader
from .tasks._concepts import Concepts, number_concepts
from .tasks._random import resolve_random_state
from .tasks._targets import ClassTargets, RealTargets

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator
    from ._protocols import MakeHook

# Episodes that a plain fit cuts from its rows.
_MOST_SUPPORT_ROWS = 16
_MOST_QUERY_ROWS = 16
_N_VALIDATION = 32


def meta_fit(
    estimator: FewShotEstimator,
    tasks: TaskSet | StreamTasks,
    validation_tasks: TaskSet | StreamTasks | None,
    known: MetaState | None,
    *,
    world: World,
    make_hook: MakeHook | None,
    from_fit: bool = False,
    classes: NDArray[Any] | None = None,
    checkpoint: Any = None,
) -> None:
    """Meta-train an estimator, anew or from a known state, and publish the result.

    What was learned before an error or an interruption is published too. ``classes`` are labels
    that can occur beside those of the tasks.
    """
    with world.together():
        file = None
        if checkpoint is not None and world.is_main:
            about = describe_configuration(estimator, tasks, validation_tasks, known)
            file = Checkpoint(checkpoint, {"processes": str(world.size), **about})
        key, saved = _key(estimator, file, world)
        all_tasks = tasks
        if estimator.early_stopping and validation_tasks is None:
            tasks, validation_tasks = hold_out(tasks, key)
        reset = known is None and not from_fit
        loader = make_loader(estimator, tasks, reset=reset, rows_checked=from_fit, known=known)
    with seeded(estimator, key, 0 if known is None else known.log.n_iter):
        with world.together():
            meta = _start(
                estimator, loader, known, world, all_tasks, from_fit=from_fit, classes=classes
            )
            if file is not None:
                file.require("network", describe_network(meta.learner))
            loader.targets = meta.targets
            held_out = validation_batches(estimator, meta, validation_tasks)
            world.check_alike(_facts(estimator, meta, held_out))
        if saved is not None:
            loader.n_batches, loader.n_drawn, loader.n_skipped = saved["position"]
        size, share = estimator.meta_batch_size, (world.rank, world.size)
        try:
            meta_train(
                meta.learner,
                loader.batches(size, key, meta.n_epochs, share=share),
                _options(estimator),
                meta.log,
                validate=partial(validate, meta, held_out, world) if held_out else None,
                around_iteration=make_hook and make_hook(partial(_as_of_now, meta)),
                resume=saved and saved["run"],
                keep=None if file is None else partial(_keep, file, loader, key),
                world=world,
            )
            if held_out and isinstance(meta.targets, ClassTargets):
                fitted = world.decide(partial(fit_temperature, meta.learner, held_out))
                meta = replace(meta, temperature=fitted)
        finally:
            if meta.log.n_iter or not any(p.requires_grad for p in meta.learner.parameters()):
                meta.learner.requires_grad_(False)
                estimator._publish(replace(meta, n_epochs=meta.n_epochs + loader.n_epochs))
    if loader.n_skipped and world.is_main:
        _warn_of_skipped(loader)


def _warn_of_skipped(loader: TaskLoader) -> None:
    """Say how many draws nothing could be learned from."""
    warnings.warn(
        f"{loader.n_skipped} of {loader.n_drawn} draws had one class in the support set and "
        "were left out of meta-training; draw larger or stratified support sets.",
        SkippedTaskWarning,
        stacklevel=6,
    )


def _key(
    estimator: FewShotEstimator, file: Checkpoint | None, world: World
) -> tuple[NDArray[np.uint64], dict[str, Any] | None]:
    """Return what all randomness is a function of, and the state to go on from, if there is one."""
    key = resolve_random_state(estimator.random_state)[1]
    saved = None if file is None else file.read()
    key, saved = world.from_main((key if saved is None else saved["key"], saved))
    world.seed = int(key[0])
    return key, saved


def _facts(
    estimator: FewShotEstimator, meta: MetaState, held_out: list[TaskBatch]
) -> dict[str, Any]:
    """Return what must be the same in processes that train together."""
    facts = {"estimator": type(estimator).__name__, **describe_parameters(estimator)}
    del facts["random_state"]  # that of the main process is taken
    return {**facts, "validation": bool(held_out), "tasks (checksum)": meta.spec.concepts_of}


def _keep(file: Checkpoint, loader: TaskLoader, key: NDArray[np.uint64], run: TrainingRun) -> None:
    """Offer the run to the checkpoint with all that the batches depend on."""
    position = [loader.n_batches, loader.n_drawn, loader.n_skipped]
    file.offer(run, {"key": key, "position": position})


def fit_from_scratch(
    estimator: FewShotEstimator,
    X: Any,
    y: NDArray[Any],
    *,
    make_hook: MakeHook | None,
    classes: NDArray[Any] | None = None,
) -> None:
    """Meta-train on episodes cut from one labelled data set, as a plain ``fit`` does.

    ``classes`` are labels that can occur later.
    """
    classifier = estimator._estimator_type_is_classifier
    n_rows, n_classes = X.shape[0], len(np.unique(y)) if classifier else 1
    most = max(_MOST_SUPPORT_ROWS, 2 * n_classes)
    fewest = max(n_classes, min(8, n_rows // 4), 1)
    if n_rows >= max(4, 2 * n_classes) and (n_classes > 1 or not classifier):
        seed = resolve_random_state(estimator.random_state)[1]
        tasks = GroupedTasks(
            X,
            y,
            np.zeros(n_rows, dtype=int),
            n_support=(fewest, max(fewest, min(most, n_rows // 2))),
            n_query=_MOST_QUERY_ROWS,
            stratify=True if classifier else None,
            random_state=int(seed[0] >> np.uint64(1)),
        )
        validation = None
        if estimator.early_stopping:
            # Episodes of the same rows that training, whose visits count from zero, never draws.
            late = range(2**32, 2**32 + _N_VALIDATION)
            validation = TaskList(tasks.task(0, visit) for visit in late)
        meta_fit(
            estimator,
            tasks,
            validation,
            None,
            world=World(),
            make_hook=make_hook,
            from_fit=True,
            classes=classes,
        )
        return
    warnings.warn(
        f"{n_rows} rows of {n_classes} class(es) are too few to cut episodes from, so "
        f"{type(estimator).__name__} adapts from its initial weights; call meta_fit on older "
        "tasks first.",
        NotMetaFittedWarning,
        stacklevel=4,
    )
    key = resolve_random_state(estimator.random_state)[1]
    spec, targets = estimator._describe_targets(
        X.shape[1:], [y] if classes is None else [y, classes], True
    )
    spec = replace(spec, n_concepts=spec.n_outputs)
    with seeded(estimator, key, 0):
        meta = _new_state(estimator, spec, targets, from_fit=True)
    meta.learner.requires_grad_(False).eval()
    estimator._publish(meta)


def _as_of_now(meta: MetaState) -> MetaState:
    """Return a copy of the state in training, ready to predict."""
    learner = copy.deepcopy(meta.learner).requires_grad_(False).eval()
    return replace(meta, learner=learner, log=replace(meta.log.copy(), optimizer_state=None))


def _start(
    estimator: FewShotEstimator,
    loader: TaskLoader,
    known: MetaState | None,
    world: World,
    all_tasks: TaskSet | StreamTasks,
    *,
    from_fit: bool,
    classes: NDArray[Any] | None,
) -> MetaState:
    """Return the state to train: new, or a copy of the known one, which others may share.

    ``all_tasks`` are those of the loader, and those held out of them.
    """
    carried = {}
    if known is None:
        spec, targets = _describe(estimator, loader, classes)
    else:
        spec, targets = known.spec, known.targets
        carried = {name: getattr(known, name) for name in ("n_epochs", "temperature", "features")}
        carried["log"] = known.log.copy()
    spec, targets, carried = world.from_main((spec, targets, carried))
    if estimator._uses_concepts:
        loader.concepts, identity = _number_concepts(estimator, all_tasks, targets)
        if known is not None and identity != spec.concepts_of:
            raise ValueError(
                f"{type(estimator).__name__} learns a vector for each class of its training tasks, "
                "so that partial_meta_fit, and meta_fit with warm_start=True, need the tasks of "
                "the first call, but got others; call meta_fit on all of them together."
            )
        spec = _with_concepts(spec, loader.concepts, identity)
    meta = replace(_new_state(estimator, spec, targets, from_fit=from_fit), **carried)
    if known is not None:
        meta.learner.load_state_dict(known.learner.state_dict())
    return meta


def _describe(
    estimator: FewShotEstimator, loader: TaskLoader, classes: NDArray[Any] | None
) -> tuple[TaskSpec, ClassTargets | RealTargets]:
    """Return what the tasks are like."""
    draws = loader.peek()
    if len({d.y_support.shape[1:] for d in draws} | {d.y_query.shape[1:] for d in draws}) > 1:
        raise TaskError("y must have the same number of columns in every task.")
    ys = [np.concatenate([d.y_support, d.y_query]) for d in draws]
    if isinstance(loader.tasks, IndexedTaskSet) and estimator._estimator_type_is_classifier:
        ys = [loader.tasks.y]  # a rare label may be missing from the draws
    if classes is not None:
        ys.append(classes)
    support_shape, input_shape = loader.row_shapes(draws[0])
    spec, targets = estimator._describe_targets(input_shape, ys, loader.tasks.shared_classes)
    spec = replace(spec, support_shape=support_shape)
    if not spec.shared_classes and isinstance(targets, ClassTargets):
        spec = replace(spec, n_outputs=loader.largest_way(draws))
    return spec, targets


def _number_concepts(
    estimator: FewShotEstimator, tasks: TaskSet | StreamTasks, targets: ClassTargets | RealTargets
) -> tuple[Concepts, str]:
    """Return what the columns of tasks stand for, and what tells these tasks from others."""
    if isinstance(tasks, StreamTasks):
        raise TypeError(
            f"{type(estimator).__name__} learns a vector for each class of its training tasks, so "
            "it needs a sequence of tasks that it can count, got an iterator; list it."
        )
    return number_concepts(tasks, targets), identify_tasks(tasks)


def _with_concepts(spec: TaskSpec, concepts: Concepts, identity: str) -> TaskSpec:
    return replace(
        spec,
        n_concepts=concepts.n_concepts,
        shared_concepts=concepts.shared,
        concepts_of=identity,
    )


def _new_state(
    estimator: FewShotEstimator,
    spec: TaskSpec,
    targets: ClassTargets | RealTargets,
    *,
    from_fit: bool,
) -> MetaState:
    """Return the state before any meta-training, with a new learner."""
    make = estimator._tensor_maker()
    learner = estimator._make_learner(spec).to(make.device, make.dtype)
    if isinstance(targets, ClassTargets):
        targets = replace(targets, n_columns=learner.n_outputs)
    return MetaState(
        spec=spec,
        learner=learner,
        log=TrainingLog(),
        targets=targets,
        parameters=snapshot_parameters(estimator._parameters()),
        features=_features(estimator),
        from_fit=from_fit,
    )


def _features(estimator: FewShotEstimator) -> dict[str, Any]:
    known = vars(estimator)
    return {name: known[name] for name in FEATURE_ATTRIBUTES if name in known}


def _options(estimator: FewShotEstimator) -> TrainingOptions:
    return TrainingOptions(
        max_iter=estimator.max_iter,
        max_time=estimator.max_time,
        optimizer=estimator.meta_optimizer,
        learning_rate=estimator.meta_learning_rate,
        schedule=estimator.schedule,
        clip_norm=estimator.clip_norm,
        early_stopping=estimator.early_stopping,
        validation_interval=estimator.validation_interval,
        n_iter_no_change=estimator.n_iter_no_change,
        tol=estimator.tol,
        precision=estimator.precision,
        verbose=int(estimator.verbose),
    )


@contextmanager
def seeded(estimator: FewShotEstimator, key: NDArray[np.uint64], n_iter: int) -> Iterator[None]:
    """Seed torch for the time of a block and put its generators back afterwards."""
    device = estimator._torch_device()
    devices = [device] if device.type == "cuda" else []
    seed = (int(key[0]) + n_iter) % 2**63
    with own_generators(seed, devices):
        yield
