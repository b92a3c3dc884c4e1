"""Every estimator of the package: scikit-learn's checks and the laws of few-shot learning."""

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot_sklearn import (
    MLP,
    Conv4,
    MAMLClassifier,
    MANNClassifier,
    MatchingNetClassifier,
    RelationNetClassifier,
)
from fewshot_sklearn.utils.discovery import all_estimators
from fewshot_sklearn.utils.estimator_checks import parametrize_with_fewshot_checks

# Configurations that take another path through a method than the default does.
VARIANTS = [
    MatchingNetClassifier(full_context=True),
    MAMLClassifier(learned_rates="per_layer_per_step", multi_step_iter=20, first_order_iter=2),
    MANNClassifier(n_orders=3, n_hidden=32, n_slots=8, slot_size=8, n_read_heads=2),
]
# A small network where every weight of it runs an LSTM.
OF_LSTMS = (
    "LSTMMetaLearnerClassifier", "LSTMMetaLearnerRegressor",
    "LearnedOptimizerClassifier", "LearnedOptimizerRegressor",
)  # fmt: skip
SMALL = {
    name: {"backbone": MLP(hidden_layer_sizes=(16,)), "meta_learning_rate": 0.01}
    for name in OF_LSTMS
}
OF_MEMORIES = (
    "MANNClassifier", "MANNRegressor", "NTMClassifier", "NTMRegressor", "DNCClassifier",
)  # fmt: skip
# A small memory, where every row of a support set takes a step.
STEPS = {
    "n_hidden": 32, "n_slots": 8, "slot_size": 8, "n_read_heads": 2, "meta_learning_rate": 0.01,
}  # fmt: skip
EVERY = [cls(**SMALL.get(name, {})) for name, cls in all_estimators()] + VARIANTS
# What the checks of scikit-learn need, which must separate three blobs, or their time does.
SHORT = {
    # Scores of many adapted networks in every iteration.
    "ESMAMLClassifier": {"max_iter": 5, "n_perturbations": 2},
    "ESMAMLRegressor": {"max_iter": 5, "n_perturbations": 2, "n_inner_steps": 50},
    # One step a row: few, and small ones.
    **{name: {"max_iter": 60} | STEPS for name in OF_MEMORIES},
    "LSTMClassifier": {"n_hidden": 32, "meta_learning_rate": 0.01},
    "CNPClassifier": {"max_iter": 30},
    # Decoders that see noise beside the row take longer to look at the row.
    **{name: {"max_iter": 40} for name in ("ANPRegressor", "NPRegressor")},
    "MemoryModuleClassifier": {"max_iter": 10},
    "MetaNetClassifier": {"max_iter": 20, "hidden_layer_sizes": (16,), "n_units": 8},
    "InContextClassifier": {"meta_batch_size": 4, "embedding_size": 16, "n_layers": 1},
    "InContextRegressor": {
        "max_iter": 100,
        "meta_batch_size": 4,
        "embedding_size": 16,
        "n_layers": 1,
        "meta_learning_rate": 0.01,
    },
    "GNNClassifier": {"n_hidden": 16, "n_layers": 1, "meta_batch_size": 4},
}
# They allow less than float32 rounds by, where a row is computed beside other rows.
OF_DOUBLES = ("check_methods_subset_invariance", "check_methods_sample_order_invariance")
# The checks that ask for what was learned; to the others two iterations tell as much as many.
OF_LEARNING = ("check_classifiers_train", "check_classifiers_classes", "check_regressors_train")
TRAINED_BRIEFLY = [
    clone(e).set_params(**{"max_iter": 30} | SHORT.get(type(e).__name__, {})) for e in EVERY
]
# Backbones for images, of which a flat row has 16 pixels.
OF_IMAGES = [
    RelationNetClassifier(
        backbone=Conv4(image_shape=(1, 4, 4), n_filters=8, n_blocks=2, n_pools=1),
        n_relation_features=8,
    ),
]


# Some of the checks fit on so few rows, or one class, that there is nothing to meta-train on.
@pytest.mark.filterwarnings("ignore::fewshot_sklearn.exceptions.NotMetaFittedWarning")
@parametrize_with_checks(TRAINED_BRIEFLY)
def test_every_estimator_passes_the_checks_of_sklearn(estimator, check):
    name = getattr(check, "func", check).__name__
    if name in OF_DOUBLES:
        estimator = clone(estimator).set_params(precision="float64")
    if name not in OF_LEARNING:
        estimator = clone(estimator).set_params(max_iter=2)
    check(estimator)


@parametrize_with_fewshot_checks(EVERY)
def test_every_estimator_keeps_the_laws(estimator, check):
    check(estimator)


@parametrize_with_fewshot_checks(OF_IMAGES, n_features=16)
def test_every_estimator_of_images_keeps_the_laws(estimator, check):
    check(estimator)
