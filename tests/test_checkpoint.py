"""An interrupted meta-training goes on from its checkpoint as if it had never stopped."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from torch import nn

from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    GroupedTasks,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
)
from fewshot_sklearn._checkpoint import Checkpoint
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import MetaTrainingError, SkippedTaskWarning

SMALL = {"backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 12, "random_state": 0}


class Killed(BaseException):
    """What stops a run at once, with nothing of the package getting a say in it."""


class KillAt:
    """A callback that stops the run after some iterations."""

    def __init__(self, n_iter):
        self.n_iter = n_iter

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "meta-iteration" and context.task_id + 1 == self.n_iter:
            raise Killed


@pytest.fixture(autouse=True)
def every_iteration_is_written(monkeypatch):
    monkeypatch.setattr("fewshot_sklearn._checkpoint._PAUSE", 0)


@pytest.fixture(scope="module")
def tasks():
    X, y = load_digits(return_X_y=True)
    return EpisodicTasks(X / 16, y, n_way=(2, 5), n_query=3, n_tasks=20, random_state=0)


def weights(estimator):
    return {name: t.numpy() for name, t in estimator._meta.learner.state_dict().items()}


def assert_same(resumed, whole, tasks):
    """Compare what was learned, and what further training with the optimizer's state makes."""
    assert resumed.meta_loss_curve_ == whole.meta_loss_curve_
    assert resumed.validation_scores_ == whole.validation_scores_
    assert resumed.n_meta_iter_ == whole.n_meta_iter_
    expected = weights(whole)
    assert weights(resumed).keys() == expected.keys()
    for name, value in weights(resumed).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    resumed.partial_meta_fit(tasks)
    whole.partial_meta_fit(tasks)
    assert resumed.meta_loss_curve_ == whole.meta_loss_curve_


def interrupt_and_resume(make, path, tasks, *others, at, method="meta_fit"):
    """Return the estimator that a second call made of an interrupted first one."""
    with pytest.raises(Killed):
        getattr(make().set_callbacks(KillAt(at)), method)(tasks, *others, checkpoint=path)
    return getattr(make(), method)(tasks, *others, checkpoint=path)


CONFIGURATIONS = {
    "plain": {},
    "dropout": {"backbone": MLP(hidden_layer_sizes=(8,), dropout=0.5)},
    "schedule": {"schedule": "one_cycle", "meta_optimizer": "rmsprop"},
    "momentless": {"meta_optimizer": "sgd", "clip_norm": None},
    "early stopping": {
        "early_stopping": True,
        "validation_interval": 2,
        "n_iter_no_change": 2,
        "meta_learning_rate": 0.3,
    },
}


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, at, tasks, tmp_path):
    def make():
        return ProtoNetClassifier(**SMALL | CONFIGURATIONS[name])

    resumed = interrupt_and_resume(make, tmp_path / "run", tasks, at=at)
    assert_same(resumed, make().meta_fit(tasks), tasks)


def normalised(input_shape):
    return nn.Sequential(nn.Linear(*input_shape, 8), nn.BatchNorm1d(8))


def test_a_buffer_that_training_changes_is_resumed(tasks, tmp_path):
    def make():
        return ProtoNetClassifier(**SMALL | {"backbone": normalised})

    resumed = interrupt_and_resume(make, tmp_path / "run", tasks, at=5)
    assert_same(resumed, make().meta_fit(tasks), tasks)


def test_a_memory_network_and_a_regressor_resume(tasks, tmp_path):
    def mann():
        sizes = {"n_hidden": 8, "n_slots": 6, "slot_size": 4, "n_read_heads": 1}
        return MANNClassifier(**sizes, max_iter=4, random_state=0)

    resumed = interrupt_and_resume(mann, tmp_path / "mann", tasks, at=2)
    assert_same(resumed, mann().meta_fit(tasks), tasks)

    def maml():
        return MAMLRegressor(**SMALL)

    sines = make_sinusoid_tasks(20, random_state=0)
    resumed = interrupt_and_resume(maml, tmp_path / "maml", sines, at=5)
    assert_same(resumed, maml().meta_fit(sines), sines)


def test_the_best_validated_weights_survive_the_interruption(tasks, tmp_path):
    def make():
        return ProtoNetClassifier(**SMALL, validation_interval=2, meta_learning_rate=0.5)

    resumed = interrupt_and_resume(make, tmp_path / "run", tasks[:12], tasks[12:], at=9)
    whole = make().meta_fit(tasks[:12], tasks[12:])
    assert np.argmax([score for _, score in whole.validation_scores_]) < 3
    assert_same(resumed, whole, tasks)


def test_without_a_seed_the_one_that_was_drawn_goes_on(tasks, tmp_path):
    def make(seed=None):
        return ProtoNetClassifier(**SMALL | {"random_state": seed})

    resumed = interrupt_and_resume(make, tmp_path / "run", tasks, at=6)
    again = make().meta_fit(tasks, checkpoint=tmp_path / "run")
    assert resumed.meta_loss_curve_ == again.meta_loss_curve_
    generator = interrupt_and_resume(
        lambda: make(np.random.RandomState(3)), tmp_path / "other", tasks, at=6
    )
    assert_same(generator, make(np.random.RandomState(3)).meta_fit(tasks), tasks)


def test_continued_training_resumes_from_where_it_was(tasks, tmp_path):
    known = ProtoNetClassifier(**SMALL).meta_fit(tasks)
    known.save(tmp_path / "known")

    def make():
        from fewshot_sklearn import load

        return load(tmp_path / "known")

    resumed = interrupt_and_resume(
        make, tmp_path / "run", tasks, tasks[:5], at=6, method="partial_meta_fit"
    )
    assert_same(resumed, make().partial_meta_fit(tasks, tasks[:5]), tasks)


def test_draws_that_were_passed_over_are_passed_over_once(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), (np.arange(60) % 5 == 0).astype(int)
    groups = np.repeat(np.arange(6), 10)
    rare = GroupedTasks(X, y, groups, n_support=3, stratify=None, random_state=0)

    def make():
        return ProtoNetClassifier(**SMALL)

    with pytest.warns(SkippedTaskWarning) as whole_warnings:
        whole = make().meta_fit(rare)
    with pytest.warns(SkippedTaskWarning) as resumed_warnings:
        resumed = interrupt_and_resume(make, tmp_path / "run", rare, at=5)
    assert str(resumed_warnings[-1].message) == str(whole_warnings[-1].message)
    assert resumed.meta_loss_curve_ == whole.meta_loss_curve_


def test_a_generator_that_starts_again_is_read_up_to_where_it_was(tasks, tmp_path):
    def make():
        return ProtoNetClassifier(**SMALL)

    with pytest.raises(Killed):
        make().set_callbacks(KillAt(5)).meta_fit(iter(list(tasks)), checkpoint=tmp_path / "run")
    resumed = make().meta_fit(iter(list(tasks)), checkpoint=tmp_path / "run")
    assert resumed.meta_loss_curve_ == make().meta_fit(iter(list(tasks))).meta_loss_curve_


def test_a_finished_run_is_taken_as_it_is(tasks, tmp_path):
    whole = ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    again = ProtoNetClassifier(**SMALL).set_callbacks(KillAt(1))
    again.meta_fit(tasks, checkpoint=tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before
    assert_same(again.set_callbacks(), whole, tasks)


def test_a_run_that_early_stopping_ended_is_finished(tasks, tmp_path):
    def make():
        return ProtoNetClassifier(**SMALL | CONFIGURATIONS["early stopping"] | {"max_iter": 200})

    whole = make().meta_fit(tasks, checkpoint=tmp_path / "run")
    assert whole.n_meta_iter_ < 200
    again = make().meta_fit(tasks, checkpoint=tmp_path / "run")
    assert again.meta_loss_curve_ == whole.meta_loss_curve_


def test_the_time_that_was_used_up_counts(tasks, tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("fewshot_sklearn._training_run.time.monotonic", lambda: next(clock))

    def make():
        return ProtoNetClassifier(**SMALL | {"max_time": 30.0, "max_iter": 1000})

    whole = make().meta_fit(tasks)
    resumed = interrupt_and_resume(make, tmp_path / "run", tasks, at=4)
    assert 4 < resumed.n_meta_iter_ <= whole.n_meta_iter_


def test_a_run_that_time_ended_is_finished(tasks, tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("fewshot_sklearn._training_run.time.monotonic", lambda: next(clock))
    params = SMALL | {"max_time": 5.0, "max_iter": 1000}
    first = ProtoNetClassifier(**params).meta_fit(tasks, checkpoint=tmp_path / "run")
    again = ProtoNetClassifier(**params).meta_fit(tasks, checkpoint=tmp_path / "run")
    assert again.meta_loss_curve_ == first.meta_loss_curve_
    assert first.n_meta_iter_ < 20


def test_a_resumed_run_that_diverges_falls_back_to_the_weights_before(tasks, tmp_path):
    def make(max_iter=12):
        backbone = MLP(hidden_layer_sizes=(8,), norm=None)
        params = {"meta_optimizer": "sgd", "meta_learning_rate": 1e25, "clip_norm": None}
        return ProtoNetClassifier(backbone=backbone, max_iter=max_iter, random_state=0, **params)

    whole = make()
    with pytest.raises(MetaTrainingError) as error:
        whole.meta_fit(tasks)
    n_good = error.value.iteration - 1
    with pytest.raises(Killed):
        make().set_callbacks(KillAt(n_good)).meta_fit(tasks, checkpoint=tmp_path / "run")
    resumed = make()
    with pytest.raises(MetaTrainingError):
        resumed.meta_fit(tasks, checkpoint=tmp_path / "run")
    for name, value in weights(resumed).items():
        np.testing.assert_array_equal(value, weights(whole)[name])


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def written(tasks, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        ProtoNetClassifier(**SMALL).set_callbacks(KillAt(4)).meta_fit(tasks, checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"max_iter": 13}, "max_iter=12, now max_iter=13"),
        ({"distance": "cosine"}, "distance='sqeuclidean', now distance='cosine'"),
        ({"random_state": 1}, "random_state=0, now random_state=1"),
        ({"backbone": MLP(hidden_layer_sizes=(9,))}, r"hidden_layer_sizes=\(9,\)"),
        ({"backbone": nn.Linear(64, 3)}, r"now backbone=Linear\("),
        ({"backbone": lambda shape: nn.Linear(64, 3)}, "now backbone=.*lambda"),
    ],
)
def test_another_configuration_is_refused_and_named(changed, sentence, written, tasks):
    with pytest.raises(ValueError, match=sentence + ".*set it back to go on, or delete"):
        ProtoNetClassifier(**SMALL | changed).meta_fit(tasks, checkpoint=written)


def test_other_tasks_are_refused(written, tasks):
    X, y = tasks.X, tasks.y
    clf = ProtoNetClassifier(**SMALL)
    others = {
        "number": tasks[:10],
        "rows": EpisodicTasks(X * 2, y, n_way=(2, 5), n_query=3, n_tasks=20, random_state=0),
        "seed": EpisodicTasks(X, y, n_way=(2, 5), n_query=3, n_tasks=20, random_state=1),
        "kind": list(tasks),
    }
    for other in others.values():
        with pytest.raises(ValueError, match=r"another configuration.*tasks="):
            clf.meta_fit(other, checkpoint=written)
    with pytest.raises(ValueError, match="validation_tasks=None, now validation_tasks=Epi"):
        clf.meta_fit(tasks, tasks[:5], checkpoint=written)


def test_any_other_row_or_task_is_noticed(tmp_path, tasks):
    clf = ProtoNetClassifier(**SMALL | {"max_iter": 2})
    X, y = tasks.X.copy(), tasks.y
    clf.meta_fit(EpisodicTasks(X, y, n_tasks=1000, random_state=0), checkpoint=tmp_path / "rows")
    X[-1, -1] += 1
    with pytest.raises(ValueError, match="another configuration"):
        clf.meta_fit(
            EpisodicTasks(X, y, n_tasks=1000, random_state=0), checkpoint=tmp_path / "rows"
        )
    listed = list(EpisodicTasks(X, y, n_tasks=20, random_state=0))
    clf.meta_fit(listed, checkpoint=tmp_path / "list")
    listed[1], listed[2] = listed[2], listed[1]
    with pytest.raises(ValueError, match="pass the tasks of then"):
        clf.meta_fit(listed, checkpoint=tmp_path / "list")


def test_a_backbone_that_is_code_and_was_changed_is_noticed(tmp_path, tasks):
    def make(activation, width=8):
        def backbone(input_shape):
            return nn.Sequential(nn.Linear(*input_shape, width), activation())

        return ProtoNetClassifier(**SMALL | {"backbone": backbone, "max_iter": 2})

    make(nn.ReLU).meta_fit(tasks, checkpoint=tmp_path / "run")
    for other in (make(nn.Tanh), make(nn.ReLU, width=16)):
        with pytest.raises(ValueError, match=r"network=.*go back to the code that built it"):
            other.meta_fit(tasks, checkpoint=tmp_path / "run")
    assert make(nn.ReLU).meta_fit(tasks, checkpoint=tmp_path / "run").n_meta_iter_ == 2


def test_numbers_that_are_equal_are_the_same_configuration(written, tasks):
    same = SMALL | {"max_iter": np.int64(12), "clip_norm": 10}
    assert ProtoNetClassifier(**same).meta_fit(tasks, checkpoint=written).n_meta_iter_ == 12


def test_a_path_that_is_none_is_refused(tasks):
    with pytest.raises(TypeError, match="checkpoint must be the path of a file, got 3"):
        ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=3)


def test_a_refused_checkpoint_leaves_the_estimator_and_its_task_alone(written, tasks):
    task = tasks[0]
    clf = ProtoNetClassifier(**SMALL | {"max_iter": 3}).meta_fit(tasks)
    before = clf.fit(task.X_support, task.y_support).predict_proba(task.X_query)
    with pytest.raises(ValueError, match="another configuration"):
        clf.meta_fit(tasks, checkpoint=written)
    np.testing.assert_array_equal(clf.predict_proba(task.X_query), before)


def test_another_start_is_refused(written, tasks):
    known = ProtoNetClassifier(**SMALL).meta_fit(tasks)
    sentence = "starting weights=new, now starting weights=.*begin with the estimator as it was"
    with pytest.raises(ValueError, match=sentence):
        known.partial_meta_fit(tasks, checkpoint=written)


def test_another_estimator_is_refused(written, tasks):
    with pytest.raises(ValueError, match="estimator=ProtoNetClassifier, now estimator=MANN"):
        MANNClassifier(max_iter=12).meta_fit(tasks, checkpoint=written)


def test_what_only_says_where_to_compute_may_change(written, tasks):
    params = SMALL | {"device": "cpu", "verbose": 1}
    resumed = ProtoNetClassifier(**params).meta_fit(tasks, checkpoint=written)
    assert resumed.meta_loss_curve_ == ProtoNetClassifier(**SMALL).meta_fit(tasks).meta_loss_curve_


def test_a_damaged_file_is_refused_and_left_alone(written, tasks, tmp_path):
    data = bytearray(written.read_bytes())
    data[-3] ^= 1
    written.write_bytes(data)
    with pytest.raises(ValueError, match=r"run is damaged.*delete it to start anew"):
        ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=written)
    assert written.read_bytes() == data
    ProtoNetClassifier(**SMALL).meta_fit(tasks).save(tmp_path / "model")
    with pytest.raises(ValueError, match="did not write for this; delete it"):
        ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=tmp_path / "model")


def test_a_folder_that_does_not_exist_is_said_before_training(tasks, tmp_path):
    clf = ProtoNetClassifier(**SMALL)
    with pytest.raises(FileNotFoundError, match="which does not exist; make it first"):
        clf.meta_fit(tasks, checkpoint=tmp_path / "no" / "run")
    assert not hasattr(clf, "n_meta_iter_")


def test_tables_of_strings_and_gaps_have_a_checksum(tmp_path):
    frame = pd.DataFrame({"x": np.arange(24.0), "z": np.arange(24.0) % 3})
    shops, sold = np.repeat(list("abcd"), 6), np.tile(["yes", "no"], 12)
    tasks = GroupedTasks(frame, sold, shops, n_support=3, random_state=0)
    whole = ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=tmp_path / "run")
    again = ProtoNetClassifier(**SMALL).meta_fit(tasks, checkpoint=tmp_path / "run")
    assert again.meta_loss_curve_ == whole.meta_loss_curve_
    other = GroupedTasks(frame, sold[::-1], shops, n_support=3, random_state=0)
    with pytest.raises(ValueError, match="another configuration"):
        ProtoNetClassifier(**SMALL).meta_fit(other, checkpoint=tmp_path / "run")


# ---------------------------------------------------------------------- how often, and kill -9


def test_writing_takes_a_twentieth_of_the_time_at_most(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot_sklearn._checkpoint._PAUSE", 20)
    now, written = [0.0], []
    monkeypatch.setattr("fewshot_sklearn._checkpoint.time.monotonic", lambda: now[0])

    def write(*args, **kwargs):
        written.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr("fewshot_sklearn._checkpoint.write_file", write)
    file = Checkpoint(tmp_path / "run", {})
    clf = ProtoNetClassifier(**SMALL).meta_fit(tasks)

    class Run:
        n_done, finished = 1, False
        options = clf
        state = staticmethod(dict)

    for _ in range(100):
        file.offer(Run, {})
        now[0] += 1.0
    assert written == [0.0, 21.0, 42.0, 63.0, 84.0]
    Run.finished = True
    file.offer(Run, {})
    assert len(written) == 6


DRIVER = """
    import os, random, signal, sys, time
    import numpy as np
    from sklearn.datasets import load_digits
    from fewshot_sklearn import MLP, EpisodicTasks, ProtoNetClassifier

    path, n_kills = sys.argv[1], int(sys.argv[2])
    X, y = load_digits(return_X_y=True)
    tasks = EpisodicTasks(X / 16, y, n_query=3, n_tasks=50, random_state=0)

    def train(checkpoint=None):
        backbone = MLP(hidden_layer_sizes=(32,), dropout=0.2)
        clf = ProtoNetClassifier(
            backbone=backbone, max_iter=MAX_ITER, schedule="one_cycle", validation_interval=20,
            random_state=0,
        )
        return clf.meta_fit(tasks, tasks[:4], checkpoint=checkpoint)

    def save(clf, name):
        state = clf._meta.learner.state_dict()
        np.savez(name, losses=clf.meta_loss_curve_, **{k: v.numpy() for k, v in state.items()})

    random.seed(0)
    for kill in range(n_kills):
        child = os.fork()
        if not child:
            train(path)
            os._exit(1)  # it was too fast to be killed
        time.sleep(random.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
    save(train(path), path + ".resumed.npz")
    save(train(), path + ".whole.npz")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="killed children are forked")
@pytest.mark.timeout(300)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    path = str(tmp_path / "run")
    script = textwrap.dedent(DRIVER).replace("MAX_ITER", "1000")
    result = subprocess.run(
        [sys.executable, "-c", script, path, "20"], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["killed"] * 20
    resumed, whole = np.load(path + ".resumed.npz"), np.load(path + ".whole.npz")
    assert set(resumed) == set(whole)
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name])
