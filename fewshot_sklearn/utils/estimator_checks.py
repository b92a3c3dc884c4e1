"""The battery of laws that every few-shot estimator is held to, for any package to run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sklearn import config_context
from sklearn.base import is_classifier, is_regressor

from fewshot_sklearn.utils._laws import (
    data_laws,
    incremental_laws,
    learner_laws,
    sequence_laws,
    state_laws,
    training_laws,
)
from fewshot_sklearn.utils._laws._subject import Subject

__all__ = [
    "FewShotCheck",
    "check_fewshot_estimator",
    "check_sequence_estimator",
    "fewshot_checks",
    "parametrize_with_fewshot_checks",
    "parametrize_with_sequence_checks",
    "sequence_checks",
]


@dataclass(frozen=True)
class FewShotCheck:
    """One law as a function of an estimator.

    Parameters
    ----------
    law : callable
        Raises an AssertionError that says what must hold and by how much it does not.
    n_features : int, default=8
        Width of the rows that it generates.
    subject : callable, default=Subject
        Makes what the law is about of the estimator and the width.

    Examples
    --------
    >>> from fewshot_sklearn import ProtoNetClassifier
    >>> from fewshot_sklearn.utils.estimator_checks import fewshot_checks
    >>> checks = {check.__name__: check for check in fewshot_checks()}
    >>> checks["check_support_order_does_not_matter"](ProtoNetClassifier())
    """

    law: Callable[[Any], None]
    n_features: int = 8
    subject: Callable[[Any, int], Any] = Subject

    @property
    def __name__(self) -> str:
        return self.law.__name__

    def __call__(self, estimator: Any) -> None:
        """Hold an estimator, which stays as it is, to the law."""
        self.law(self.subject(estimator, self.n_features))


def fewshot_checks(*, n_features: int = 8) -> list[FewShotCheck]:
    """Return every check; each is called with an estimator.

    Parameters
    ----------
    n_features : int, default=8
        Width of the generated rows, at least 2. A backbone for images needs as many as an
        image has pixels.

    Returns
    -------
    checks : list of FewShotCheck
    """
    modules = (learner_laws, incremental_laws, training_laws, state_laws, data_laws)
    return [FewShotCheck(law, n_features) for module in modules for law in _laws(module)]


def sequence_checks(*, n_features: int = 3) -> list[FewShotCheck]:
    """Return every check of estimators from sequences to sequences.

    Parameters
    ----------
    n_features : int, default=3
        Inputs a step of the generated sequences.

    Returns
    -------
    checks : list of FewShotCheck
    """
    return [
        FewShotCheck(law, n_features, sequence_laws.SequenceSubject) for law in _laws(sequence_laws)
    ]


def _laws(module: Any) -> list[Callable[[Any], None]]:
    """Return the laws that a module has."""
    members = inspect.getmembers(module, inspect.isfunction)
    return [law for name, law in members if name.startswith("check_")]


def check_fewshot_estimator(estimator: Any, *, n_features: int = 8) -> None:
    """Hold an estimator to every law and report all that it breaks.

    Parameters
    ----------
    estimator : estimator
        An instance. Its copies are trained for a few iterations; it stays as it is.
    n_features : int, default=8
        Width of the generated rows.

    Raises
    ------
    AssertionError
        When a law is broken; the message lists all that are.

    See Also
    --------
    parametrize_with_fewshot_checks : One test for each law.

    Examples
    --------
    >>> from fewshot_sklearn import ProtoNetClassifier
    >>> from fewshot_sklearn.utils.estimator_checks import check_fewshot_estimator
    >>> check_fewshot_estimator(ProtoNetClassifier())  # doctest: +SKIP
    """
    _require_instance(estimator)
    _hold(estimator, fewshot_checks(n_features=n_features))


def check_sequence_estimator(estimator: Any, *, n_features: int = 3) -> None:
    """Hold an estimator from sequences to sequences to every law and report all that it breaks.

    Parameters
    ----------
    estimator : estimator
        An instance, such as ``NTMSequenceClassifier()``. It stays as it is.
    n_features : int, default=3
        Inputs a step of the generated sequences.

    Raises
    ------
    AssertionError
        When a law is broken; the message lists all that are.

    See Also
    --------
    parametrize_with_sequence_checks : One test for each law.

    Examples
    --------
    >>> from fewshot_sklearn import NTMSequenceClassifier
    >>> from fewshot_sklearn.utils.estimator_checks import check_sequence_estimator
    >>> check_sequence_estimator(NTMSequenceClassifier())  # doctest: +SKIP
    """
    _require_sequence_instance(estimator)
    _hold(estimator, sequence_checks(n_features=n_features))


def _hold(estimator: Any, checks: list[FewShotCheck]) -> None:
    """Hold an estimator to checks and report all that it breaks."""
    failures: list[tuple[str, Exception]] = []
    for check in checks:
        try:
            check(estimator)
        except Exception as error:
            failures.append((check.__name__, error))
    if failures:
        lines = [
            f"- {name}: {'' if isinstance(e, AssertionError) else type(e).__name__ + ': '}{e}"
            for name, e in failures
        ]
        raise AssertionError(
            f"{type(estimator).__name__} breaks {len(failures)} of {len(checks)} laws:\n"
            + "\n".join(lines)
        ) from failures[0][1]


def parametrize_with_fewshot_checks(estimators: Iterable[Any], *, n_features: int = 8) -> Any:
    """Make a pytest decorator that gives a test every pair of estimator and check.

    Parameters
    ----------
    estimators : iterable of estimators
        Instances.
    n_features : int, default=8
        Width of the generated rows.

    Returns
    -------
    decorator : pytest.mark.parametrize
        Of the arguments ``estimator`` and ``check``.

    See Also
    --------
    check_fewshot_estimator : All laws in one call, without pytest.

    Examples
    --------
    >>> from fewshot_sklearn import ProtoNetClassifier
    >>> from fewshot_sklearn.utils.estimator_checks import parametrize_with_fewshot_checks
    >>> @parametrize_with_fewshot_checks([ProtoNetClassifier()])
    ... def test_protonet_keeps_the_laws(estimator, check):
    ...     check(estimator)
    """
    estimators = list(estimators)
    for estimator in estimators:
        _require_instance(estimator)
    return _parametrize(estimators, fewshot_checks(n_features=n_features))


def parametrize_with_sequence_checks(estimators: Iterable[Any], *, n_features: int = 3) -> Any:
    """Make a pytest decorator that gives a test every pair of estimator and check of sequences.

    Parameters
    ----------
    estimators : iterable of estimators
        Instances.
    n_features : int, default=3
        Inputs a step of the generated sequences.

    Returns
    -------
    decorator : pytest.mark.parametrize
        Of the arguments ``estimator`` and ``check``.

    See Also
    --------
    check_sequence_estimator : All laws in one call, without pytest.

    Examples
    --------
    >>> from fewshot_sklearn import NTMSequenceClassifier
    >>> from fewshot_sklearn.utils.estimator_checks import parametrize_with_sequence_checks
    >>> @parametrize_with_sequence_checks([NTMSequenceClassifier()])
    ... def test_the_machine_keeps_the_laws(estimator, check):
    ...     check(estimator)
    """
    estimators = list(estimators)
    for estimator in estimators:
        _require_sequence_instance(estimator)
    return _parametrize(estimators, sequence_checks(n_features=n_features))


def _parametrize(estimators: list[Any], checks: list[FewShotCheck]) -> Any:
    """Make a pytest decorator of every pair of estimator and check."""
    import pytest

    pairs = []
    for estimator in estimators:
        pairs += [pytest.param(estimator, check, id=_id(estimator, check)) for check in checks]
    return pytest.mark.parametrize(("estimator", "check"), pairs)


def _id(estimator: Any, check: FewShotCheck) -> str:
    with config_context(print_changed_only=True):
        shown = re.sub(r"\s", "", str(estimator))
    return f"{shown}-{check.__name__}"


def _require_instance(estimator: Any) -> None:
    has_tags = hasattr(estimator, "__fewshot_tags__") and not isinstance(estimator, type)
    if not (has_tags and (is_classifier(estimator) or is_regressor(estimator))):
        got = f"the class {estimator.__name__}" if isinstance(estimator, type) else repr(estimator)
        raise TypeError(
            "the checks take instances of few-shot classifiers and regressors, such as "
            f"ProtoNetClassifier(), got {got}."
        )


def _require_sequence_instance(estimator: Any) -> None:
    if isinstance(estimator, type) or not hasattr(estimator, "partial_fit"):
        raise TypeError(
            "the checks take instances of estimators from sequences to sequences, such as "
            f"NTMSequenceClassifier(), got {estimator!r}."
        )
