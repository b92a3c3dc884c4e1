"""Laws of estimators from sequences to sequences."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError

from fewshot_sklearn.utils._laws._require import (
    require,
    require_close,
    require_equal,
    require_error,
    require_finite,
)

Arrays = list[NDArray[Any]]

_BRIEF: dict[str, Any] = {
    "max_iter": 3,
    "max_time": None,
    "batch_size": 4,
    "early_stopping": False,
    "warm_start": False,
    "random_state": 0,
}


@dataclass(frozen=True)
class SequenceSubject:
    """Makes fresh estimators and sequences for the laws.

    Parameters
    ----------
    prototype : estimator
        Never fitted or changed.
    n_features : int, default=3
        Inputs a step.
    """

    prototype: Any
    n_features: int = 3

    def new(self, **parameters: Any) -> Any:
        """Return a new estimator with the prototype's parameters, trained for a moment only."""
        return clone(self.prototype).set_params(**_BRIEF | parameters)

    def data(self, n: int = 12, *, seed: int = 0, n_outputs: int = 2) -> tuple[Arrays, Arrays]:
        """Return sequences of unequal length whose targets are inputs of the step before."""
        rng = np.random.default_rng([seed, 20_26])
        X = [rng.normal(size=(rng.integers(2, 8), self.n_features)) for _ in range(n)]
        y = []
        for x in X:
            before = np.vstack([np.full((1, self.n_features), np.nan), x[:-1]])
            before = before[:, np.arange(n_outputs) % self.n_features]
            if is_classifier(self.prototype):
                before = np.where(np.isnan(before), np.nan, before > 0)
            y.append(before)
        return X, y

    def fitted(self, **parameters: Any) -> Any:
        """Return a new estimator, fitted for a moment."""
        return self.new(**parameters).fit(*self.data())

    def raw(self, estimator: Any, X: Any) -> Arrays:
        """Return the finest predictions that the estimator has: probabilities or means."""
        classifier = is_classifier(self.prototype)
        return estimator.predict_proba(X) if classifier else estimator.predict(X)

    def predictions(self, estimator: Any) -> NDArray[Any]:
        """Return the finest predictions for new sequences, one after the other."""
        return np.concatenate(self.raw(estimator, self.data(5, seed=1)[0]))


def check_predictions_have_the_shape_of_targets(subject: SequenceSubject) -> None:
    """Every sequence has a finite prediction of each output at each step."""
    estimator = subject.fitted()
    X, y = subject.data(5, seed=1)
    for method in ("predict", "predict_proba"):
        if not hasattr(estimator, method):
            continue
        got = getattr(estimator, method)(X)
        require(
            isinstance(got, list) and [a.shape for a in got] == [a.shape for a in y],
            f"{method} must return a list of arrays of the targets' shapes.",
        )
        require_finite(np.concatenate(got), f"{method} must be finite")
    require(np.isfinite(estimator.score(X, y)), "score must be finite, whatever targets are NaN.")


def check_one_dimensional_targets_work(subject: SequenceSubject) -> None:
    """Targets (length,) are learned as a single output, and predicted in that shape."""
    X, y = subject.data(n_outputs=1)
    flat = subject.new().fit(X, [targets[:, 0] for targets in y])
    column = subject.new().fit(X, y)
    got, expected = subject.raw(flat, X), subject.raw(column, X)
    require(all(a.ndim == 1 for a in got), "predictions of (length,) targets must be (length,).")
    require_equal(
        np.concatenate(got),
        np.concatenate(expected)[:, 0],
        "targets (length,) must be learned as targets (length, 1) are",
    )


def check_a_batch_equals_one_by_one(subject: SequenceSubject) -> None:
    """Sequences of unequal length together are predicted as each by itself."""
    estimator = subject.fitted(precision="float64")
    X, _ = subject.data(7, seed=1)
    alone = [subject.raw(estimator, [x])[0] for x in X]
    require_close(
        np.concatenate(subject.raw(estimator, X)),
        np.concatenate(alone),
        "sequences together must be predicted as each by itself",
    )


def check_outputs_ignore_later_inputs(subject: SequenceSubject) -> None:
    """What is said at a step depends on inputs up to that step only."""
    estimator = subject.fitted(precision="float64")
    x = subject.data(1, seed=1)[0][0]
    changed = np.vstack([x, np.full((1, subject.n_features), 9.0)])
    longer = subject.raw(estimator, [np.vstack([x, x])])[0]
    other = subject.raw(estimator, [changed])[0]
    law = "an output must not depend on inputs of later steps"
    require_close(longer[: len(x)], subject.raw(estimator, [x])[0], law)
    require_close(other[: len(x)], longer[: len(x)], law)


def check_outputs_depend_on_earlier_inputs(subject: SequenceSubject) -> None:
    """What was shown before makes a difference: there is a memory."""
    estimator = subject.fitted(precision="float64")
    x = np.ones((3, subject.n_features))
    other = x.copy()
    other[0] = -1
    got, expected = (subject.raw(estimator, [a])[0][-1] for a in (x, other))
    require(
        not np.allclose(got, expected, rtol=0, atol=1e-12),
        "an output must depend on inputs of earlier steps.",
    )


def check_targets_that_are_nan_do_not_count(subject: SequenceSubject) -> None:
    """Steps without targets at the end of a sequence change nothing in training."""
    X, y = subject.data()
    longer = [
        (np.vstack([x, np.ones((3, x.shape[1]))]), np.vstack([t, np.full((3, t.shape[1]), np.nan)]))
        for x, t in zip(X, y, strict=True)
    ]
    whole = subject.new(precision="float64").fit(X, y)
    padded = subject.new(precision="float64").fit(*map(list, zip(*longer, strict=True)))
    require_close(
        subject.predictions(padded),
        subject.predictions(whole),
        "steps after the last target must change nothing in training",
        rtol=1e-5,
    )


def check_every_parameter_gets_a_gradient(subject: SequenceSubject) -> None:
    """Every parameter of the network moves in training."""
    X, y = subject.data()
    before = subject.new(max_iter=1, learning_rate=1e-12, precision="float64").fit(X, y)
    after = clone(before).set_params(max_iter=6, learning_rate=1e-3).fit(X, y)
    pairs = zip(before._learner.named_parameters(), after._learner.named_parameters(), strict=True)
    still = [name for (name, old), (_, new) in pairs if torch.allclose(old, new, rtol=0, atol=1e-9)]
    require(not still, f"training must move every parameter, but it leaves {still}.")


def check_same_random_state_same_predictions(subject: SequenceSubject) -> None:
    """The same ``random_state`` gives the same predictions, another one gives others."""
    got = subject.predictions(subject.fitted())
    require_equal(
        subject.predictions(subject.fitted()), got, "the same random_state must repeat a fit"
    )
    require(
        not np.array_equal(subject.predictions(subject.fitted(random_state=1)), got),
        "another random_state must give another network.",
    )


def check_global_generators_are_left_alone(subject: SequenceSubject) -> None:
    """NumPy's and torch's global generators are as before."""
    _, keys, *_ = np.random.get_state()  # noqa: NPY002
    numpy_before, torch_before = np.array(keys), torch.get_rng_state()
    subject.predictions(subject.fitted(random_state=None))
    law = "fit and predict must leave the global generator alone"
    _, keys, *_ = np.random.get_state()  # noqa: NPY002
    require_equal(np.array(keys), numpy_before, f"{law} of NumPy")
    require_equal(torch.get_rng_state(), torch_before, f"{law} of torch")


def check_clone_and_pickle(subject: SequenceSubject) -> None:
    """``clone`` drops what was learned, ``pickle`` and ``deepcopy`` keep it."""
    estimator = subject.fitted()
    fresh = clone(estimator)
    require(
        repr(fresh.get_params()) == repr(estimator.get_params()),
        "clone must keep the parameters.",
    )
    X, _ = subject.data(2, seed=1)
    require_error(lambda: fresh.predict(X), "a clone must not be fitted", kinds=NotFittedError)
    expected = subject.predictions(estimator)
    for name, twin in {
        "pickle": pickle.loads(pickle.dumps(estimator)),
        "deepcopy": copy.deepcopy(estimator),
    }.items():
        require_equal(subject.predictions(twin), expected, f"{name} must keep the predictions")


def check_partial_fit_goes_on(subject: SequenceSubject) -> None:
    """``partial_fit`` begins where there is nothing and goes on where there is something."""
    X, y = subject.data()
    begun = subject.new().partial_fit(X, y)
    require_equal(
        subject.predictions(begun),
        subject.predictions(subject.fitted()),
        "partial_fit of a new estimator must be fit",
    )
    first = list(begun.loss_curve_)
    begun.partial_fit(X, y)
    require(
        begun.n_iter_ == 2 * _BRIEF["max_iter"] and begun.loss_curve_[: len(first)] == first,
        "partial_fit must add max_iter iterations to those before.",
    )
    warm = subject.fitted(warm_start=True).fit(X, y)
    require_equal(
        subject.predictions(warm),
        subject.predictions(begun),
        "fit with warm_start=True must be partial_fit",
    )
    require_equal(
        subject.predictions(begun.fit(X, y)),
        subject.predictions(subject.fitted()),
        "fit must begin anew",
    )


def check_training_lowers_the_loss(subject: SequenceSubject) -> None:
    """A moment of training beats the untrained network."""
    X, y = subject.data(32)
    curve = subject.new(max_iter=60, batch_size=16, learning_rate=1e-2).fit(X, y).loss_curve_
    require_finite(curve, "loss_curve_ must be finite")
    first, last = np.mean(curve[:3]), np.mean(curve[-6:])
    require(last < first, f"training must lower the loss, but it went from {first} to {last}.")


def check_early_stopping_keeps_the_best(subject: SequenceSubject) -> None:
    """``early_stopping`` holds sequences out and notes their scores."""
    estimator = subject.fitted(
        early_stopping=True, validation_interval=1, n_iter_no_change=1, tol=10.0, max_iter=9
    )
    scores = estimator.validation_scores_
    require(
        1 <= len(scores) <= 3 and len(scores) == estimator.n_iter_,
        f"training must stop when the score stands still, but it took {estimator.n_iter_} "
        "iterations.",
    )


def check_data_are_validated(subject: SequenceSubject) -> None:
    """What is wrong with sequences is said in a sentence that names the sequence."""
    X, y = subject.data(4)
    n = subject.n_features
    nan, wide = [*X[:-1], X[-1] * np.nan], [*X[:-1], np.ones((len(X[-1]), n + 1))]
    wrong: dict[str, tuple[Any, Any, str]] = {
        "no sequences": ([], [], "at least 1"),
        "one sequence alone": (X[0], y[0], "list"),
        "a number": (3, y, "list"),
        "unequal numbers of sequences": (X, y[:-1], "4 and 3"),
        "NaN in X": (nan, y, "X[3]"),
        "unequal widths": (wide, y, "X[3]"),
        "targets of another length": (X, [*y[:-1], y[-1][:-1]], "y[3]"),
        "targets of another width": (X, [*y[:-1], y[-1][:, :1]], "y[3]"),
        "infinite targets": (X, [*y[:-1], np.full_like(y[-1], np.inf)], "y[3]"),
        "no targets": (X, None, "y"),
        "targets that are all NaN": (X, [np.full_like(t, np.nan) for t in y], "NaN"),
    }
    if is_classifier(subject.prototype):
        wrong["targets that are no bits"] = (X, [*y[:-1], np.full_like(y[-1], 2)], "y[3]")
    for name, (inputs, targets, mention) in wrong.items():
        require_error(
            lambda inputs=inputs, targets=targets: subject.new().fit(inputs, targets),  # type: ignore[misc]
            f"fit must refuse {name}",
            mention,
        )
    estimator = subject.fitted()
    require_error(lambda: estimator.predict(nan), "predict must refuse NaN in X", "X[3]")
    require_error(
        lambda: estimator.predict([np.ones((2, n + 1))]),
        "predict must refuse another number of features than in fit",
        f"{n + 1} features",
    )
    require_error(
        lambda: estimator.partial_fit([np.ones((2, n + 1))], [np.ones((2, 2))]),
        "partial_fit must refuse another number of features than in fit",
        f"{n + 1} features",
    )
    require_error(
        lambda: subject.new().predict(X), "predict before fit must fail", kinds=NotFittedError
    )


def check_parameters_are_validated(subject: SequenceSubject) -> None:
    """A parameter out of range is refused by ``fit``, not by the constructor."""
    X, y = subject.data(4)
    for name, value in {
        "max_iter": 0,
        "batch_size": 0,
        "learning_rate": -1.0,
        "optimizer": "newton",
        "clip_norm": 0,
        "precision": "int8",
        "random_state": "today",
    }.items():
        estimator = subject.new(**{name: value})
        require_error(
            lambda estimator=estimator: estimator.fit(X, y),  # type: ignore[misc]
            f"fit must refuse {name}={value!r}",
            name,
        )


def check_another_network_cannot_go_on(subject: SequenceSubject) -> None:
    """``partial_fit`` after a parameter of the network was changed is refused."""
    X, y = subject.data(4)
    names = {"n_hidden", "n_slots"} & subject.prototype.get_params().keys()
    for name in sorted(names):
        estimator = subject.fitted()
        estimator.set_params(**{name: getattr(estimator, name) + 1})
        require_error(
            lambda estimator=estimator: estimator.partial_fit(X, y),  # type: ignore[misc]
            f"partial_fit must refuse another {name} than in fit",
            name,
        )
