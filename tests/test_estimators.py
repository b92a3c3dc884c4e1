"""Every estimator of the package: scikit-learn's checks and the laws of few-shot learning."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot_sklearn.utils.discovery import all_estimators
from fewshot_sklearn.utils.estimator_checks import parametrize_with_fewshot_checks




@parametrize_with_checks([cls(max_iter=30) for _, cls in all_estimators()])
def test_every_estimator_passes_the_checks_of_sklearn(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("error")
@parametrize_with_fewshot_checks([cls() for _, cls in all_estimators()])
def test_every_estimator_keeps_the_laws(estimator, check):
    check(estimator)
