"""The training loop on a learner whose every step is known, and through the estimators."""

import itertools
import logging
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn

from fewshot_sklearn import (
    MLP,
    Conv4,
    EpisodicTasks,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
    TaskList,
)
from fewshot_sklearn import _training_run as training
from fewshot_sklearn._training import meta_train
from fewshot_sklearn._training_run import SCHEDULES, TrainingLog, TrainingOptions
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import MetaTrainingError, SkippedTaskWarning, TaskError
from fewshot_sklearn.nn import Learner


class Quadratic(Learner):
    """The loss 1/2 |w - batch|²: its gradient is w - batch."""

    def __init__(self, start=(4.0,)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def meta_loss(self, batch):
        return 0.5 * (self.w - batch).square().sum()


def options(**changes):
    defaults = {
        "max_iter": 10,
        "max_time": None,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "schedule": "constant",
        "clip_norm": None,
        "early_stopping": False,
        "validation_interval": 1,
        "n_iter_no_change": 3,
        "tol": 0.0,
        "precision": "float32",
        "verbose": 0,
    }
    return TrainingOptions(**(defaults | changes))


def train(learner=None, batches=None, *, log=None, validate=None, **changes):
    """Train and return the learner and its log."""
    learner = Quadratic() if learner is None else learner
    log = TrainingLog() if log is None else log
    batches = itertools.repeat(0.0) if batches is None else iter(batches)
    hook = changes.pop("around_iteration", None)
    meta_train(learner, batches, options(**changes), log, validate=validate, around_iteration=hook)
    return learner, log


# ---------------------------------------------------------------------------- schedules


def test_schedules_are_what_they_say():
    progress = np.linspace(0, 1, 101)[:-1]
    rates = {name: np.array([f(p) for p in progress]) for name, f in SCHEDULES.items()}
    assert (rates["constant"] == 1).all()
    np.testing.assert_allclose(rates["linear"], 1 - progress)
    np.testing.assert_allclose(rates["step"], np.repeat(0.5 ** np.arange(10), 10))
    one_cycle = rates["one_cycle"]
    assert one_cycle[0] == pytest.approx(0.04)
    assert one_cycle.argmax() == 30
    assert one_cycle[30] == pytest.approx(1)
    assert (np.diff(one_cycle[:31]) > 0).all()
    assert (np.diff(one_cycle[30:]) < 0).all()
    assert SCHEDULES["one_cycle"](1.0) == pytest.approx(1e-4)
    assert one_cycle[15] == pytest.approx(0.52)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_has_the_rate_of_its_schedule(schedule):
    learner, log = train(schedule=schedule)
    w = 4.0
    for k in range(10):
        assert log.losses[k] == pytest.approx(w**2 / 2)
        w -= 0.1 * SCHEDULES[schedule](k / 10) * w
    assert learner.w.item() == pytest.approx(w)


def test_the_schedule_follows_the_clock_where_that_is_ahead():
    timed = options(schedule="linear", max_time=10.0, max_iter=100)
    assert timed.learning_rate_at(10, 5.0) == pytest.approx(0.05)
    assert timed.learning_rate_at(80, 5.0) == pytest.approx(0.02)
    assert timed.learning_rate_at(0, 50.0) == 0


# ---------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("name", "reference"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)],
)
def test_the_steps_are_the_optimizers(name, reference):
    learner, _ = train(Quadratic((4.0, -1.0)), optimizer=name)
    w = torch.tensor([4.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = reference([w], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (0.5 * w.square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(learner.w.detach(), w.detach())


def test_long_gradients_are_clipped_and_short_ones_left():
    learner, _ = train(Quadratic((30.0, 40.0)), max_iter=1, clip_norm=5.0)
    torch.testing.assert_close(
        learner.w.detach(), torch.tensor([30.0 - 0.3, 40.0 - 0.4], dtype=torch.float64)
    )
    for clip_norm in (None, 100.0):
        learner, _ = train(Quadratic((30.0, 40.0)), max_iter=1, clip_norm=clip_norm)
        torch.testing.assert_close(
            learner.w.detach(), torch.tensor([27.0, 36.0], dtype=torch.float64)
        )


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_a_gradient_may_lie_in_memory_as_it_likes(name, layout):
    """A fused step runs through memory whatever the strides say."""

    class Written(Quadratic):
        def meta_gradient(self, batch):
            row = torch.arange(1.0, 4.0, dtype=torch.float64)
            full = row.expand(2, 3)
            strided = torch.stack([full, -full], dim=-1).flatten(1)[:, ::2]
            layouts = {"expanded": full, "strided": strided, "transposed": full.T.contiguous().T}
            self.w.grad = full.contiguous() if batch == "plain" else layouts[layout]
            return torch.zeros(())

    start = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    plain, other = (
        train(Written(start), itertools.repeat(batch), optimizer=name, clip_norm=clip_norm)[0].w
        for batch, clip_norm in (("plain", 2.0), (layout, 2.0))
    )
    torch.testing.assert_close(plain, other, rtol=1e-14, atol=0)
    assert (plain.detach() < torch.tensor(start)).all()


def test_every_batch_is_used_once_and_no_more_are_drawn():
    drawn = []

    def batches():
        for number in itertools.count():
            drawn.append(number)
            yield float(number)

    _, log = train(batches=batches(), max_iter=4)
    assert drawn == [0, 1, 2, 3]
    assert log.n_iter == len(log.losses) == 4


def test_training_leaves_the_learner_in_evaluation_mode_without_gradients():
    modes = []

    class Watched(Quadratic):
        def meta_loss(self, batch):
            modes.append(self.training)
            return super().meta_loss(batch)

    learner, _ = train(Watched())
    assert all(modes)
    assert not learner.training
    assert learner.w.grad is None


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_the_state_of_an_optimizer_that_steps_otherwise_is_gone_on_with(name):
    """Such as that of another device."""
    reference, log = train(optimizer=name)
    train(reference, optimizer=name, log=log)
    learner, log = train(optimizer=name)
    for group in log.optimizer_state["param_groups"]:
        group.update({"fused": None} if "fused" in group else {})
    train(learner, optimizer=name, log=log)
    torch.testing.assert_close(learner.w, reference.w, rtol=0, atol=0)


def test_a_longer_log_continues_the_optimizer():
    once, _ = train(optimizer="adam", max_iter=7)
    learner, log = train(optimizer="adam", max_iter=3)
    known = log.copy()
    _, log = train(learner, log=log.copy(), optimizer="adam", max_iter=4)
    torch.testing.assert_close(learner.w, once.w)
    assert log.n_iter == len(log.losses) == 7
    assert known.n_iter == len(known.losses) == 3


# ---------------------------------------------------------------------------- validation


def scripted(learner, scores):
    """Return a validation with known scores and the list of weights that it saw."""
    seen = []
    scores = iter(scores)

    def validate():
        assert not learner.training
        assert not torch.is_grad_enabled()
        seen.append(learner.w.item())
        return next(scores)

    return validate, seen


def test_early_stopping_stops_after_validations_without_gain_and_restores_the_best():
    learner = Quadratic()
    validate, seen = scripted(learner, [0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    _, log = train(learner, validate=validate, early_stopping=True)
    assert log.n_iter == 5
    assert [score for _, score in log.validation_scores] == [0.1, 0.5, 0.4, 0.3, 0.2]
    assert learner.w.item() == seen[1]
    assert learner.w.requires_grad


def test_without_early_stopping_training_runs_on_and_the_best_is_kept_all_the_same():
    learner = Quadratic()
    scores = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]
    validate, seen = scripted(learner, scores)
    _, log = train(learner, validate=validate)
    assert log.n_iter == 10
    assert learner.w.item() == seen[1]


def test_a_gain_below_tol_counts_as_none_but_is_kept():
    learner = Quadratic()
    validate, seen = scripted(learner, [0.5, 0.504, 0.506, 0.508, 0.9])
    _, log = train(learner, validate=validate, early_stopping=True, tol=0.01)
    assert log.n_iter == 4
    assert learner.w.item() == seen[3]


def test_slow_gains_add_up_to_one_that_counts():
    learner = Quadratic()
    validate, _ = scripted(learner, np.arange(10) * 0.004)
    _, log = train(learner, validate=validate, early_stopping=True, tol=0.01)
    assert log.n_iter == 10


def test_validation_happens_every_interval_and_after_the_last_iteration():
    learner = Quadratic()
    validate, _ = scripted(learner, itertools.count())
    _, log = train(learner, validate=validate, validation_interval=4)
    assert log.validation_scores == [(4, 0), (8, 1), (10, 2)]


def test_validation_leaves_training_as_it_would_be_without():
    learner = Quadratic()
    validate, _ = scripted(learner, itertools.count())
    with_validation, _ = train(learner, validate=validate, optimizer="adam")
    without, _ = train(optimizer="adam")
    assert with_validation.w.item() == without.w.item()


# ---------------------------------------------------------------------------- what goes wrong


class Breaking(Quadratic):
    """A learner whose loss, or its gradient alone, is broken at one iteration."""

    def __init__(self, at, value, *, gradient_only=False):
        super().__init__()
        self.at, self.value, self.gradient_only = at, value, gradient_only
        self.seen = []

    def meta_gradient(self, batch):
        self.seen.append(self.w.item())
        loss = super().meta_gradient(batch)
        if len(self.seen) == self.at:
            self.w.grad.fill_(self.value)
            loss = loss if self.gradient_only else loss * self.value
        return loss


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_or_gradient_that_is_not_finite_stops_training_at_the_last_good_weights(
    value, gradient_only
):
    learner = Breaking(4, value, gradient_only=gradient_only)
    log = TrainingLog()
    with pytest.raises(MetaTrainingError, match="diverged at iteration 4") as caught:
        train(learner, log=log)
    assert caught.value.iteration == 4
    assert "meta_learning_rate" in str(caught.value)
    assert "inner_learning_rate" in str(caught.value)
    assert learner.w.item() == learner.seen[2]
    assert log.n_iter == len(log.losses) == 3
    assert np.isfinite(log.losses).all()
    assert not learner.training


def test_the_iteration_of_an_error_counts_earlier_calls():
    log = TrainingLog(n_iter=100)
    with pytest.raises(MetaTrainingError) as caught:
        train(Breaking(2, np.nan), log=log)
    assert caught.value.iteration == 102


def test_an_error_restores_the_best_validated_weights():
    learner = Breaking(4, np.nan)
    validate, seen = scripted(learner, [0.9, 0.1, 0.1])
    with pytest.raises(MetaTrainingError):
        train(learner, validate=validate)
    assert learner.w.item() == seen[0]


@pytest.mark.parametrize("max_iter", [1, 2])
def test_a_step_to_infinite_weights_is_an_error_in_the_last_iteration_too(max_iter):
    learner = Quadratic((1e100,))
    with pytest.raises(MetaTrainingError):
        train(learner, learning_rate=1e300, max_iter=max_iter)
    assert learner.w.item() == 1e100


def test_an_interruption_keeps_the_weights_and_warns():
    def batches():
        yield from [0.0] * 3
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 3 iterations; what was learned"):
        learner, log = train(batches=batches())
    assert log.n_iter == 3
    assert learner.w.item() == train(max_iter=3)[0].w.item()
    assert not learner.training


def test_an_interruption_keeps_the_best_validated_weights():
    learner = Quadratic()
    validate, seen = scripted(learner, [0.1, 0.9, 0.2])

    def batches():
        yield from [0.0] * 3
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        train(learner, batches(), validate=validate)
    assert learner.w.item() == seen[1]


def test_other_errors_are_raised_and_leave_a_usable_learner():
    def batches():
        yield from [0.0] * 3
        raise OSError("the disk is gone")

    learner, log = Quadratic(), TrainingLog()
    with pytest.raises(OSError, match="the disk is gone"):
        train(learner, batches(), log=log)
    assert log.n_iter == 3
    assert not learner.training


def test_time_that_is_up_ends_training_after_at_least_one_iteration(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    assert train(max_time=4.0, max_iter=100)[1].n_iter == 3
    assert train(max_time=0.001, max_iter=100)[1].n_iter == 1
    assert train(max_time=1e9, max_iter=100)[1].n_iter == 100


def test_verbose_logs_and_never_prints(caplog, capsys):
    with caplog.at_level(logging.INFO, logger="fewshot_sklearn"):
        train(verbose=1, validation_interval=5)
        assert [r.getMessage().split(":")[0] for r in caplog.records] == [
            "meta-iteration 5",
            "meta-iteration 10",
        ]
        caplog.clear()
        train(verbose=0)
        assert not caplog.records
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------------------- estimators


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=24, random_state=0)


@pytest.fixture(scope="module")
def sines():
    return make_sinusoid_tasks(8, random_state=0)


def small(cls=ProtoNetClassifier, **params):
    params = {"max_iter": 5, "random_state": 0} | params
    if cls is MANNClassifier:
        params = {"n_hidden": 8, "n_slots": 6, "slot_size": 3, "n_read_heads": 2} | params
    else:
        params = {"backbone": MLP(hidden_layer_sizes=(8,))} | params
    return cls(**params)


def weights(estimator):
    state = estimator._meta.learner.state_dict()
    return torch.cat([v.flatten() for v in state.values()]).numpy()


def predictions(estimator, tasks, n_tasks=5):
    return np.concatenate(estimator.predict_tasks(tasks[:n_tasks], method="predict_proba"))


ALL = [ProtoNetClassifier, MAMLClassifier, MANNClassifier]


@pytest.mark.parametrize("cls", ALL)
def test_the_attributes_tell_how_meta_training_went(cls, tasks):
    clf = small(cls, validation_interval=2).meta_fit(tasks, validation_tasks=tasks[:4])
    assert clf.n_meta_iter_ == clf.n_iter_ == len(clf.meta_loss_curve_) == 5
    assert [n for n, _ in clf.validation_scores_] == [2, 4, 5]
    assert all(0 <= score <= 1 for _, score in clf.validation_scores_)
    assert small(cls).meta_fit(tasks).validation_scores_ == []


def test_a_regressors_validation_score_is_minus_its_standardised_squared_error(sines):
    """One task, no normalisation of targets: the score can be had from predictions."""
    reg = small(MAMLRegressor, normalize_y=False, precision="float64", max_iter=1)
    reg.meta_fit(sines, validation_tasks=sines[:3])
    errors = [
        np.mean((p - task.y_query) ** 2)
        for p, task in zip(reg.predict_tasks(sines[:3]), sines[:3], strict=True)
    ]
    assert reg.validation_scores_[0][1] == pytest.approx(-np.mean(errors))


@pytest.mark.parametrize("cls", ALL)
def test_a_classifiers_validation_score_is_its_mean_accuracy(cls, tasks):
    clf = small(cls, max_iter=1).meta_fit(tasks, validation_tasks=tasks[:6])
    scores = [
        np.mean(p == task.y_query)
        for p, task in zip(clf.predict_tasks(tasks[:6]), tasks[:6], strict=True)
    ]
    assert clf.validation_scores_[0][1] == pytest.approx(np.mean(scores))


def test_early_stopping_keeps_the_weights_that_validated_best(tasks):
    clf = small(
        max_iter=60, meta_learning_rate=0.5, validation_interval=3, n_iter_no_change=2,
        early_stopping=True,
    ).meta_fit(tasks[:20], validation_tasks=tasks[20:])  # fmt: skip
    scores = [score for _, score in clf.validation_scores_]
    assert clf.n_meta_iter_ < 60
    assert len(scores) == scores.index(max(scores)) + 3
    kept = [
        np.mean(p == task.y_query)
        for p, task in zip(clf.predict_tasks(tasks[20:]), tasks[20:], strict=True)
    ]
    assert np.mean(kept) == pytest.approx(max(scores))


def test_early_stopping_holds_out_a_tenth_of_the_tasks(sines):
    """Every task reads its own column, so that a counter sees who took part."""
    seen = {}

    class Counting(TaskList):
        def _make_task(self, task_id, visit):
            seen[task_id] = seen.get(task_id, 0) + 1
            return super()._make_task(task_id, visit)

    tasks = Counting(make_sinusoid_tasks(40, random_state=0))
    small(MAMLRegressor, early_stopping=True, meta_batch_size=36, max_iter=3).meta_fit(tasks)
    # The held-out tasks are read once; the others at the start and in every iteration.
    counts = sorted(seen.values())
    assert counts[:4] == [counts[0]] * 4
    assert counts[4] > counts[3]
    assert len(set(counts[4:])) <= 2


def test_early_stopping_needs_tasks_to_hold_out(tasks):
    clf = small(early_stopping=True)
    for few in (tasks[:1], iter(tasks[:5])):
        with pytest.raises(ValueError, match="early_stopping=True holds out a tenth"):
            clf.meta_fit(few)


@pytest.mark.parametrize("cls", [*ALL, MAMLRegressor])
def test_early_stopping_works_in_a_plain_fit_too(cls, blobs):
    """It cuts its episodes from one set of rows; some of those are for validation."""
    X, y = blobs
    estimator = small(cls, early_stopping=True, validation_interval=2).fit(X, y.astype(float))
    assert [n for n, _ in estimator.validation_scores_] == [2, 4, 5]
    assert estimator.predict(X).shape == (120,)


def test_validation_tasks_must_be_a_sequence(tasks):
    with pytest.raises(ValueError, match="validation_tasks must be a sequence"):
        small().meta_fit(tasks, validation_tasks=iter(tasks[:3]))


# ------------------------------------------------------------------------ what stops estimators


def huge(task):
    """Return a task whose rows are finite but whose distances are not."""
    X, y, X_query, y_query = task
    return X * 1e30, y, X_query * 1e30, y_query


def test_divergence_names_the_iteration_and_leaves_a_usable_meta_fitted_estimator(tasks):
    clf = small(backbone=MLP(hidden_layer_sizes=(8,), norm=None), meta_batch_size=1, max_iter=10)
    good = [tasks[i] for i in range(3)]
    with pytest.raises(MetaTrainingError, match="diverged at iteration 4") as caught:
        clf.meta_fit(iter([*good, huge(tasks[3])]))
    assert caught.value.iteration == 4
    assert clf.n_meta_iter_ == 3
    assert np.isfinite(weights(clf)).all()
    X, y, X_query, _ = tasks[0]
    assert np.isfinite(clone(clf).fit(X, y).predict_proba(X_query)).all()
    assert not any(p.requires_grad for p in clf._meta.learner.parameters())
    # The state is that of the last iteration whose loss was finite.
    before = clone(small(backbone=clf.backbone, meta_batch_size=1)).set_params(max_iter=2)
    np.testing.assert_array_equal(weights(before.meta_fit(iter(good))), weights(clf))


def test_divergence_at_once_leaves_a_new_estimator_new(tasks):
    clf = small(backbone=MLP(hidden_layer_sizes=(8,), norm=None))
    with pytest.raises(MetaTrainingError, match="at iteration 1"):
        clf.meta_fit([huge(tasks[0])])
    with pytest.raises(NotFittedError, match="not fitted yet"):
        clf.predict(tasks[0].X_query)
    assert not hasattr(clf, "n_meta_iter_")


def test_divergence_of_a_continued_training_keeps_what_was_there(tasks):
    clf = small(backbone=MLP(hidden_layer_sizes=(8,), norm=None)).meta_fit(tasks)
    before = weights(clf)
    with pytest.raises(MetaTrainingError, match="at iteration 6"):
        clf.partial_meta_fit([huge(tasks[0])])
    np.testing.assert_array_equal(weights(clf), before)
    assert clf.n_meta_iter_ == 5


def interrupted(tasks, n_tasks):
    yield from tasks[:n_tasks]
    raise KeyboardInterrupt


def test_interrupting_a_generator_of_tasks_keeps_what_was_learned(tasks):
    clf = small(max_iter=10, meta_batch_size=1)
    # The first 32 tasks are looked at before training begins.
    stream = itertools.chain((tasks[i % 24] for i in range(35)), interrupted(tasks, 0))
    with pytest.warns(UserWarning, match="interrupted after 35 iterations"):
        clf.set_params(max_iter=50).meta_fit(stream)
    assert clf.n_meta_iter_ == len(clf.meta_loss_curve_) == 35
    assert predictions(clf, tasks).shape[1] == 3
    X, y, _, _ = tasks[0]
    clf.fit(X, y)


class Recorder:
    """A callback that notes what happens and acts at one iteration."""

    def __init__(self, at=None, act=lambda: True):
        self.at, self.act = at, act
        self.events, self.n_ended = [], 0

    def setup(self, estimator, context):
        self.events.append(("setup", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.events.append(("end", context.task_name))
        if context.parent is not None:
            self.n_ended += 1
            if self.n_ended == self.at:
                return self.act()
        return False

    def teardown(self, estimator, context):
        self.events.append(("teardown", context.task_name))


def interrupt():
    raise KeyboardInterrupt


def test_interrupting_a_callback_keeps_what_was_learned(tasks):
    clf = small().set_callbacks(Recorder(at=3, act=interrupt))
    with pytest.warns(UserWarning, match="interrupted after 3 iterations"):
        clf.meta_fit(tasks)
    assert clf.n_meta_iter_ == 3
    np.testing.assert_array_equal(weights(clf), weights(small(max_iter=3).meta_fit(tasks)))


def test_an_interruption_before_anything_was_learned_is_raised(tasks):
    """A silent return would leave an estimator that looks meta-fitted and is not."""
    clf = small()
    with pytest.raises(KeyboardInterrupt):
        clf.set_callbacks(Immediately()).meta_fit(tasks)
    with pytest.raises(NotFittedError):
        clf.predict_tasks(tasks)


class Immediately(Recorder):
    def on_fit_task_begin(self, estimator, context):
        if context.parent is not None:
            raise KeyboardInterrupt


# ---------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("method", ["meta_fit", "partial_meta_fit"])
def test_callbacks_see_the_call_and_each_iteration(tasks, method):
    recorder = Recorder()
    getattr(small(max_iter=2).set_callbacks(recorder), method)(tasks)
    iteration = [("begin", "meta-iteration"), ("end", "meta-iteration")]
    assert recorder.events == [
        ("setup", "meta_fit"),
        ("begin", "meta_fit"),
        *iteration * 2,
        ("end", "meta_fit"),
        ("teardown", "meta_fit"),
    ]


def test_a_callback_stops_meta_training(tasks):
    recorder = Recorder(at=2)
    clf = small().set_callbacks(recorder).meta_fit(tasks)
    assert clf.n_meta_iter_ == 2
    assert recorder.events[-1] == ("teardown", "meta_fit")
    np.testing.assert_array_equal(weights(clf), weights(small(max_iter=2).meta_fit(tasks)))


def test_callbacks_see_a_plain_fit_of_a_new_and_of_a_meta_fitted_estimator(blobs, tasks):
    X, y = blobs
    recorder = Recorder()
    small(max_iter=2).set_callbacks(recorder).fit(X, y)
    assert recorder.events.count(("end", "meta-iteration")) == 2
    assert recorder.events[-2:] == [("end", "fit"), ("teardown", "fit")]
    recorder = Recorder()
    small().meta_fit(tasks).set_callbacks(recorder).fit(X, y)
    assert recorder.events == [(e, "fit") for e in ("setup", "begin", "end", "teardown")]


def test_callbacks_are_torn_down_after_an_error(tasks):
    recorder = Recorder()
    clf = small(backbone=MLP(hidden_layer_sizes=(8,), norm=None)).set_callbacks(recorder)
    with pytest.raises(MetaTrainingError):
        clf.meta_fit([huge(tasks[0])])
    assert recorder.events[-1] == ("teardown", "meta_fit")


def test_callbacks_do_not_change_what_is_learned(tasks):
    clf = small().set_callbacks(Recorder()).meta_fit(tasks)
    np.testing.assert_array_equal(weights(clf), weights(small().meta_fit(tasks)))


@pytest.fixture
def _no_deprecations_in_rich():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.usefixtures("_no_deprecations_in_rich")
def test_a_progress_bar_shows_meta_fit(tasks, capsys):
    pytest.importorskip("rich")
    small().set_callbacks(ProgressBar()).meta_fit(tasks)
    shown = capsys.readouterr().out
    assert "ProtoNetClassifier - meta_fit" in shown
    assert "100%" in shown


@pytest.mark.usefixtures("_no_deprecations_in_rich")
def test_a_progress_bar_nests_new_estimators_in_a_grid_search(blobs, capsys):
    pytest.importorskip("rich")
    X, y = blobs
    search = GridSearchCV(small(max_iter=2), {"meta_learning_rate": [1e-3, 1e-2]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    shown = capsys.readouterr().out
    assert "GridSearchCV - fit" in shown
    assert "ProtoNetClassifier - fit" in shown
    assert search.best_estimator_.n_meta_iter_ == 2


# ---------------------------------------------------------------------------- kinds of tasks


def test_a_generator_that_ends_early_is_revisited(tasks):
    clf = small(max_iter=20, meta_batch_size=2).meta_fit(task for task in tasks[:5])
    assert clf.n_meta_iter_ == 20


def test_an_endless_generator_is_read_as_far_as_needed(tasks):
    n_read = 0

    def endless():
        nonlocal n_read
        for i in itertools.count():
            n_read += 1
            yield tasks[i % len(tasks)]

    small(max_iter=10, meta_batch_size=8).meta_fit(endless())
    assert 80 <= n_read < 150


def test_an_empty_generator_is_refused():
    with pytest.raises(ValueError, match="the iterable of tasks is empty"):
        small().meta_fit(iter([]))


def one_class(task):
    X, y, _, _ = task
    keep = y == y[0]
    return X[keep], y[keep], X[keep], y[keep]


def test_single_class_draws_are_skipped_and_counted(tasks):
    mixed = TaskList([tasks[0], one_class(tasks[1]), tasks[2], one_class(tasks[3])])
    with pytest.warns(SkippedTaskWarning, match=r"^20 of 40 draws had one class"):
        clf = small(max_iter=10, meta_batch_size=2).meta_fit(mixed)
    assert clf.n_meta_iter_ == 10
    with pytest.warns(SkippedTaskWarning):
        clf.meta_fit(iter([tasks[0], one_class(tasks[1]), tasks[2]]))


def test_skipped_draws_change_nothing_else(tasks):
    """Nor do they add up to an error over the end of an epoch, however few tasks there are."""
    mixed = TaskList([tasks[0], one_class(tasks[1])], shared_classes=False)
    with pytest.warns(SkippedTaskWarning):
        clf = small(meta_batch_size=1, max_iter=20).meta_fit(mixed)
    alone = small(meta_batch_size=1, max_iter=20).meta_fit(mixed[:1])
    np.testing.assert_array_equal(weights(clf), weights(alone))


def test_tasks_of_one_class_only_are_an_error(tasks):
    single = [one_class(tasks[i]) for i in range(4)]
    for given in (single, iter(single)):
        with pytest.raises(TaskError, match="every task must be able to show at least two classes"):
            small().meta_fit(given)


# ---------------------------------------------------------------------------- precision


@pytest.mark.parametrize("cls", ALL)
def test_float64_computes_in_float64(cls, tasks):
    clf = small(cls, precision="float64").meta_fit(tasks)
    assert {p.dtype for p in clf._meta.learner.parameters()} == {torch.float64}
    X, y, X_query, _ = tasks[0]
    clf.fit(X, y)
    assert {t.dtype for t in clf._adapted[1].values()} == {torch.float64}
    assert clf.predict_proba(X_query).dtype == np.float64


@pytest.mark.parametrize("cls", ALL)
def test_bf16_learns_about_what_float32_learns(cls, tasks):
    full, half = (small(cls, precision=p).meta_fit(tasks) for p in ("float32", "bf16"))
    assert {p.dtype for p in half._meta.learner.parameters()} == {torch.float32}
    np.testing.assert_allclose(half.meta_loss_curve_, full.meta_loss_curve_, rtol=0.05)
    # MAML's network here is written out, in full precision whatever is asked for.
    same = np.array_equal(half.meta_loss_curve_, full.meta_loss_curve_)
    assert same == (cls is MAMLClassifier)
    np.testing.assert_allclose(predictions(half, tasks), predictions(full, tasks), atol=0.1)


@pytest.mark.parametrize("norm", ["group", "batch", None])
def test_bf16_convolutions_learn(tasks, norm):
    backbone = Conv4(image_shape=(1, 2, 2), n_filters=8, n_blocks=1, norm=norm)
    clf = small(backbone=backbone, precision="bf16").meta_fit(tasks)
    assert np.isfinite(clf.meta_loss_curve_).all()


def test_bf16_regression_learns(sines):
    reg = small(MAMLRegressor, precision="bf16").meta_fit(sines)
    assert np.isfinite(reg.meta_loss_curve_).all()


# ---------------------------------------------------------------------------- continuing


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_partial_meta_fit_continues_as_if_it_had_not_stopped(sines, optimizer):
    """Eight tasks in a meta-iteration are an epoch, so that calls end where epochs do."""
    params = {"meta_optimizer": optimizer, "meta_learning_rate": 0.01}
    once = small(MAMLRegressor, max_iter=6, **params).meta_fit(sines)
    twice = small(MAMLRegressor, max_iter=2, **params).meta_fit(sines).partial_meta_fit(sines)
    twice.partial_meta_fit(sines)
    assert twice.n_meta_iter_ == 6
    np.testing.assert_allclose(twice.meta_loss_curve_, once.meta_loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(weights(twice), weights(once), rtol=1e-4, atol=1e-6)


def test_partial_meta_fit_of_a_new_estimator_is_meta_fit(tasks):
    np.testing.assert_array_equal(
        weights(small().partial_meta_fit(tasks)), weights(small().meta_fit(tasks))
    )


def test_partial_meta_fit_draws_fresh_episodes(tasks):
    """Rate zero in effect: only the draws make the losses differ."""
    clf = small(max_iter=3, meta_learning_rate=1e-12).meta_fit(tasks)
    first = list(clf.meta_loss_curve_)
    clf.partial_meta_fit(tasks)
    assert clf.meta_loss_curve_[:3] == first
    assert not np.allclose(sorted(clf.meta_loss_curve_[3:]), sorted(first))


def test_training_parameters_may_change_between_calls_that_continue(tasks):
    clf = small(max_iter=3).meta_fit(tasks)
    clf.set_params(max_iter=4, meta_learning_rate=0.01, schedule="linear", meta_batch_size=3)
    clf.partial_meta_fit(tasks)
    assert clf.n_meta_iter_ == 7
    clf.fit(*tasks[0][:2])


def test_what_fixes_the_network_may_not_change_between_calls_that_continue(tasks):
    clf = small().meta_fit(tasks)
    for name, value in (("backbone", MLP(hidden_layer_sizes=(9,))), ("distance", "cosine")):
        changed = clone(clf).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"{name}=.* was changed after meta_fit"):
            changed.partial_meta_fit(tasks)


def test_continuing_leaves_clones_that_share_the_weights_as_they_are(tasks):
    clf = small().meta_fit(tasks)
    other = clone(clf)
    before, curve = weights(other), list(other.meta_loss_curve_)
    clf.partial_meta_fit(tasks)
    np.testing.assert_array_equal(weights(other), before)
    assert other.meta_loss_curve_ == curve
    assert not np.array_equal(weights(clf), before)


def test_warm_start_continues_and_otherwise_meta_fit_starts_anew(sines):
    warm = small(MAMLRegressor, warm_start=True, max_iter=3).meta_fit(sines).meta_fit(sines)
    partial = small(MAMLRegressor, max_iter=3).meta_fit(sines).partial_meta_fit(sines)
    assert warm.n_meta_iter_ == 6
    np.testing.assert_array_equal(weights(warm), weights(partial))
    cold = small(MAMLRegressor, max_iter=3).meta_fit(sines)
    before = weights(cold)
    assert cold.meta_fit(sines).n_meta_iter_ == 3
    np.testing.assert_array_equal(weights(cold), before)


# ---------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("cls", ALL)
def test_the_same_seed_gives_the_same_weights_whatever_the_global_generators(cls, tasks):
    clfs = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            clfs.append(small(cls).meta_fit(tasks))
    np.testing.assert_array_equal(*map(weights, clfs))
    assert not np.array_equal(weights(clfs[0]), weights(small(cls, random_state=1).meta_fit(tasks)))


@pytest.mark.parametrize("cls", ALL)
def test_global_generators_are_left_as_they_are(cls, tasks):
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    clf = small(cls, random_state=None).meta_fit(tasks)
    clf.fit(*tasks[0][:2]).predict(tasks[0].X_query)
    small(cls, random_state=None).fit(*tasks[0][:2])
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


def test_dropout_is_seeded_and_off_at_test_time(tasks):
    spec = MLP(hidden_layer_sizes=(16,), dropout=0.5)
    first, second = (small(backbone=spec).meta_fit(tasks) for _ in range(2))
    np.testing.assert_array_equal(weights(first), weights(second))
    without = small(backbone=MLP(hidden_layer_sizes=(16,))).meta_fit(tasks)
    assert not np.array_equal(weights(first), weights(without))
    np.testing.assert_array_equal(predictions(first, tasks), predictions(first, tasks))


def test_without_a_seed_every_meta_fit_differs(tasks):
    clfs = [small(random_state=None).meta_fit(tasks) for _ in range(2)]
    assert not np.array_equal(*map(weights, clfs))


def test_a_random_state_instance_is_used_and_moves_on(tasks):
    rng = np.random.RandomState(0)
    clfs = [small(random_state=rng).meta_fit(tasks) for _ in range(2)]
    assert not np.array_equal(*map(weights, clfs))


def test_an_error_of_a_validation_task_says_that_it_is_one(tasks):
    wrong = [(np.eye(3), [0, 1, 0], np.eye(3), [0, 1, 2])]
    with pytest.raises(ValueError, match="validation_tasks: task 0"):
        small().meta_fit(tasks, wrong)
