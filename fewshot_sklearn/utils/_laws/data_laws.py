"""Laws of the data: any labels, any number of shots and classes, names, sparse rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils import get_tags

from fewshot_sklearn.utils._laws._require import (
    require,
    require_close,
    require_equal,
    require_error,
    require_finite,
)
from fewshot_sklearn.utils._laws._subject import N_WAY, Subject


def require_valid(subject: Subject, estimator: Any, X: Any, y: Any, law: str) -> None:
    """Require predictions of the right shape, finite, and in agreement with each other."""
    predicted = estimator.predict(X)
    require(
        predicted.shape == (X.shape[0],),
        f"{law}: predict must return one value a row, got the shape {predicted.shape}.",
    )
    if not subject.classifier:
        require_finite(predicted, f"{law}: predictions must be finite")
        return
    classes = np.unique(y)
    require_equal(estimator.classes_, classes, f"{law}: classes_ must be the support's labels")
    p = estimator.predict_proba(X)
    require(
        p.shape == (X.shape[0], len(classes)),
        f"{law}: predict_proba must have a row a query and a column a class, got {p.shape}.",
    )
    require_finite(p, f"{law}: probabilities must be finite")
    require_close(p.sum(axis=1), np.ones(len(p)), f"{law}: probabilities must sum to one")
    require_equal(
        predicted, classes[p.argmax(axis=1)], f"{law}: predict must be the most probable class"
    )


def check_any_number_of_shots_works(subject: Subject) -> None:
    """``fit`` takes fewer, more and unequal shots than meta-training had."""
    for shared in subject.kinds:
        estimator = subject.meta_fitted(shared=shared)
        for shots in ((1, 1, 1), (9, 9, 9), (1, 6, 2)):
            X, y, X_query, _ = subject.tasks(1, seed=1, n_shot=shots, shared=shared)[0]
            law = f"fit with {shots} rows of the classes after meta-training with 3 each"
            estimator.fit(X, y)
            require_valid(subject, estimator, X_query, y, law)
            require_valid(subject, estimator, X_query[:1], y, law)


def check_meta_fit_takes_unequal_tasks(subject: Subject) -> None:
    """``meta_fit`` takes tasks with different numbers of rows and classes."""
    for shared in subject.kinds:
        tasks: list[Any] = []
        for seed, shots in enumerate(((3, 3, 3), (1, 4, 2), (2, 2), (5, 1))):
            tasks += subject.tasks(2, seed=seed, n_shot=shots, n_query=1 + seed, shared=shared)
        estimator = subject.new().meta_fit(tasks)
        require_finite(
            estimator.meta_loss_curve_,
            "meta_fit must take tasks of unequal size; meta_loss_curve_ must be finite",
        )
        X, y, X_query, _ = tasks[0]
        require_valid(
            subject, estimator.fit(X, y), X_query, y, "fit after meta-training on unequal tasks"
        )


def check_any_number_of_classes_works(subject: Subject) -> None:
    """``fit`` takes any number of classes, or says that the method fixes it."""
    if not subject.classifier:
        return
    for shared in subject.kinds:
        estimator = subject.meta_fitted(shared=shared)
        most = estimator._meta.learner.n_outputs
        for n_way in (2, 5):
            X, y, X_query, _ = subject.tasks(1, seed=1, n_way=n_way, shared=shared)[0]
            law = f"fit on {n_way} classes after meta-training with {N_WAY}"
            if most is not None and n_way > most:
                require_error(
                    lambda e=estimator, X=X, y=y: e.fit(X, y),  # type: ignore[misc]
                    f"a learner of n_outputs={most} must refuse {n_way} classes",
                    kinds=ValueError,
                )
                continue
            try:
                require_valid(subject, estimator.fit(X, y), X_query, y, law)
            except (IndexError, RuntimeError, ValueError) as error:
                raise AssertionError(
                    f"{law} must work, because the learner's n_outputs is {most}, but raised "
                    f"{type(error).__name__}: {error}"
                ) from error


def check_support_of_one_class(subject: Subject) -> None:
    """A support set of one class, or one row, is learned or refused with a sentence."""
    for shared in subject.kinds:
        estimator = subject.meta_fitted(shared=shared)
        X, y, X_query, _ = subject.tasks(1, seed=1, shared=shared)[0]
        one = y == y[0]
        supports = {"one row": (X[:1], y[:1])}
        if subject.classifier:
            supports["one class"] = (X[one], y[one])
        for name, (rows, labels) in supports.items():
            law = f"fit on a support set of {name}"
            try:
                estimator.fit(rows, labels)
            except ValueError as error:
                require(
                    len(str(error).split()) >= 5,
                    f"{law} must work or raise a sentence, but the error says {str(error)!r}.",
                )
            else:
                require_valid(subject, estimator, X_query, labels, law)


_LABELS: dict[str, NDArray[Any]] = {
    "strings": np.array(["ant", "bee", "cat"]),
    "objects": np.array(["ant", "bee", "cat"], dtype=object),
    "integers": np.array([-5, 7, 300]),
    "integers held as floats": np.array([0.0, 1.0, 2.0]),
    "booleans": np.array([False, True]),
}


def check_any_labels_work(subject: Subject) -> None:
    """Strings, integers and booleans are learned alike; the labels' values mean nothing."""
    if not subject.classifier:
        return
    for shared in subject.kinds:
        of_way: dict[int, NDArray[Any]] = {}
        for name, labels in _LABELS.items():
            n_way = len(labels)
            sizes: dict[str, Any] = {"n_way": n_way, "shared": shared}
            task = subject.tasks(1, seed=1, **sizes)[0]
            if n_way not in of_way:
                plain = subject.new(max_iter=1).meta_fit(subject.tasks(**sizes))
                of_way[n_way] = subject.fit_predict(plain, task)

            def rename(part: Any, is_y: bool, labels: NDArray[Any] = labels) -> Any:
                return labels[part] if is_y else part

            estimator = subject.new(max_iter=1).meta_fit(subject.tasks(**sizes, change=rename))
            law = f"labels that are {name}"
            estimator.fit(task.X_support, labels[task.y_support])
            require_equal(
                estimator.predict_proba(task.X_query),
                of_way[n_way],
                f"{law} must give the probabilities that 0, 1, ... give",
            )
            require_valid(subject, estimator, task.X_query, labels[task.y_support], law)
            if not shared:
                require_equal(
                    subject.fit_predict(estimator, task),
                    of_way[n_way],
                    f"after meta-training on {law}, arbitrary labels, fit must take others",
                )


def _named(order: list[int] | slice = slice(None), prefix: str = "feature") -> Callable:
    """Return what turns rows into a DataFrame, with its columns in some order."""

    def change(part: Any, is_y: bool = False) -> Any:
        if is_y:
            return part
        names = [f"{prefix} {j}" for j in range(part.shape[1])]
        frame = pd.DataFrame(part, columns=names)
        return frame if isinstance(order, slice) else frame.iloc[:, order]

    return change


def check_feature_names_are_checked(subject: Subject) -> None:
    """DataFrames work as arrays do, and other or reordered columns are refused."""
    task = subject.tasks(1, seed=1)[0]
    X, y, X_query, _ = task
    expected = subject.fit_predict(subject.meta_fitted(), task)
    named, reverse = _named(), _named([*range(subject.n_features)][::-1])
    other = _named(prefix="other")
    estimator = subject.new().meta_fit(subject.tasks(change=named))
    require_equal(
        estimator.feature_names_in_,
        named(X).columns.to_numpy(),
        "meta_fit on DataFrames must set feature_names_in_ to their columns",
    )
    require_equal(
        subject.raw(estimator.fit(named(X), y), named(X_query)),
        expected,
        "DataFrames must give the predictions that arrays give",
    )
    for name, change in (("reordered", reverse), ("other", other)):
        if subject.tags.any_features:
            estimator.fit(change(X), y)
            continue
        require_error(
            lambda change=change: estimator.fit(change(X), y),  # type: ignore[misc]
            f"fit must refuse DataFrames with {name} columns than in meta_fit",
            "feature names",
            kinds=ValueError,
        )
    estimator.fit(named(X), y)
    require_error(
        lambda: estimator.predict(reverse(X_query)),
        "predict must refuse DataFrames with reordered columns",
        "feature names",
        kinds=ValueError,
    )
    if subject.n_features > 1 and not subject.tags.any_features:
        mixed = list(subject.tasks(2, change=named)) + list(subject.tasks(2, change=reverse))
        require_error(
            lambda: subject.new().meta_fit(mixed),
            "meta_fit must refuse a task whose columns are reordered",
            "feature names",
            kinds=ValueError,
        )


def check_sparse_rows_equal_dense_rows(subject: Subject) -> None:
    """Sparse rows give what dense rows give, where the estimator takes them."""
    if not get_tags(subject.prototype).input_tags.sparse:
        return
    task = subject.tasks(1, seed=1)[0]
    expected = subject.fit_predict(subject.meta_fitted(), task)
    for container in (sp.csr_array, sp.csr_matrix, sp.csc_array):

        def change(part: Any, is_y: bool, container: Any = container) -> Any:
            return part if is_y else container(part)

        estimator = subject.new().meta_fit(subject.tasks(change=change))
        got = subject.raw(
            estimator.fit(container(task.X_support), task.y_support), container(task.X_query)
        )
        require_close(
            got, expected, f"{container.__name__} rows must give the predictions of dense rows"
        )
