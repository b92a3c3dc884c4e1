"""The display of what a memory reads and writes."""

import numpy as np
import pytest

from fewshot_sklearn import NTMSequenceClassifier, ProtoNetClassifier
from fewshot_sklearn.datasets import make_copy_sequences
from fewshot_sklearn.inspection import MemoryDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def _close():
    yield
    plt.close("all")


def one_slot_after_the_other(n_steps=4, n_slots=9, first=3):
    weights = np.zeros((n_steps, 1, n_slots))
    weights[np.arange(n_steps), 0, first + np.arange(n_steps)] = 1
    return weights


@pytest.mark.usefixtures("_close")
def test_slots_between_the_first_and_the_last_that_are_used_are_shown():
    write = one_slot_after_the_other()
    display = MemoryDisplay(write[::-1], write).plot()
    np.testing.assert_array_equal(display.slots_, [3, 4, 5, 6])
    written, read = (image.get_array() for image in display.images_)
    np.testing.assert_array_equal(written, np.eye(4))
    np.testing.assert_array_equal(read, np.eye(4)[:, ::-1])
    assert display.axes_[0].get_xlim() == (-0.5, 3.5)
    assert display.axes_[0].get_ylim() == (2.5, 6.5)


@pytest.mark.usefixtures("_close")
def test_weights_of_heads_are_added():
    two = np.full((3, 2, 4), 0.25)
    display = MemoryDisplay(two, two).plot()
    assert (display.images_[1].get_array() == 0.5).all()


@pytest.mark.usefixtures("_close")
def test_all_slots_are_shown_where_none_is_used():
    none = np.zeros((3, 1, 5))
    assert len(MemoryDisplay(none, none).plot().slots_) == 5


@pytest.mark.usefixtures("_close")
@pytest.mark.parametrize("memory", ["ntm", "dnc"])
def test_an_estimator_is_drawn_with_its_own_trace(memory):
    X, y = make_copy_sequences(10, lengths=3, n_bits=2, random_state=0)
    clf = NTMSequenceClassifier(memory=memory, n_slots=6, max_iter=2, random_state=0).fit(X, y)
    display = MemoryDisplay.from_estimator(clf, X[0])
    trace = clf.memory_trace(X[0])
    np.testing.assert_array_equal(display.read_weights, trace.read_weights)
    np.testing.assert_array_equal(display.write_weights, trace.write_weights)
    np.testing.assert_allclose(trace.outputs, clf.predict_proba(X[:1])[0], rtol=1e-5)


def test_a_network_without_slots_is_refused():
    X, y = make_copy_sequences(10, lengths=3, n_bits=2, random_state=0)
    clf = NTMSequenceClassifier(memory="lstm", max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="memory='lstm' has no slots"):
        MemoryDisplay.from_estimator(clf, X[0])


def test_an_estimator_without_a_memory_is_refused():
    with pytest.raises(TypeError, match=r"must have memory_trace, .* got ProtoNetClassifier"):
        MemoryDisplay.from_estimator(ProtoNetClassifier(), np.zeros((3, 2)))


def test_weights_must_belong_together():
    with pytest.raises(ValueError, match="same length and slots"):
        MemoryDisplay(np.zeros((3, 1, 5)), np.zeros((4, 1, 5)))
