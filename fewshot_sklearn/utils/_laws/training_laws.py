"""Laws of meta-training: it helps, it is reproducible, and it leaves the process as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from fewshot_sklearn.utils._laws._require import (
    require,
    require_close,
    require_equal,
    require_error,
    require_finite,
)
from fewshot_sklearn.utils._laws._subject import N_ITER, Subject

_N_TEST_TASKS = 128
_GAIN_ITER = 25
_MOST_GAIN_ITER = 400


def check_meta_training_beats_untrained_learner(subject: Subject) -> None:
    """A few seconds of meta-training beat the untrained learner on tasks never seen."""
    if not subject.tags.meta_trains:
        return
    # Labels are shared where the columns of the learner mean something, so that they can.
    sizes: dict[str, Any] = {"n_way": 2, "n_shot": 3, "n_query": 5}
    sizes["shared"] = subject.classifier and not subject.tags.permutes_classes
    tasks = subject.tasks(256, seed=0, **sizes)
    test = subject.tasks(_N_TEST_TASKS, seed=1, **sizes)
    # Steps too small to be seen leave the initial weights.
    new = {"max_iter": 1, "meta_learning_rate": 1e-12}
    untrained = _losses(subject, subject.new(**new).meta_fit(tasks), test)
    trained = subject.new(max_iter=_GAIN_ITER)
    for _ in range(_MOST_GAIN_ITER // _GAIN_ITER):
        trained.partial_meta_fit(tasks)
        gain = untrained - _losses(subject, trained, test)
        error = gain.std() / np.sqrt(len(gain))
        if gain.mean() > 3 * error:
            return
    raise AssertionError(
        f"meta-training must beat the untrained learner on held-out tasks, but after "
        f"{trained.n_meta_iter_} meta-iterations the query loss fell from {untrained.mean():.4g} "
        f"by {gain.mean():.4g} with a standard error of {error:.2g}."
    )


def _losses(subject: Subject, estimator: Any, tasks: Any) -> NDArray[np.float64]:
    """Return every task's mean query loss: minus the log-probability, or the squared error."""
    if not subject.classifier:
        means = estimator.predict_tasks(tasks)
        pairs = zip(means, tasks, strict=True)
        return np.array([np.square(mean - task.y_query).mean() for mean, task in pairs])
    probabilities = estimator.predict_tasks(tasks, method="predict_proba")
    losses = []
    for p, task in zip(probabilities, tasks, strict=True):
        columns = np.searchsorted(np.unique(task.y_support), task.y_query)
        of_label = np.clip(p[np.arange(len(columns)), columns], 1e-12, None)
        losses.append(-np.log(of_label).mean())
    return np.array(losses)


def check_loss_curve_is_complete(subject: Subject) -> None:
    """``meta_loss_curve_`` has a finite number for every one of ``n_meta_iter_`` iterations."""
    estimator = subject.meta_fitted()
    curve, n_iter = estimator.meta_loss_curve_, estimator.n_meta_iter_
    expected = N_ITER if subject.tags.meta_trains else 0
    require(
        n_iter == estimator.n_iter_ == len(curve) == expected,
        f"n_meta_iter_, n_iter_ and the length of meta_loss_curve_ must be {expected}, "
        f"got {n_iter}, {estimator.n_iter_} and {len(curve)}.",
    )
    require_finite(curve, "meta_loss_curve_ must be finite")


def check_partial_meta_fit_continues(subject: Subject) -> None:
    """``partial_meta_fit`` adds iterations, and changes neither clones nor the original."""
    if not subject.tags.meta_trains:
        return
    estimator = subject.meta_fitted()
    task = subject.tasks(1, seed=1)[0]
    curve = list(estimator.meta_loss_curve_)
    before = subject.fit_predict(estimator, task)
    more = clone(estimator).partial_meta_fit(subject.tasks())
    require(
        more.n_meta_iter_ == len(more.meta_loss_curve_) == 2 * N_ITER,
        f"after partial_meta_fit n_meta_iter_ and the length of meta_loss_curve_ must add up to "
        f"{2 * N_ITER}, got {more.n_meta_iter_} and {len(more.meta_loss_curve_)}.",
    )
    require_equal(
        more.meta_loss_curve_[:N_ITER],
        curve,
        "partial_meta_fit must keep the beginning of meta_loss_curve_",
    )
    law = "partial_meta_fit of a clone must not change the original"
    require(estimator.n_meta_iter_ == N_ITER, f"{law}, but its n_meta_iter_ changed.")
    require_equal(subject.fit_predict(estimator, task), before, f"{law}'s predictions")
    require(
        not np.array_equal(subject.fit_predict(more, task), before),
        "partial_meta_fit must go on learning, but the predictions are the same to the last bit.",
    )
    first = subject.new().partial_meta_fit(subject.tasks())
    require_equal(
        subject.fit_predict(first, task),
        before,
        "partial_meta_fit of a new estimator must give what meta_fit gives",
    )


def check_random_state_decides_everything(subject: Subject) -> None:
    """The same ``random_state`` gives the same predictions whatever the global generators."""
    task = subject.tasks(1, seed=1)[0]
    runs: dict[str, Callable[[], NDArray[Any]]] = {
        "meta_fit and fit": lambda: subject.fit_predict(subject.meta_fitted(), task),
        "a plain fit": lambda: subject.fit_predict(subject.new(), task),
    }
    for name, run in runs.items():
        with _restored_generators():
            _seed_generators(1)
            first = run()
            _seed_generators(2)
            require_close(
                run(),
                first,
                f"{name} with the same random_state must give the same predictions, whatever the "
                "seeds of the global generators",
                rtol=0 if _on_cpu(subject) else 1e-5,
                atol=0 if _on_cpu(subject) else 1e-6,
            )


def _on_cpu(subject: Subject) -> bool:
    device = str(getattr(subject.prototype, "device", "cpu"))
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def check_process_is_left_as_it_was(subject: Subject) -> None:
    """No call changes a global generator, the number of threads or another setting of torch."""
    task = subject.tasks(1, seed=1)[0]
    estimator = subject.new()
    calls: dict[str, Callable[[], Any]] = {
        "meta_fit": lambda: estimator.meta_fit(subject.tasks()),
        "fit": lambda: estimator.fit(task.X_support, task.y_support),
        "predict": lambda: estimator.predict(task.X_query),
        "predict_tasks": lambda: estimator.predict_tasks(subject.tasks(2)),
        "partial_meta_fit": lambda: estimator.partial_meta_fit(subject.tasks()),
        "fit of a new estimator": lambda: subject.new().fit(task.X_support, task.y_support),
    }
    with _restored_generators():
        for name, call in calls.items():
            before = _process_settings()
            call()
            after = _process_settings()
            changed = [key for key in before if before[key] != after[key]]
            require(not changed, f"{name} must leave the process as it was, but changed {changed}.")


def _process_settings() -> dict[str, Any]:
    # repr, because the state of a generator is a tuple with an array in it.
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    settings: dict[str, Any] = {
        "the generator of random": random.getstate(),
        "the global generator of NumPy": (kind, np.asarray(keys).tobytes(), *rest),
        "the global generator of torch": torch.get_rng_state().numpy().tobytes(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()": (
            torch.are_deterministic_algorithms_enabled()
        ),
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "np.geterr()": np.geterr(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state = torch.cuda.get_rng_state().numpy().tobytes()
        settings["the global generator of torch on CUDA"] = state
    return settings


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def _restored_generators() -> Iterator[None]:
    """Put the global generators back after a check that had to seed them."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


def check_nan_in_a_task_names_the_task(subject: Subject) -> None:
    """NaN or infinity in a task is refused by an error that names the task."""
    for part, value in ((0, np.nan), (1, np.nan), (2, np.nan), (3, np.nan), (0, np.inf)):
        broken = [[part.astype(np.float64) for part in task] for task in subject.tasks(6)]
        broken[4][part].flat[1] = value
        name = ("X_support", "y_support", "X_query", "y_query")[part]
        require_error(
            lambda broken=broken: subject.new(max_iter=6).meta_fit(broken),  # type: ignore[misc]
            f"meta_fit must refuse {value} in {name} of task 4",
            "task 4",
            kinds=ValueError,
        )
        if part % 2 == 0:
            estimator = subject.meta_fitted(max_iter=1)
            require_error(
                lambda e=estimator, b=broken: e.predict_tasks(b),  # type: ignore[misc]
                f"predict_tasks must refuse {value} in {name} of task 4",
                "task 4",
                kinds=ValueError,
            )


def check_meta_fit_refuses_nonsense(subject: Subject) -> None:
    """``meta_fit`` on what is no sequence of usable tasks raises an error that says so."""
    X_support, y_support, X_query, y_query = subject.tasks(1)[0]
    wide = np.hstack([X_support, X_support])
    text = np.array(["a", "b"])[np.arange(len(y_query)) % 2]
    nonsense: dict[str, Any] = {
        "no tasks": [],
        "None": None,
        "a number": 3,
        "text": "tasks",
        "numbers for tasks": [1, 2],
        "a task of three parts": [(X_support, y_support, X_query)],
        "a data set in place of tasks": X_support,
        "fewer labels than rows": [(X_support, y_support[1:], X_query, y_query)],
        "an empty support set": [(X_support[:0], y_support[:0], X_query, y_query)],
        "an empty query set": [(X_support, y_support, X_query[:0], y_query[:0])],
        "query rows of another width": [(X_support, y_support, wide[: len(y_query)], y_query)],
        "tasks of different widths": [
            (X_support, y_support, X_query, y_query),
            (wide, y_support, wide[: len(y_query)], y_query),
        ],
        "text for features": [(X_support.astype(str) + "a", y_support, X_query, y_query)],
    }
    if subject.classifier:
        nonsense["query labels that the support lacks"] = [
            (X_support, y_support, X_query, y_query + 99)
        ]
        nonsense["one class in every task"] = [
            (X_support, np.zeros(len(y_support), int), X_query, np.zeros(len(y_query), int))
        ]
        nonsense["real numbers for classes"] = [
            (X_support, y_support + 0.5, X_query, y_query + 0.5)
        ]
    else:
        nonsense["text for targets"] = [(X_support, y_support, X_query, text)]
    if subject.tags.describes_classes:
        del nonsense["query rows of another width"]
    if subject.tags.any_features:
        del nonsense["tasks of different widths"]
    for name, tasks in nonsense.items():
        require_error(
            lambda tasks=tasks: subject.new().meta_fit(tasks),  # type: ignore[misc]
            f"meta_fit must refuse {name}",
        )
