"""A temperature learned on validation tasks makes probabilities true to frequencies."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import log_loss

from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
    TaskList,
    load,
)
from fewshot_sklearn.datasets import load_glyphs, make_sinusoid_tasks
from fewshot_sklearn.metrics import expected_calibration_error

SMALL = {"backbone": MLP(hidden_layer_sizes=(32,)), "max_iter": 20, "random_state": 0}


@pytest.fixture(scope="module")
def tasks():
    X, y = load_digits(return_X_y=True)
    return {
        name: EpisodicTasks(X[rows] / 16, y[rows], n_way=way, n_query=5, n_tasks=40, random_state=1)
        for name, rows, way in (
            ("train", y < 4, (2, 4)),
            ("validation", (y >= 4) & (y < 7), (2, 3)),
            ("test", y >= 7, 3),
        )
    }


@pytest.fixture(scope="module")
def calibrated(tasks):
    return ProtoNetClassifier(**SMALL).meta_fit(tasks["train"], tasks["validation"])


def pooled(clf, tasks):
    """Return the columns of the true classes and the probabilities of all query rows."""
    proba = clf.predict_tasks(tasks, method="predict_proba")
    truth = [np.searchsorted(np.unique(task.y_support), task.y_query) for task in tasks]
    return np.concatenate(truth), np.concatenate(proba)


def test_it_is_the_minimum_of_the_loss_on_the_validation_tasks(calibrated, tasks):
    decisions = calibrated.predict_tasks(tasks["validation"], method="decision_function")

    def loss(factor):
        losses = []
        for task, scores in zip(tasks["validation"], decisions, strict=True):
            if scores.ndim == 1:
                scores = np.column_stack([np.zeros_like(scores), scores])
            truth = np.searchsorted(np.unique(task.y_support), task.y_query)
            losses.append(
                -log_softmax(scores / factor, axis=1)[np.arange(len(truth)), truth].mean()
            )
        return np.mean(losses)

    assert calibrated.calibration_temperature_ != 1
    assert loss(1.0) < min(loss(0.95), loss(1.05))


def test_without_validation_tasks_nothing_is_divided(tasks):
    clf = ProtoNetClassifier(**SMALL).meta_fit(tasks["train"])
    assert clf.calibration_temperature_ == 1


def test_probabilities_get_better_and_predictions_stay(calibrated, tasks):
    truth, proba = pooled(calibrated, tasks["test"])
    plain = ProtoNetClassifier(**SMALL, validation_interval=10**6).meta_fit(tasks["train"])
    _, before = pooled(plain, tasks["test"])
    np.testing.assert_array_equal(proba.argmax(axis=1), before.argmax(axis=1))
    assert expected_calibration_error(truth, proba) < expected_calibration_error(truth, before)


def test_fit_and_predict_use_it_as_predict_tasks_does(calibrated, tasks):
    task = tasks["test"][3]
    clf = clone(calibrated).fit(task.X_support, task.y_support)
    alone = clf.predict_proba(task.X_query)
    together = calibrated.predict_tasks(tasks["test"], method="predict_proba")[3]
    np.testing.assert_allclose(alone, together, atol=1e-6)
    scores = clf.decision_function(task.X_query)
    np.testing.assert_allclose(alone, np.exp(log_softmax(scores, axis=1)), atol=1e-12)


def test_clones_files_and_later_training_keep_it(calibrated, tasks, tmp_path):
    kept = calibrated.calibration_temperature_
    assert clone(calibrated).calibration_temperature_ == kept
    calibrated.save(tmp_path / "clf")
    loaded = load(tmp_path / "clf")
    assert loaded.calibration_temperature_ == kept
    loaded.partial_meta_fit(tasks["train"])
    assert loaded.calibration_temperature_ == kept
    loaded.partial_meta_fit(tasks["train"], tasks["validation"])
    assert loaded.calibration_temperature_ != kept
    assert loaded.meta_fit(tasks["train"]).calibration_temperature_ == 1


def test_held_out_tasks_of_early_stopping_teach_it_too(tasks):
    clf = ProtoNetClassifier(**SMALL | {"early_stopping": True}).meta_fit(tasks["train"])
    assert clf.calibration_temperature_ != 1


def test_a_method_with_fixed_columns_has_one(tasks):
    sizes = {"n_hidden": 8, "n_slots": 6, "slot_size": 4, "n_read_heads": 1}
    clf = MANNClassifier(**sizes, max_iter=3, random_state=0)
    clf.meta_fit(tasks["train"], tasks["validation"])
    assert clf.calibration_temperature_ > 0


def test_regressors_have_none(tasks):
    reg = MAMLRegressor(**SMALL).meta_fit(make_sinusoid_tasks(10), make_sinusoid_tasks(5))
    assert not hasattr(reg, "calibration_temperature_")


def test_tasks_that_are_all_solved_give_a_finite_temperature():
    X, y = make_blobs(200, centers=4, cluster_std=0.01, random_state=0)
    tasks = EpisodicTasks(X, y, n_way=3, n_query=2, n_tasks=20, random_state=0)
    clf = ProtoNetClassifier(**SMALL).meta_fit(tasks, tasks)
    assert clf.validation_scores_[-1][1] == 1.0
    truth, proba = pooled(clf, tasks)
    # Of N rows all of which are right, Platt's targets leave 1 / (N + 2) to the other classes.
    assert 1 / len(truth) / 10 < 1 - proba.max(axis=1).mean() < 10 / len(truth)


def test_unseen_characters_are_predicted_with_a_calibration_error_below_five_per_cent():
    glyphs = load_glyphs(scripts=["Mathematical", "Cyrillic", "Greek"], n_drawings=8)

    def episodes(script, **shape):
        rows = (glyphs.script == script)[glyphs.target]
        return EpisodicTasks(
            glyphs.data[rows], glyphs.target[rows], n_query=5, random_state=0, **shape
        )

    clf = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(64,)), max_iter=150, random_state=0)
    clf.meta_fit(episodes("Mathematical"), episodes("Cyrillic", n_tasks=100))
    truth, proba = pooled(clf, episodes("Greek", n_tasks=200))
    uncalibrated = proba**clf.calibration_temperature_
    uncalibrated /= uncalibrated.sum(axis=1, keepdims=True)
    assert expected_calibration_error(truth, proba) < 0.05
    assert expected_calibration_error(truth, uncalibrated) > 0.1


def test_a_few_tasks_that_are_all_solved_do_not_make_it_sure_of_all(tasks):
    X, y = load_digits(n_class=2, return_X_y=True)
    easy = EpisodicTasks(X / 16, y, n_way=2, n_shot=5, n_query=5, n_tasks=80, random_state=0)
    clf = ProtoNetClassifier(**SMALL | {"max_iter": 60}).meta_fit(easy[:60], easy[60:64])
    assert clf.validation_scores_[-1][1] == 1.0
    truth, proba = pooled(clf, easy[64:])
    # Forty rows, all of them right, say no more than that about one in forty may be wrong.
    assert log_loss(truth, proba) < 3 / 40


def test_tasks_of_one_class_teach_nothing():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    both, one = np.arange(20), np.arange(0, 40, 2)
    train = TaskList([(X[both], y[both], X[20:], y[20:])] * 4, shared_classes=True)
    validation = TaskList([(X[one[:9]], y[one[:9]], X[one[9:]], y[one[9:]])], shared_classes=True)
    clf = ProtoNetClassifier(**SMALL).meta_fit(train, validation)
    assert clf.calibration_temperature_ == 1
