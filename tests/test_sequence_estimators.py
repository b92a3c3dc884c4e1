"""Every estimator from sequences to sequences: the laws that they have in common."""

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from fewshot_sklearn.utils.discovery import all_estimators
from fewshot_sklearn.utils.estimator_checks import (
    check_sequence_estimator,
    parametrize_with_sequence_checks,
)

SMALL = {"n_hidden": 6, "n_slots": 5, "slot_size": 4}
# Every network, and configurations that take another path through one than the default does.
NETWORKS = [
    {"memory": "ntm"},
    {"memory": "ntm", "controller": "feedforward", "n_read_heads": 2, "n_write_heads": 2},
    {"memory": "dnc", "n_read_heads": 2},
    {"memory": "lstm", "n_layers": 2},
]
CLASSES = [cls for _, cls in all_estimators(kind="sequence")]
EVERY = [cls(**SMALL, **network) for cls in CLASSES for network in NETWORKS]


@parametrize_with_sequence_checks(EVERY)
def test_every_estimator_of_sequences_keeps_the_laws(estimator, check):
    check(estimator)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "check",
    [
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    ],
)
def test_parameters_are_as_scikit_learn_wants_them(cls, check):
    check(cls.__name__, cls())


class Forgetful(CLASSES[0]):
    def partial_fit(self, X, y):
        return self.fit(X, y)


def test_what_breaks_laws_is_reported_with_their_names():
    broken = r"Forgetful breaks 3 of .*\n- check_another_network.*\n.*\n- check_partial_fit_goes_on"
    with pytest.raises(AssertionError, match=broken):
        check_sequence_estimator(Forgetful(**SMALL))


def test_classes_and_other_estimators_are_refused():
    for wrong in (CLASSES[0], clone):
        with pytest.raises(TypeError, match="the checks take instances of estimators from seq"):
            check_sequence_estimator(wrong)
