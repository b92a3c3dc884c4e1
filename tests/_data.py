"""Tasks that are drawn at once and estimators that are trained in no time, for several tests."""

from sklearn.datasets import load_digits, make_classification

from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
)

BODY = MLP(hidden_layer_sizes=(8,))
SMALL = {"max_iter": 3, "meta_batch_size": 2, "random_state": 0}
SMALL_NET = SMALL | {"backbone": BODY, "max_iter": 4}
# To be cloned.
CLASSIFIERS = [
    ProtoNetClassifier(backbone=BODY, **SMALL),
    MAMLClassifier(backbone=BODY, n_inner_steps=2, **SMALL),
    MANNClassifier(n_hidden=8, n_slots=6, slot_size=4, n_read_heads=1, **SMALL),
]
REGRESSOR = MAMLRegressor(backbone=BODY, n_inner_steps=2, **SMALL)


def name_of(estimator):
    return type(estimator).__name__


def make_rows(n_classes, n_rows=240):
    return make_classification(
        n_rows, n_features=6, n_informative=6, n_redundant=0, n_classes=n_classes, random_state=0
    )


def digit_tasks(**options):
    X, y = load_digits(return_X_y=True)
    return EpisodicTasks(X / 16, y, random_state=0, **options)
