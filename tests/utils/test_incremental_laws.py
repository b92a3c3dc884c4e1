"""The laws of learning in pieces catch what breaks them, and pass what keeps them."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from fewshot_sklearn._incremental import IncrementalClassifier
from fewshot_sklearn.base import FewShotClassifier
from fewshot_sklearn.nn import Learner
from fewshot_sklearn.nn.functional import class_means, pairwise_sqeuclidean, update_class_means
from fewshot_sklearn.utils._laws import incremental_laws
from fewshot_sklearn.utils.estimator_checks import fewshot_checks

CHECKS = {
    check.__name__: check for check in fewshot_checks() if hasattr(incremental_laws, check.__name__)
}


class RunningMeans(Learner):
    """The nearest class mean under a learned linear map."""

    def __init__(self, n_features):
        super().__init__()
        self.map = nn.Linear(n_features, 4, bias=False)
        self.register_buffer("n_updates", torch.zeros(()))

    def adapt(self, x, y, mask):
        return self.update({"means": y.new_zeros(len(y), 0, 4), "n": y[:, 0, :0]}, x, y, mask)

    def update(self, state, x, y, mask):
        z = self.embed(self.map, x)
        means, counts = update_class_means(state["means"], state["n"], z, y, mask)
        return {"means": means, "n": counts}

    def predict(self, state, x):
        return -pairwise_sqeuclidean(self.embed(self.map, x), state["means"])


@dataclass(kw_only=True, eq=False, repr=False)
class Incremental(IncrementalClassifier):
    learner: ClassVar[type] = RunningMeans

    def _make_learner(self, spec):
        return self.learner(spec.input_shape[0])


@pytest.mark.parametrize("check", CHECKS)
def test_a_lawful_method_that_learns_in_pieces_passes(check):
    CHECKS[check](Incremental())


# -------------------------------------------------- learners that break one law each


class ForgetsEarlierRows(RunningMeans):
    def update(self, state, x, y, mask):
        return super().update({name: 0 * value for name, value in state.items()}, x, y, mask)


class WeighsPiecesAlike(RunningMeans):
    def update(self, state, x, y, mask):
        return super().update({**state, "n": state["n"].clamp_max(1)}, x, y, mask)


class HasNoRoomForNewClasses(RunningMeans):
    def update(self, state, x, y, mask):
        if state["n"].shape[1]:
            y = y[..., : state["n"].shape[1]]
        return super().update(state, x, y, mask)


class MixesTasks(RunningMeans):
    def update(self, state, x, y, mask):
        if state["n"].shape[1]:
            x = x - 0.1 * x.mean(dim=0)
        return super().update(state, x, y, mask)


class CountsPadding(RunningMeans):
    def update(self, state, x, y, mask):
        new = super().update(state, x, y, mask)
        return {**new, "n": new["n"] + (x.shape[1] if state["n"].shape[1] else 0)}


class CountsUpdates(RunningMeans):
    def update(self, state, x, y, mask):
        self.n_updates += 1
        return super().update(state, x, y, mask)


class WritesToTheState(RunningMeans):
    def update(self, state, x, y, mask):
        new = super().update(state, x, y, mask)
        if state["n"].shape == new["n"].shape:
            state["n"].copy_(new["n"])
        return new


BROKEN_LEARNERS = [
    (ForgetsEarlierRows, "check_update_goes_on_from_adapt", "must give what adapt to all the rows"),
    (ForgetsEarlierRows, "check_partial_fit_equals_one_fit", "must give what one fit on all rows"),
    (WeighsPiecesAlike, "check_update_goes_on_from_adapt", "must give what adapt to all the rows"),
    (WeighsPiecesAlike, "check_partial_fit_equals_one_fit", "must give what one fit on all rows"),
    (HasNoRoomForNewClasses, "check_update_goes_on_from_adapt", "new classes too"),
    (MixesTasks, "check_update_keeps_tasks_apart_and_ignores_padding", "must equal a loop"),
    (CountsPadding, "check_update_keeps_tasks_apart_and_ignores_padding", "use the mask"),
    (CountsUpdates, "check_update_changes_no_weight_and_no_state", "must leave n_updates bit"),
    (WritesToTheState, "check_update_changes_no_weight_and_no_state", "must leave n bit for bit"),
]


@pytest.mark.parametrize(("learner_class", "check", "sentence"), BROKEN_LEARNERS)
def test_a_broken_update_fails_the_right_check(learner_class, check, sentence):
    @dataclass(kw_only=True, eq=False, repr=False)
    class Broken(Incremental):
        learner: ClassVar[type] = learner_class

    CHECKS[check](Incremental())
    with pytest.raises(AssertionError, match=sentence):
        CHECKS[check](Broken())


# -------------------------------------------------- estimators that break one law each


class LearnerOnly(FewShotClassifier):
    def _make_learner(self, spec):
        return RunningMeans(spec.input_shape[0])


class WithoutUpdate(RunningMeans):
    update = Learner.update

    def adapt(self, x, y, mask):
        return {"means": class_means(self.embed(self.map, x), y, mask)}


class EstimatorOnly(Incremental):
    learner = WithoutUpdate


class BeginsAnewInPartialFit(Incremental):
    def partial_fit(self, X, y, classes=None):
        return self.fit(X, y)


class NeverBeginsAnew(Incremental):
    def fit(self, X, y):
        return self.partial_fit(X, y) if "_adapted" in vars(self) else super().fit(X, y)


class ForgetsToRefuse(Incremental):
    def _check_unchanged(self, meta, except_for=frozenset()):
        pass


BROKEN_ESTIMATORS = [
    (LearnerOnly, "check_partial_fit_is_there_where_update_is", "RunningMeans defines update"),
    (EstimatorOnly, "check_partial_fit_is_there_where_update_is", "does not define update"),
    (BeginsAnewInPartialFit, "check_partial_fit_equals_one_fit", "what one fit on all rows gives"),
    (NeverBeginsAnew, "check_partial_fit_equals_one_fit", "must begin another task"),
    (
        ForgetsToRefuse,
        "check_partial_fit_refuses_a_changed_meta_parameter",
        "of a meta-fitted estimator must refuse max_iter",
    ),
]


@pytest.mark.parametrize(("estimator_class", "check", "sentence"), BROKEN_ESTIMATORS)
def test_a_broken_estimator_fails_the_right_check(estimator_class, check, sentence):
    with pytest.raises(AssertionError, match=sentence):
        CHECKS[check](estimator_class())
