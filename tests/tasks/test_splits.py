import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fewshot_sklearn.tasks._splits import allocate, draw_plain, draw_stratified, skip

GROUPS = st.lists(st.integers(1, 300), min_size=1, max_size=12).flatmap(
    lambda counts: st.tuples(
        st.just(np.array(counts)), st.integers(len(counts), max(sum(counts), 1))
    )
)


@given(GROUPS, st.integers(0, 100))
def test_shares_are_proportional_with_at_least_one_row_a_class(group, seed):
    counts, n_support = group
    taken = allocate(np.random.default_rng(seed), counts, n_support)
    assert taken.sum() == n_support
    assert (taken >= 1).all()
    assert (taken <= counts).all()
    share = counts * n_support / counts.sum()
    if (share >= 1).all():
        assert (abs(taken - share) < 1).all()


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(0)
    extra = [allocate(rng, np.array([10, 10]), 3).argmax() for _ in range(200)]
    assert 60 < sum(extra) < 140


def test_a_dominant_class_gives_way_to_many_rare_ones():
    counts = np.array([1000] + [1] * 99)
    assert allocate(np.random.default_rng(0), counts, 110).tolist() == [11] + [1] * 99


@given(GROUPS, st.integers(0, 100), st.sampled_from([draw_plain, draw_stratified]))
def test_every_class_enters_the_support_once(group, seed, draw):
    counts, n_support = group
    picks = draw(np.random.default_rng(seed), counts, n_support)
    assert len(set(picks.tolist())) == len(picks) == n_support
    classes = np.repeat(np.arange(len(counts)), counts)[picks]
    assert set(classes) == set(range(len(counts)))


@given(st.sets(st.integers(0, 30)))
def test_skipped_numbers_are_the_other_positions(taken):
    others = skip(np.array(sorted(taken), dtype=np.int64), np.arange(31 - len(taken)))
    assert sorted({*others.tolist(), *taken}) == list(range(31))
