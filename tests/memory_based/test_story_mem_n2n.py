"""Memory networks over stories against their equations in NumPy, and as scikit-learn estimators."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from fewshot_sklearn import StoryMemN2NClassifier, StoryVectorizer
from fewshot_sklearn._supervised import RowBatch
from fewshot_sklearn.memory_based._story_mem_n2n import StoryMemN2NLearner

N, M, J, V, C, D = 4, 5, 6, 11, 3, 7
OPTIONS = {
    "n_words": V, "n_classes": C, "n_ages": M, "size": D, "n_hops": 3, "layer_wise": False,
    "answer_words": True, "position_encoding": True, "time_noise": 0.0, "linear_start_iter": 0,
}  # fmt: skip


def make_learner(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = StoryMemN2NLearner(**OPTIONS | options).double()
        for p in learner.parameters():
            torch.nn.init.normal_(p)
    return learner


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 1 + V, size=(N, 1 + M, J))
    x[0, 1:3] = x[1, :, 4:] = x[2, 2, 1:] = 0  # shorter stories and sentences
    return x


def in_numpy(learner, x, *, linear=False):
    """Sukhbaatar et al. (2015), sections 2 and 4.1, story by story."""
    w = {name: value.detach().numpy() for name, value in learner.state_dict().items()}
    layer_wise, K = learner.layer_wise, learner.n_hops

    def sentence(words, table):
        J = len(words)
        vector = np.zeros(D)
        for j, word in enumerate(words, start=1):
            k = np.arange(1, D + 1)
            weight = (1 - j / J) - (k / D) * (1 - 2 * j / J) if learner.position_encoding else 1
            vector += weight * table[word]
        return vector

    B = w["question_words"][:, 0] if layer_wise else w["words"][:, 0]
    H = w["carry.weight"] if layer_wise else np.eye(D)
    W = w["answers"] if "answers" in w else w["words"][1:, K]
    logits, attention = [], []
    for row in x:
        question, *story = [sentence[sentence > 0] for sentence in row]
        n_newer = np.cumsum([len(words) > 0 for words in story][::-1])[::-1] - 1
        u, of_hops = sentence(question, B), []
        for k in range(K):
            pair = (0, 1) if layer_wise else (k, k + 1)
            m, c = (
                [
                    sentence(words, w["words"][:, table])
                    + (w["time"][newer, table] if "time" in w and len(words) else 0)
                    for words, newer in zip(story, n_newer, strict=True)
                ]
                for table in pair
            )
            scores = np.array([u @ m_i for m_i in m])
            p = scores if linear else softmax(scores)
            u = H @ u + sum(p_i * c_i for p_i, c_i in zip(p, c, strict=True))
            of_hops.append(p)
        logits.append(W @ u)
        attention.append(of_hops)
    return np.array(logits), np.array(attention)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"n_hops": 1}, {"layer_wise": True}, {"layer_wise": True, "n_hops": 1},
        {"answer_words": False}, {"position_encoding": False}, {"n_ages": 0},
        {"linear_start_iter": 1},
    ],
    ids=str,
)  # fmt: skip
def test_logits_and_attention_are_those_of_the_equations(x, options):
    learner = make_learner(**options)
    logits, attention = in_numpy(learner, x, linear="linear_start_iter" in options)
    x = torch.from_numpy(x)
    with torch.no_grad():
        np.testing.assert_allclose(learner(x), logits[:, :C], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(learner.read(x)[1], attention, rtol=1e-8, atol=1e-10)
        losses = -log_softmax(logits, axis=1)[:, 1]
        batch = RowBatch(x, torch.ones(N, dtype=torch.int64))
        np.testing.assert_allclose(learner.meta_loss(batch), losses.mean(), rtol=1e-8)


def test_the_softmax_comes_after_the_linear_iterations(x):
    learner = make_learner(linear_start_iter=2)
    batch = RowBatch(torch.from_numpy(x), torch.tensor([0, 1, 2, 0]))
    states = []
    for _ in range(3):
        states.append(learner.linear)
        learner.meta_gradient(batch)
    assert states == [True, True, False]


@pytest.mark.parametrize("layer_wise", [False, True])
def test_every_parameter_gets_a_gradient(x, layer_wise):
    learner = make_learner(layer_wise=layer_wise)
    learner.meta_gradient(RowBatch(torch.from_numpy(x), torch.tensor([0, 1, 2, 0])))
    for name, p in learner.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 1e-9, name


# ---------------------------------------------------------------------------- the estimator


def where_is(n_stories=150, seed=0):
    """Return stories in which people walk about, questions where one is, and the last places."""
    rng = np.random.default_rng(seed)
    people, places = ["Mary", "John", "Ann"], ["garden", "office", "kitchen"]
    moves = [f"{who} went to the {place}." for who, place in itertools.product(people, places)]
    samples, answers = [], []
    for _ in range(n_stories):
        story = rng.choice(moves, size=rng.integers(2, 6)).tolist()
        who = rng.choice([sentence.split()[0] for sentence in story])
        last = next(sentence for sentence in reversed(story) if sentence.startswith(who))
        samples.append((story, f"Where is {who}?"))
        answers.append(last.rstrip(".").split()[-1])
    return samples, np.array(answers)


def small(**params):
    options = {"n_hops": 1, "max_iter": 300, "linear_start_iter": 50, "learning_rate": 0.02}
    return StoryMemN2NClassifier(**options | {"random_state": 0, "time_noise": 0.0} | params)


@pytest.fixture(scope="module")
def stories():
    return where_is()


@pytest.fixture(scope="module")
def fitted(stories):
    return make_pipeline(StoryVectorizer(), small()).fit(*stories)


def test_it_answers_questions_about_new_stories_in_a_pipeline(fitted):
    assert fitted.score(*where_is(200, seed=1)) > 0.95


def test_it_attends_to_the_sentence_that_answers(fitted):
    story = ["Mary went to the garden.", "John went to the office.", "Ann went to the kitchen."]
    X = fitted[0].transform([(story, "Where is John?")])
    attention = fitted[1].attention(X)
    assert attention.shape == (1, 1, fitted[0].n_sentences_)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)
    assert attention[0, 0].argmax() == fitted[0].n_sentences_ - 2


def test_searches_and_cross_validation_take_stories_as_samples(stories):
    pipeline = make_pipeline(StoryVectorizer(), small(max_iter=60))
    grid = {"storymemn2nclassifier__n_hops": [1, 2], "storyvectorizer__max_sentences": [3, 6]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(*stories)
    assert search.best_estimator_.predict(stories[0]).shape == (150,)
    assert cross_val_score(pipeline, *stories, cv=2).shape == (2,)


def test_probabilities_and_scores_are_those_of_the_network(fitted, stories):
    X, clf = fitted[0].transform(stories[0]), fitted[1]
    probabilities, scores = clf.predict_proba(X), clf.decision_function(X)
    np.testing.assert_allclose(probabilities, softmax(scores, axis=1))
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[probabilities.argmax(axis=1)])


def test_two_answers_have_one_score(stories):
    samples, answers = stories
    X, y = StoryVectorizer().fit_transform(samples), answers == "garden"
    clf = small(max_iter=5, answer_words=False).fit(X, y)
    assert clf.decision_function(X).shape == (150,)
    np.testing.assert_array_equal(clf.predict(X), clf.decision_function(X) > 0)


def test_the_same_random_state_gives_the_same_and_generators_are_left_alone(stories):
    X = StoryVectorizer().fit_transform(*stories)
    before = torch.get_rng_state()
    first, second = (small(max_iter=30).fit(X, stories[1]) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.loss_curve_ == second.loss_curve_
    assert torch.equal(torch.get_rng_state(), before)
    other = clone(first).set_params(random_state=1).fit(X, stories[1])
    assert not np.array_equal(other.predict_proba(X), first.predict_proba(X))


def test_pickles_keep_predictions_and_clones_are_new(fitted, stories):
    X, clf = fitted[0].transform(stories[0]), fitted[1]
    copy = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copy.predict_proba(X), clf.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(clf).predict(X)


def test_early_stopping_keeps_the_best_validated_weights(stories):
    X = StoryVectorizer().fit_transform(*stories)
    clf = small(early_stopping=True, validation_interval=25, n_iter_no_change=3).fit(X, stories[1])
    assert clf.n_iter_ == len(clf.loss_curve_) <= 300
    assert [n for n, _ in clf.validation_scores_][:2] == [25, 50]


def test_warm_start_goes_on(stories):
    X, y = StoryVectorizer().fit_transform(*stories), stories[1]
    clf = small(max_iter=20, warm_start=True).fit(X, y)
    first = list(clf.loss_curve_)
    clf.fit(X, y)
    assert clf.n_iter_ == 40
    assert clf.loss_curve_[:20] == first
    with pytest.raises(ValueError, match="goes on with the classes"):
        clf.fit(X, np.roll(["a", "b"] * 75, 1))


def test_words_that_fit_did_not_see_are_none(fitted, stories):
    X, clf = fitted[0].transform(stories[0][:5]), fitted[1]
    unknown = np.where(X == 0, 999, X)
    np.testing.assert_array_equal(clf.predict_proba(unknown), clf.predict_proba(X))


def test_stories_of_another_shape_than_those_of_fit_are_refused(fitted, stories):
    X = fitted[0].transform(stories[0])
    with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 6"):
        fitted[1].predict(X[:, :-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X[:, 0], y), "the question first, as StoryVectorizer gives them; got the"),
        (lambda X, y: (X[:, :1], y), "got the shape"),
        (lambda X, y: (X + 0.5, y), "whole word numbers"),
        (lambda X, y: (X - 1, y), "whole word numbers"),
        (lambda X, y: (X, y[1:]), "one label for each"),
        (lambda X, y: (X, None), "requires y to be passed"),
        (lambda X, y: (X, np.linspace(0, 1, len(X))), "Unknown label type"),
        (lambda X, y: (X[:0], y[:0]), "minimum of 1 is required"),
    ],
)
def test_what_are_no_stories_is_refused(stories, change, message):
    X = StoryVectorizer().fit_transform(*stories)
    with pytest.raises(ValueError, match=message):
        small().fit(*change(X, stories[1]))


def test_wrong_parameters_are_refused(stories):
    X = StoryVectorizer().fit_transform(*stories)
    with pytest.raises(ValueError, match="'tying' parameter"):
        small(tying="none").fit(X, stories[1])


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_the_checks_of_sklearn_find_nothing():
    check_estimator(small())
