"""The one place that imports private parts of scikit-learn."""

from numbers import Integral, Real

from sklearn.base import _clone_parametrized
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._repr_html.estimator import estimator_html_repr

__all__ = [
    "Integral",
    "Interval",
    "Real",
    "StrOptions",
    "_clone_parametrized",
    "estimator_html_repr",
]
