"""The one place that imports private parts of scikit-learn."""

from numbers import Integral, Real

from sklearn.base import _clone_parametrized
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils._plotting import (
    _interval_max_min_ratio,
    _validate_score_name,
    _validate_style_kwargs,
)
from sklearn.utils._repr_html.estimator import estimator_html_repr

__all__ = [
    "HasMethods",
    "Integral",
    "Interval",
    "Real",
    "StrOptions",
    "_clone_parametrized",
    "_interval_max_min_ratio",
    "_validate_score_name",
    "_validate_style_kwargs",
    "estimator_html_repr",
]
