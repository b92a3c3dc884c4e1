"""Find every estimator of the package."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

_PACKAGE = __name__.partition(".")[0]
_FAMILIES = ("baselines", "gradient_based", "memory_based", "metric_based")
KINDS = ("few_shot", "sequence", "story")
_MIXINS: dict[str, type] = {"classifier": ClassifierMixin, "regressor": RegressorMixin}


def all_estimators(
    type_filter: str | None = None, *, kind: str = "few_shot"
) -> list[tuple[str, type]]:
    """Return every estimator of the package.

    Parameters
    ----------
    type_filter : {"classifier", "regressor"} or None, default=None
        Which type of estimator to return; None returns all.
    kind : {"few_shot", "sequence", "story"}, default="few_shot"
        What they are fitted to: the support set of a task, sequences, or stories with questions.

    Returns
    -------
    estimators : list of (str, type)
        Name and class, sorted by name.

    Raises
    ------
    ValueError
        When ``type_filter`` or ``kind`` is none of these.

    Examples
    --------
    >>> from fewshot_sklearn.utils.discovery import all_estimators
    >>> "ProtoNetClassifier" in dict(all_estimators("classifier"))
    True
    """
    if type_filter is not None and type_filter not in _MIXINS:
        raise ValueError(
            f"type_filter must be 'classifier', 'regressor' or None, got {type_filter!r}."
        )
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    mixin = BaseEstimator if type_filter is None else _MIXINS[type_filter]
    found = {
        cls.__name__: cls
        for cls in _family_classes()
        if issubclass(cls, mixin) and getattr(cls, "_kind", KINDS[0]) == kind
    }
    return sorted(found.items())


def _family_classes() -> Iterator[type]:
    """Yield the public concrete estimators that the modules of the families define."""
    for family in pkgutil.iter_modules(import_module(_PACKAGE).__path__):
        if family.name not in _FAMILIES:
            continue
        package = import_module(f"{_PACKAGE}.{family.name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, cls in inspect.getmembers(import_module(module.name), inspect.isclass):
                public = not name.startswith("_") and cls.__module__ == module.name
                if public and issubclass(cls, BaseEstimator) and not _is_abstract(cls):
                    yield cls


def _is_abstract(cls: type) -> bool:
    members = (inspect.getattr_static(cls, name, None) for name in dir(cls))
    return any(getattr(member, "__isabstractmethod__", False) for member in members)
