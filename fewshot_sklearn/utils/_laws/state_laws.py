"""Laws of an estimator's states: new, meta-fitted, fitted, and what clone and pickle keep."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fewshot_sklearn.utils._laws._require import (
    require,
    require_close,
    require_equal,
    require_error,
    require_finite,
)
from fewshot_sklearn.utils._laws._subject import Subject
from fewshot_sklearn.utils._tags import FewShotTags

# Parameters of every estimator on which what meta_fit learned depends, with two values.
_META_PARAMETERS: dict[str, tuple[Any, Any]] = {
    "max_iter": (7, 8),
    "meta_batch_size": (3, 4),
    "meta_learning_rate": (0.0123, 0.0321),
    "clip_norm": (0.5, None),
    "precision": ("float64", "float32"),
}
_ADAPTATION_PARAMETERS: dict[str, Any] = {"random_state": 5, "verbose": 0, "warm_start": True}


def check_tags_are_few_shot_tags(subject: Subject) -> None:
    """``__fewshot_tags__`` returns the promises that the other checks go by."""
    tags = subject.prototype.__fewshot_tags__()
    require(
        isinstance(tags, FewShotTags),
        f"__fewshot_tags__ must return a FewShotTags, got {type(tags).__name__}.",
    )


def check_prediction_needs_fit(subject: Subject) -> None:
    """A new estimator and a meta-fitted one refuse to predict before ``fit``."""
    X = subject.tasks(1)[0].X_query
    states = {"new": subject.new(), "meta-fitted": subject.meta_fitted(max_iter=1)}
    for state, estimator in states.items():
        for method in subject.methods:
            require_error(
                lambda e=estimator, m=method: getattr(e, m)(X),  # type: ignore[misc]
                f"{method} of a {state} estimator must refuse to predict",
                "fit",
                kinds=NotFittedError,
            )
    require_error(
        lambda: subject.new().predict_tasks(subject.tasks(1)),
        "predict_tasks of a new estimator must refuse to predict",
        "meta_fit",
        kinds=NotFittedError,
    )


def check_fit_never_changes_what_meta_fit_learned(subject: Subject) -> None:
    """Weights stay bit for bit the same over many fits, and the last fit alone counts."""
    for shared in subject.kinds:
        estimator = subject.meta_fitted(shared=shared)
        before = copy.deepcopy(estimator._meta.learner.state_dict())
        curve = list(estimator.meta_loss_curve_)
        tasks = subject.tasks(4, seed=1, shared=shared)
        first = subject.fit_predict(estimator, tasks[0])
        for task in tasks[1:]:
            subject.fit_predict(estimator, task)
        require_equal(
            subject.fit_predict(estimator, tasks[0]),
            first,
            "fit on a task must give the same predictions whatever tasks were fitted before",
        )
        for name, value in estimator._meta.learner.state_dict().items():
            require_equal(value, before[name], f"fit must not change the weights {name}")
        require(
            list(estimator.meta_loss_curve_) == curve,
            "fit must not change meta_loss_curve_ of a meta-fitted estimator, but it did.",
        )


def check_predict_tasks_equals_loop_of_fits(subject: Subject) -> None:
    """``predict_tasks`` gives what ``fit`` and ``predict`` give task by task."""
    for shared in subject.kinds:
        # In float64, so that rounding cannot move a row across a decision.
        estimator = subject.meta_fitted(shared=shared, precision="float64")
        tasks: list[Any] = []
        for seed, shots in enumerate(((3, 3, 3), (1, 4, 2), (2, 1), (5, 5, 5), (2, 3))):
            tasks += subject.tasks(2, seed=seed, n_shot=shots, n_query=1 + seed, shared=shared)
        for method in subject.methods:
            together = estimator.predict_tasks(tasks, method=method)
            require(
                len(together) == len(tasks),
                f"predict_tasks must return one array a task, got {len(together)}.",
            )
            for i, task in enumerate(tasks):
                alone = getattr(estimator.fit(task[0], task[1]), method)(task[2])
                law = f"{method} of task {i} in predict_tasks must equal fit and {method}"
                if method == "predict" and subject.classifier:
                    require_equal(together[i], alone, law)
                else:
                    require_close(together[i], alone, law)


def check_clone_keeps_what_meta_fit_learned(subject: Subject) -> None:
    """A clone is meta-fitted, not fitted, predicts the same, and shares the weights."""
    estimator = subject.meta_fitted()
    task = subject.tasks(1, seed=1)[0]
    expected = subject.fit_predict(estimator, task)
    copied = clone(estimator)
    require_error(
        lambda: copied.predict(task.X_query),
        "a clone must not be fitted",
        "fit",
        kinds=NotFittedError,
    )
    require_equal(
        subject.fit_predict(copied, task),
        expected,
        "a clone must keep what meta_fit learned and give the same predictions after fit",
    )
    require(
        copied.n_meta_iter_ == estimator.n_meta_iter_,
        f"a clone must keep n_meta_iter_={estimator.n_meta_iter_}, got {copied.n_meta_iter_}.",
    )
    theirs = dict(copied._meta.learner.named_parameters())
    for name, p in estimator._meta.learner.named_parameters():
        require(
            theirs[name].data_ptr() == p.data_ptr(),
            f"a clone must share the weights, but {name} was copied.",
        )
    require_equal(
        subject.raw(estimator, task.X_query),
        expected,
        "fit of a clone must not change the original",
    )


def check_clone_drops_what_plain_fit_learned(subject: Subject) -> None:
    """What a plain ``fit`` meta-learned belongs to that fit: clone drops it, fit repeats it."""
    X, y, X_query, _ = subject.tasks(1, n_shot=8, shared=True)[0]
    estimator = subject.new().fit(X, y)
    expected = subject.raw(estimator, X_query)
    copied = clone(estimator)
    require(
        not hasattr(copied, "n_meta_iter_"),
        "a clone of a plainly fitted estimator must be new, but it has n_meta_iter_.",
    )
    require_equal(
        subject.raw(estimator.fit(X, y), X_query),
        expected,
        "a plain fit must repeat itself when it is called again",
    )
    require_equal(
        subject.raw(copied.fit(X, y), X_query),
        expected,
        "a plain fit of a clone must give the same predictions",
    )


def check_pickle_keeps_everything(subject: Subject) -> None:
    """A pickled estimator predicts the same, as it is and after another fit."""
    estimator = subject.meta_fitted()
    tasks = subject.tasks(2, seed=1)
    loaded = pickle.loads(pickle.dumps(estimator))
    expected = [subject.fit_predict(estimator, task) for task in tasks]
    got = [subject.fit_predict(loaded, task) for task in tasks]
    require_equal(got, expected, "a pickled meta-fitted estimator must give the same predictions")
    loaded = pickle.loads(pickle.dumps(estimator))
    require_equal(
        subject.raw(loaded, tasks[1].X_query),
        expected[1],
        "a pickled fitted estimator must give the same predictions",
    )
    require(
        loaded.n_meta_iter_ == estimator.n_meta_iter_
        and list(loaded.meta_loss_curve_) == list(estimator.meta_loss_curve_),
        "pickle must keep n_meta_iter_ and meta_loss_curve_, but it does not.",
    )
    more = [e.partial_meta_fit(subject.tasks()) for e in (loaded, estimator)]
    require_equal(
        subject.fit_predict(more[0], tasks[0]),
        subject.fit_predict(more[1], tasks[0]),
        "partial_meta_fit must continue a pickled estimator as it continues the original",
    )


def check_changed_meta_parameter_is_refused(subject: Subject) -> None:
    """``fit`` refuses a meta parameter that was changed after ``meta_fit``, and names it."""
    estimator = subject.meta_fitted()
    X, y, X_query, _ = subject.tasks(1, seed=1)[0]
    expected = subject.raw(estimator.fit(X, y), X_query)
    for name, (value, other) in _META_PARAMETERS.items():
        value = other if getattr(estimator, name) == value else value
        changed = clone(estimator).set_params(**{name: value})
        require_error(
            lambda changed=changed: changed.fit(X, y),  # type: ignore[misc]
            f"fit must refuse {name} changed after meta_fit",
            name,
            "meta_fit",
            kinds=ValueError,
        )
        back = changed.set_params(**{name: getattr(estimator, name)})
        require_equal(
            subject.raw(back.fit(X, y), X_query),
            expected,
            f"fit must work again once {name} is set back",
        )
    for name, value in _ADAPTATION_PARAMETERS.items():
        changed = clone(estimator).set_params(**{name: value})
        require_finite(
            subject.raw(changed.fit(X, y), X_query),
            f"fit must work after the adaptation parameter {name} was changed",
        )


def check_own_parameters_are_refused_or_used(subject: Subject) -> None:
    """Each of the method's own parameters may change after ``meta_fit`` or is refused by name."""
    estimator = subject.meta_fitted()
    X, y, X_query, _ = subject.tasks(1, seed=1)[0]
    shared = {f.name for base in type(estimator).__mro__ if _is_shell(base) for f in fields(base)}
    for name in sorted(set(estimator.get_params(deep=False)) - shared):
        value = getattr(estimator, name)
        if not isinstance(value, (bool, int, float)):
            continue
        other = not value if isinstance(value, bool) else _another(value)
        changed = clone(estimator).set_params(**{name: other})
        try:
            changed.fit(X, y)
        except ValueError as error:
            require(
                name in str(error),
                f"fit after {name} was changed must work or raise an error that names {name}, "
                f"but it says {str(error)!r}.",
            )
            continue
        require_finite(
            subject.raw(changed, X_query), f"fit must work after {name} was changed to {other!r}"
        )
        expected = _meta_fitted_with(subject, estimator, name, other).fit(X, y)
        require_close(
            subject.raw(changed, X_query),
            subject.raw(expected, X_query),
            f"{name} may change after meta_fit, so fit must use its new value",
            rtol=1e-4,
            atol=1e-5,
        )


def _meta_fitted_with(subject: Subject, estimator: Any, name: str, value: Any) -> Any:
    """Return what ``estimator`` would be had it learned the same weights with another value."""
    other = subject.meta_fitted(**{name: value})
    before, after = _initial_weights(estimator), _initial_weights(other)
    weights = other._meta.learner.state_dict()
    for key, learned in estimator._meta.learner.state_dict().items():
        # What starts at the parameter's value is no weight, but the parameter itself.
        if key in weights and torch.equal(before[key], after[key]):
            weights[key] = learned
    other._meta.learner.load_state_dict(weights)
    return other


def _initial_weights(estimator: Any) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = estimator._make_learner(estimator._meta.spec)
    weights: dict[str, torch.Tensor] = learner.state_dict()
    return weights


def _another(value: float) -> float:
    return value + 1 if isinstance(value, int) else 0.9 * value + 0.01


def _is_shell(cls: type) -> bool:
    return cls.__module__ == "fewshot_sklearn.base" and hasattr(cls, "__dataclass_fields__")


def check_adaptation_never_ends_in_nan(subject: Subject) -> None:
    """Rows on any scale give finite predictions, or an error that says what went wrong."""
    estimator = subject.meta_fitted()
    X, y, X_query, _ = subject.tasks(1, seed=1)[0]
    for scale in (1e-12, 1e4, 1e12, 1e25):
        law = f"fit on rows that are {scale:g} times those of meta_fit"
        try:
            got = subject.raw(estimator.fit(scale * X, y), scale * X_query)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            require(
                len(str(error).split()) >= 5,
                f"{law} must work or raise a sentence, but the error says {str(error)!r}.",
            )
        else:
            require_finite(got, f"{law} must give finite predictions or raise an error")


def check_other_features_are_refused(subject: Subject) -> None:
    """Rows of another width are refused by ``predict``; by ``fit``, unless tasks may differ."""
    estimator = subject.meta_fitted(max_iter=1)
    X, y, X_query, _ = subject.tasks(1, seed=1)[0]
    require(
        estimator.n_features_in_ == subject.n_features,
        f"meta_fit must set n_features_in_={subject.n_features}, got {estimator.n_features_in_}.",
    )
    narrow = X[:, :-1]
    if subject.tags.any_features:
        require_finite(
            subject.raw(estimator.fit(narrow, y), X_query[:, :-1]),
            "fit must take rows that have other features than in meta_fit",
        )
    else:
        require_error(
            lambda: estimator.fit(narrow, y),
            "fit must refuse rows that have other features than in meta_fit",
            str(subject.n_features),
            kinds=ValueError,
        )
    estimator.fit(X, y)
    require_error(
        lambda: estimator.predict(np.asarray(X_query)[:, :-1]),
        "predict must refuse rows that have other features than in fit",
        str(subject.n_features),
        kinds=ValueError,
    )
