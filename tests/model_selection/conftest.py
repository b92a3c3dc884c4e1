"""Tasks and an estimator that is meta-fitted to them."""

import pytest

from fewshot_sklearn import ProtoNetClassifier
from tests._data import SMALL_NET, digit_tasks


@pytest.fixture(scope="module")
def tasks():
    return digit_tasks(n_way=3, n_query=5, n_tasks=12)


@pytest.fixture(scope="module")
def fitted(tasks):
    return ProtoNetClassifier(**SMALL_NET).meta_fit(tasks)
