"""Meta-training in two processes.

``torchrun`` starts this file twice as a script; each process goes through the scenarios below and
writes what came out. The tests compare that between the processes, and with one process in which
the batch is twice as large.
"""

import logging
import os
import socket
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.decomposition import PCA
from sklearn.preprocessing import FunctionTransformer
from sklearn.random_projection import GaussianRandomProjection
from torch import nn

import fewshot_sklearn
from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    GroupedTasks,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
    make_meta_pipeline,
)
from fewshot_sklearn import _distributed as distributed
from fewshot_sklearn.datasets import make_sinusoid_tasks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6))
Y = np.repeat(np.arange(8), 15)
X[np.arange(120), Y % 6] += 2
TARGET = X @ RNG.normal(size=6)
GROUPS = RNG.choice(10, 120, p=np.arange(1, 11) / 55)
EPISODES = EpisodicTasks(X, Y, n_way=3, n_shot=(1, 2), n_query=3, n_tasks=20, random_state=0)
RAGGED = GroupedTasks(X, Y % 5 == 0, GROUPS, n_support=(3, 5), stratify=False, random_state=0)
SINUSOIDS = make_sinusoid_tasks(20, random_state=0)
NOISE: list[float] = []


class Noisy(nn.Module):
    """A backbone with noise, running statistics, and weights that not every process uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.used_in_one = nn.Parameter(torch.zeros(4))
        self.used_in_none = nn.Parameter(torch.ones(4))

    def forward(self, x):
        if self.training:
            NOISE.append(torch.rand(1).item())
        if dist.is_initialized() and dist.get_rank():
            return self.layers(x) * self.used_in_one.exp()
        return self.layers(x)


class Callback:
    """A callback that stops at the third iteration, or fails there."""

    def __init__(self, failure=None):
        self.failure, self.n_calls = failure, 0

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.n_calls += 1
        if self.n_calls == 3 and self.failure is not None:
            raise self.failure
        return self.n_calls == 3


def new(method=ProtoNetClassifier, **changes):
    """Return a small estimator."""
    defaults = {
        "backbone": MLP(hidden_layer_sizes=(8,)),
        "max_iter": 6,
        "meta_batch_size": 2,
        "precision": "float64",
        "random_state": 0,
    }
    return method(**(defaults | changes))


# ----------------------------------------------- what two processes do as one does


def two_calls(**changes):
    return new(**changes).meta_fit(EPISODES).partial_meta_fit(EPISODES)


def early_stopping(**changes):
    stopping = {"max_iter": 30, "early_stopping": True, "n_iter_no_change": 2}
    est = new(validation_interval=2, **stopping, **changes)
    return est.meta_fit(EPISODES, EPISODES[:5])


SAME = {
    "ProtoNet": lambda **kw: new(**kw).meta_fit(EPISODES),
    "MAML": lambda **kw: new(MAMLClassifier, n_inner_steps=2, **kw).meta_fit(EPISODES),
    "MAML regression": lambda **kw: new(MAMLRegressor, **kw).meta_fit(SINUSOIDS),
    "MANN, whose columns are shuffled": lambda **kw: new(MANNClassifier, **kw).meta_fit(EPISODES),
    "unequal tasks, some left out": lambda **kw: new(**kw).meta_fit(RAGGED),
    "a generator": lambda **kw: new(**kw).meta_fit(EPISODES.task(i) for i in range(7)),
    "early stopping": early_stopping,
    "two calls": two_calls,
}
CASES = [(name, "float64") for name in SAME] + [(name, "float32") for name in [*SAME][:3]]


# ----------------------------------------------- what only two processes can do


def attempt(est, *args, **options):
    """Meta-fit; keep the error with the estimator."""
    try:
        est.meta_fit(*args, **options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        est.error = f"{type(error).__name__}: {error}"
    return est


def everything_is_random(rank, folder):
    tasks = GroupedTasks(X, TARGET, GROUPS, n_support=4)
    return attempt(new(MAMLRegressor, random_state=None), tasks)


def there_is_noise(rank, folder):
    NOISE.clear()
    est = attempt(new(backbone=Noisy()), EPISODES)
    est.noise = [*NOISE]
    return est


def time_is_short(rank, folder):
    return attempt(new(max_iter=10**6, max_time=0.2, schedule="linear"), EPISODES)


def a_callback_stops(rank, folder):
    callback = Callback()
    est = attempt(new().set_callbacks(callback), EPISODES)
    est.n_calls = callback.n_calls
    return est


def progress_is_logged(rank, folder):
    seen = []
    handler = logging.Handler()
    handler.emit = seen.append
    logger = logging.getLogger("fewshot_sklearn")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    est = attempt(new(verbose=1, validation_interval=2), EPISODES)
    est.n_calls = len(seen)
    return est


def parameters_differ(rank, folder):
    return attempt(new(distance=["cosine", "sqeuclidean"][rank], random_state=rank), EPISODES)


def one_diverges(rank, folder):
    rows = X.copy()
    rows[40:] *= 1e30**rank  # of some classes only, so that the first tasks can be learned
    tasks = EpisodicTasks(rows, Y, n_way=2, n_query=3, n_tasks=20, random_state=0)
    return attempt(new(precision="float32", meta_batch_size=1, max_iter=50), tasks)


def one_cannot_read(rank, folder):
    def read():
        for i in range(1000):
            if rank and i == 50:
                raise OSError("the disk is gone")
            yield EPISODES.task(i % 20, i // 20)

    return attempt(new(max_iter=30), read())


def one_has_bad_rows(rank, folder):
    rows = np.where(rank, np.nan, X)
    return attempt(new(), EpisodicTasks(rows, Y, n_way=3, n_query=3, random_state=0))


def a_callback_fails(rank, folder):
    return attempt(new().set_callbacks(Callback(OSError("the screen is gone"))), EPISODES)


def one_has_a_wrong_parameter(rank, folder):
    return attempt(new(max_iter=[5, -1][rank]), EPISODES)


def one_has_rows_for_tasks(rank, folder):
    return attempt(new(), [EPISODES, X][rank])


class FailsAtTheBeginning(Callback):
    """A callback that fails before the second meta-iteration."""

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "meta-iteration" and context.task_id == 1:
            raise OSError("the screen is gone")


def a_callback_fails_at_the_beginning(rank, folder):
    return attempt(new().set_callbacks(FailsAtTheBeginning()), EPISODES)


def the_disk_is_full(rank, folder):
    def fail(*args, **options):
        raise OSError("the disk is full")

    with mock.patch("fewshot_sklearn._checkpoint.write_file", fail):
        return attempt(new(), EPISODES, checkpoint=folder / "other")


def training_is_resumed(rank, folder):
    settings = {"backbone": Noisy(), "max_iter": 8}
    attempt(
        new(**settings).set_callbacks(Callback(OSError())), EPISODES, checkpoint=folder / "file"
    )
    est = attempt(new(**settings), EPISODES, checkpoint=folder / "file")
    est.uninterrupted = attempt(new(**settings), EPISODES).meta_loss_curve_
    return est


def learned_behind(transformer, tasks=EPISODES, **params):
    """Meta-fit a pipeline; keep what it transforms by and predicts with its last step."""
    pipe = make_meta_pipeline(transformer, new(**params))
    attempt(pipe, tasks)
    pipe[-1].error = getattr(pipe, "error", None)
    if hasattr(pipe[0], "components_"):
        pipe[-1].components = pipe[0].components_
        pipe[-1].predictions = pipe.predict_tasks(EPISODES[:5])
    return pipe[-1]


def transformers_are_random(rank, folder):
    return learned_behind(GaussianRandomProjection(3))


def transformers_see_other_rows(rank, folder):
    return learned_behind(PCA(3, random_state=0), EPISODES[rank * 10 : rank * 10 + 10])


class FailsIn(FunctionTransformer):
    """A transformer that can be used in one of two processes."""

    def __init__(self, rank=0):
        super().__init__()
        self.rank = rank

    def transform(self, X):
        if dist.get_rank() == self.rank:
            raise ValueError("these rows cannot be transformed")
        return X


def a_transformer_fails_in_the_first(rank, folder):
    return learned_behind(FailsIn(0))


def a_transformer_fails_in_the_second(rank, folder):
    return learned_behind(FailsIn(1))


def a_transformer_cannot_be_sent(rank, folder):
    return learned_behind(FunctionTransformer(lambda rows: rows))


def only_one_has_kept_transformers(rank, folder):
    pipe = make_meta_pipeline(GaussianRandomProjection(3), new(warm_start=True))
    if rank == 0:
        connected, distributed._in_a_group = distributed._in_a_group, lambda: False
        pipe.meta_fit(EPISODES)
        distributed._in_a_group = connected
    return attempt(pipe, EPISODES)


def only_one_fits(rank, folder):
    return new().fit(X, Y) if rank == 0 else None


TOGETHER = [
    "everything_is_random",
    "there_is_noise",
    "time_is_short",
    "a_callback_stops",
    "progress_is_logged",
    "parameters_differ",
    "one_diverges",
    "one_cannot_read",
    "one_has_bad_rows",
    "a_callback_fails",
    "one_has_a_wrong_parameter",
    "one_has_rows_for_tasks",
    "a_callback_fails_at_the_beginning",
    "the_disk_is_full",
    "training_is_resumed",
    "transformers_are_random",
    "transformers_see_other_rows",
    "a_transformer_fails_in_the_first",
    "a_transformer_fails_in_the_second",
    "a_transformer_cannot_be_sent",
    "only_one_has_kept_transformers",
    "only_one_fits",
]
EXTRA = ("error", "noise", "n_calls", "uninterrupted", "components", "predictions")


def outcome(run, *args, **options):
    """Return what a scenario came to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est = run(*args, **options)
    kept = {name: getattr(est, name, None) for name in EXTRA}
    kept["warnings"] = [type(w.message).__name__ for w in caught]
    if hasattr(est, "meta_loss_curve_"):
        kept["weights"] = {k: w.numpy() for k, w in est._meta.learner.state_dict().items()}
        kept["curves"] = [est.meta_loss_curve_, [score for _, score in est.validation_scores_]]
        kept["numbers"] = [est.n_meta_iter_, est._meta.n_epochs]
        kept["temperature"] = est._meta.temperature
        kept["targets"] = vars(est._meta.targets)
    return kept


def main(folder):
    """Go through all scenarios, as one process of two."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    outcomes = {case: outcome(SAME[case[0]], precision=case[1]) for case in CASES}
    outcomes |= {name: outcome(globals()[name], rank, folder) for name in TOGETHER}
    torch.save(outcomes | {"folder": folder}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))


# ----------------------------------------------- tests


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What came out in each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), __file__, str(folder)]
    paths = [str(Path(fewshot_sklearn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_the_same(outcomes):
    """Compare all that was learned in the processes, bit for bit."""
    for name in ("weights", "curves", "numbers", "temperature", "targets"):
        np.testing.assert_equal(outcomes[1][name], outcomes[0][name])


@pytest.mark.parametrize("case", CASES, ids=lambda case: ", ".join(case))
def test_two_processes_do_what_one_does_with_twice_the_batch(two, case):
    name, precision = case
    outcomes = [process[case] for process in two]
    assert_the_same(outcomes)
    one = outcome(SAME[name], precision=precision, meta_batch_size=4)
    tolerance = {"rtol": 0, "atol": 1e-5} if precision == "float32" else {"rtol": 1e-9}
    for weight, expected in one["weights"].items():
        np.testing.assert_allclose(outcomes[0]["weights"][weight], expected, **tolerance)
    for curve, expected in zip(outcomes[0]["curves"], one["curves"], strict=True):
        np.testing.assert_allclose(curve, expected, **tolerance)
    assert outcomes[0]["numbers"] == one["numbers"]
    assert outcomes[0]["temperature"] == pytest.approx(one["temperature"], rel=1e-4)
    np.testing.assert_equal(outcomes[0]["targets"], one["targets"])
    assert [o["warnings"] for o in outcomes] == [one["warnings"], []]


def test_the_ragged_tasks_are_a_test(two):
    """Some are left out, and they differ in size."""
    assert two[0]["unequal tasks, some left out", "float64"]["warnings"] == ["SkippedTaskWarning"]
    assert len({len(task.y_query) for task in RAGGED}) > 1


def test_processes_learn_the_same_without_any_seed(two):
    assert_the_same([process["everything_is_random"] for process in two])


def test_each_process_has_its_own_noise_and_all_the_same_weights_and_buffers(two):
    outcomes = [process["there_is_noise"] for process in two]
    assert_the_same(outcomes)
    assert "backbone.layers.1.running_var" in outcomes[0]["weights"]
    assert not set(outcomes[0]["noise"]) & set(outcomes[1]["noise"])


def test_a_weight_moves_where_any_process_has_a_gradient(two):
    weights = two[0]["there_is_noise"]["weights"]
    assert (weights["backbone.used_in_one"] != 0).all()
    assert (weights["backbone.used_in_none"] == 1).all()


def test_processes_stop_together_when_the_time_is_over(two):
    outcomes = [process["time_is_short"] for process in two]
    assert_the_same(outcomes)
    assert outcomes[0]["numbers"][0] < 10**6


def test_callbacks_are_called_in_the_main_process_and_stop_all(two):
    outcomes = [process["a_callback_stops"] for process in two]
    assert_the_same(outcomes)
    assert [o["numbers"][0] for o in outcomes] == [3, 3]
    assert [o["n_calls"] for o in outcomes] == [4, 0]  # the last one for meta_fit itself


def test_the_main_process_logs(two):
    assert [process["progress_is_logged"]["n_calls"] for process in two] == [3, 0]


def test_parameters_that_differ_are_named_in_every_process(two):
    for process in two:
        error = process["parameters_differ"]["error"]
        assert error.startswith("ValueError: all processes of a group must call meta_fit alike")
        assert "process 0 has distance='cosine' and process 1 distance='sqeuclidean'" in error


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_the_last_good_weights(two):
    outcomes = [process["one_diverges"] for process in two]
    assert_the_same(outcomes)
    assert "meta-loss is nan" in outcomes[0]["error"]
    assert outcomes[0]["error"] == outcomes[1]["error"]
    assert 0 < outcomes[0]["numbers"][0] < 50
    for weight in outcomes[0]["weights"].values():
        assert np.isfinite(weight).all()


@pytest.mark.parametrize(
    ("scenario", "failing", "message"),
    [
        ("one_cannot_read", 1, "OSError: the disk is gone"),
        ("one_has_bad_rows", 1, "TaskError: X must be finite"),
        ("a_callback_fails", 0, "OSError: the screen is gone"),
        ("one_has_a_wrong_parameter", 1, "'max_iter' parameter of ProtoNetClassifier must be"),
        ("one_has_rows_for_tasks", 1, "TypeError: tasks must be a sequence of tasks"),
        ("a_callback_fails_at_the_beginning", 0, "OSError: the screen is gone"),
        ("the_disk_is_full", 0, "OSError: the disk is full"),
    ],
)
def test_an_error_in_one_process_ends_all_and_each_says_why(two, scenario, failing, message):
    outcomes = [process[scenario] for process in two]
    assert message in outcomes[failing]["error"]
    assert "RuntimeError: another process of the group failed" in outcomes[1 - failing]["error"]
    if "weights" in outcomes[0]:
        assert_the_same(outcomes)


@pytest.mark.parametrize("scenario", ["transformers_are_random", "transformers_see_other_rows"])
def test_a_pipelines_transformers_are_those_of_the_first_process(two, scenario):
    outcomes = [process[scenario] for process in two]
    assert_the_same(outcomes)
    for name in ("components", "predictions"):
        assert outcomes[0][name] is not None
        np.testing.assert_equal(outcomes[1][name], outcomes[0][name])


@pytest.mark.parametrize(
    ("scenario", "failing", "message"),
    [
        ("a_transformer_fails_in_the_first", 0, "these rows cannot be transformed"),
        ("a_transformer_fails_in_the_second", 1, "these rows cannot be transformed"),
        ("a_transformer_cannot_be_sent", 0, "ValueError: in several processes the main one sends"),
    ],
)
def test_a_transformer_that_fails_in_one_process_ends_all(two, scenario, failing, message):
    outcomes = [process[scenario] for process in two]
    assert message in outcomes[failing]["error"]
    assert "RuntimeError: another process of the group failed" in outcomes[1 - failing]["error"]


def test_processes_that_do_not_all_keep_their_transformers_are_refused(two):
    for process in two:
        error = process["only_one_has_kept_transformers"]["error"]
        assert "process 0 has transformers=kept and process 1 transformers=fitted" in error


def test_objects_go_through_whatever_connects_the_processes(monkeypatch):
    monkeypatch.setattr(distributed, "_in_a_group", lambda: True)
    monkeypatch.setattr(distributed, "gpu_number", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for backends, device in [("cuda:nccl", "cuda:3"), ("cpu:gloo,cuda:nccl", "cpu")]:
        monkeypatch.setattr(dist, "get_backend_config", lambda backends=backends: backends)
        assert distributed.object_world().device == torch.device(device)


def test_a_resumed_training_of_two_processes_is_the_uninterrupted_one(two):
    outcomes = [process["training_is_resumed"] for process in two]
    assert_the_same(outcomes)
    assert outcomes[0]["curves"][0] == outcomes[0]["uninterrupted"]


def test_a_checkpoint_is_for_the_same_number_of_processes(two):
    with pytest.raises(ValueError, match="written with processes=2, now processes=1"):
        new().meta_fit(EPISODES, checkpoint=two[0]["folder"] / "file")


def test_a_plain_fit_is_of_its_process(two):
    alone = new().fit(X, Y)
    assert two[0]["only_one_fits"]["curves"][0] == alone.meta_loss_curve_
    assert "curves" not in two[1]["only_one_fits"]


def test_what_torchrun_leaves_in_the_environment_connects_nothing(monkeypatch):
    """Workers of joblib inherit it, and must not wait for processes that never call."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_PORT": 9}.items():
        monkeypatch.setenv(name, str(value))
    new(max_iter=1).meta_fit(EPISODES)
    assert not dist.is_initialized()


def test_a_device_that_the_group_cannot_reach_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "_in_a_group", lambda: True)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match="tensors of device='cpu', but its backends are 'cuda:nc"):
        distributed.current_world(lambda: torch.device("cpu"))


@pytest.mark.parametrize(
    ("grouped", "n_gpus", "current", "expected"),
    [(True, 4, 0, 2), (True, 4, 3, 3), (True, 1, 0, 0), (False, 4, 0, 0)],
)
def test_each_process_of_a_group_has_the_gpu_of_its_number(
    monkeypatch, grouped, n_gpus, current, expected
):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(distributed, "_in_a_group", lambda: grouped)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert distributed.gpu_number() == expected
