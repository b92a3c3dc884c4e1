"""Every estimator of the package: scikit-learn's checks and the laws of few-shot learning."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot_sklearn.utils.discovery import all_estimators
from fewshot_sklearn.utils.estimator_checks import parametrize_with_fewshot_checks

# Default configurations but for the length of training, which must separate three blobs.
MAX_ITER = {"MANNClassifier": 80}
SHORT = [cls(max_iter=MAX_ITER.get(name, 30)) for name, cls in all_estimators()]


# Some of the checks fit on so few rows, or one class, that there is nothing to meta-train on.
@pytest.mark.filterwarnings("ignore::fewshot_sklearn.exceptions.NotMetaFittedWarning")
@parametrize_with_checks(SHORT)
def test_every_estimator_passes_the_checks_of_sklearn(estimator, check):
    check(estimator)


@parametrize_with_fewshot_checks([cls() for _, cls in all_estimators()])
def test_every_estimator_keeps_the_laws(estimator, check):
    check(estimator)
