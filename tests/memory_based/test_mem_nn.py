"""Strongly supervised memory networks against Weston et al. (2015) in NumPy."""

import pickle

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from fewshot_sklearn import MemNNClassifier, StoryVectorizer
from fewshot_sklearn._supervised import RowBatch
from fewshot_sklearn.memory_based._mem_nn import MemNNLearner

N, M, J, V, C, D, GAMMA = 5, 6, 4, 9, 3, 5, 0.3


@pytest.fixture
def learner():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MemNNLearner(n_words=V, n_classes=C, size=D, n_hops=2, margin=GAMMA).double()
        for p in made.parameters():
            torch.nn.init.normal_(p)
    return made


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 1 + V, size=(N, 1 + M, J))
    x[0, 1:3] = x[1, :, 2:] = x[2, 2, 1:] = 0  # shorter stories and sentences
    return x


class NumPyMemNN:
    """One story, from the equations; sentences are numbered by their place, the newest last."""

    def __init__(self, learner, story):
        w = {name: value.detach().numpy() for name, value in learner.state_dict().items()}
        self.w, self.K = w, learner.n_hops
        question, *sentences = [sentence[sentence > 0] for sentence in story]
        self.question, self.memory = question, sentences
        self.places = [i for i, sentence in enumerate(sentences) if len(sentence)]

    def embed(self, words, columns):
        return sum(columns[word] for word in words)

    def s_Ot(self, facts, y, other):
        """Eq. 9: Phi_x(x)' U' U (Phi_y(y) - Phi_y(y') + Phi_t(x, y, y'))."""
        in_x = self.embed(self.question, self.w["words"][:, 0])
        in_x = in_x + sum(self.embed(self.memory[f], self.w["words"][:, 1]) for f in facts)
        x_place = facts[-1] if facts else M  # the question is newer than all
        time = [x_place < y, x_place < other, y < other]
        as_y = [self.embed(self.memory[i], self.w["words"][:, 2]) for i in (y, other)]
        return in_x @ (as_y[0] - as_y[1] + np.array(time, dtype=float) @ self.w["time"])

    def find(self, facts):
        best = self.places[-1]
        for i in reversed(self.places[:-1]):
            if self.s_Ot(facts, i, best) > 0:
                best = i
        return best

    def s_R(self, facts):
        in_x = self.embed(self.question, self.w["response_words"][:, 0])
        in_x = in_x + sum(self.embed(self.memory[f], self.w["response_words"][:, 1]) for f in facts)
        return self.w["answers"] @ in_x

    def read(self):
        facts = []
        for _ in range(self.K):
            facts.append(self.find(facts))
        return self.s_R(facts), facts

    def loss(self, answer, facts):
        """Eqs. 6 to 8 with eqs. 10 to 13 for the facts."""
        total = 0.0
        for hop, fact in enumerate(facts):
            before = facts[:hop]
            for wrong in set(self.places) - {fact}:
                total += max(0, GAMMA - self.s_Ot(before, fact, wrong))
                total += max(0, GAMMA + self.s_Ot(before, wrong, fact))
        scores = self.s_R(facts)
        wrong = [r for r in range(C) if r != answer]
        return total + sum(max(0, GAMMA - scores[answer] + scores[r]) for r in wrong)


def test_facts_and_responses_are_those_of_the_equations(learner, x):
    scores, facts = learner.read(torch.from_numpy(x))
    for n in range(N):
        expected, found = NumPyMemNN(learner, x[n]).read()
        assert facts[n].tolist() == found
        np.testing.assert_allclose(scores[n].detach(), expected, rtol=1e-9)


def test_the_loss_is_that_of_the_equations(learner, x):
    facts = np.array([[3, 5], [0, 1], [4, 4], [2, 0], [5, 0]])
    answers = np.array([0, 1, 2, 2, 1])
    batch = RowBatch(*(torch.from_numpy(a) for a in (x, answers, facts)))
    stories = (NumPyMemNN(learner, story) for story in x)
    losses = [s.loss(a, f.tolist()) for s, a, f in zip(stories, answers, facts, strict=True)]
    np.testing.assert_allclose(learner.meta_loss(batch).item(), np.mean(losses), rtol=1e-9)


def test_every_parameter_gets_a_gradient(learner, x):
    facts = torch.tensor([[3, 5], [0, 1], [4, 4], [2, 0], [5, 0]])
    learner.meta_gradient(RowBatch(torch.from_numpy(x), torch.tensor([0, 1, 2, 2, 1]), facts))
    for name, p in learner.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 1e-9, name


def test_facts_out_of_the_memory_add_nothing(learner, x):
    x, answers = torch.from_numpy(x[:1]), torch.tensor([0])
    scores = learner.meta_loss(RowBatch(x, answers, torch.tensor([[-1, -1]])))
    s_R = NumPyMemNN(learner, x[0].numpy()).s_R([])
    np.testing.assert_allclose(scores.item(), sum(max(0, GAMMA - s_R[0] + s_R[r]) for r in (1, 2)))


# ---------------------------------------------------------------------------- the estimator


def where_is_the_ball(n_stories=200, seed=0):
    """Return stories in which somebody has the ball, the answers, and the two facts of each."""
    rng = np.random.default_rng(seed)
    people, places = ["Mary", "John", "Ann"], ["garden", "office", "kitchen"]
    samples, answers, facts = [], [], []
    for _ in range(n_stories):
        moves = {who: f"{who} went to the {rng.choice(places)}." for who in people}
        owner = rng.choice(people)
        story = [f"{owner} took the ball.", *rng.permutation(list(moves.values())).tolist()]
        samples.append((story, "Where is the ball?"))
        answers.append(moves[owner].rstrip(".").split()[-1])
        facts.append([-4, story.index(moves[owner]) - 4])
    return samples, np.array(answers), facts


def small(**params):
    return MemNNClassifier(**{"max_iter": 200, "random_state": 0} | params)


@pytest.fixture(scope="module")
def stories():
    return where_is_the_ball()


@pytest.fixture(scope="module")
def fitted(stories):
    samples, answers, facts = stories
    pipeline = make_pipeline(StoryVectorizer(), small())
    return pipeline.fit(samples, answers, memnnclassifier__supporting_facts=facts)


def test_it_chains_two_facts_of_new_stories(fitted):
    samples, answers, facts = where_is_the_ball(100, seed=1)
    assert fitted.score(samples, answers) > 0.97
    found = fitted[1].facts(fitted[0].transform(samples))
    assert (found == np.array(facts)).mean() > 0.97


def test_facts_are_routed_and_split_with_the_samples(stories):
    samples, answers, facts = stories
    with config_context(enable_metadata_routing=True):
        clf = small(max_iter=20).set_fit_request(supporting_facts=True)
        pipeline = make_pipeline(StoryVectorizer(), clf)
        params = {"supporting_facts": facts}
        scores = cross_validate(pipeline, samples, answers, cv=2, params=params)["test_score"]
    assert scores.shape == (2,)


def test_pickles_keep_predictions(fitted, stories):
    X = fitted[0].transform(stories[0])
    copy = pickle.loads(pickle.dumps(fitted[1]))
    np.testing.assert_array_equal(copy.decision_function(X), fitted[1].decision_function(X))
    assert clone(fitted[1]).get_params() == fitted[1].get_params()


def test_facts_older_than_the_memory_are_passed_over(stories):
    samples, answers, facts = stories
    X = StoryVectorizer(max_sentences=3).fit_transform(samples)
    clf = small(max_iter=20).fit(X, answers, facts)
    assert clf.facts(X).min() >= -3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: None, "pass supporting_facts, or take StoryMemN2NClassifier"),
        (lambda facts: facts[1:], "sentences or more for each of the 200 rows, got 2 for some"),
        (lambda facts: [[-1], *facts[1:]], "got 1 for some of 200; lower n_hops"),
        (lambda facts: [[0, -1], *facts[1:]], "whole numbers below zero"),
        (lambda facts: [[-1.5, -1], *facts[1:]], "whole numbers below zero"),
    ],
)
def test_facts_that_are_none_are_refused(stories, change, message):
    samples, answers, facts = stories
    X = StoryVectorizer().fit_transform(samples)
    with pytest.raises(ValueError, match=message):
        small().fit(X, answers, change(facts))


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_the_checks_of_sklearn_find_nothing():
    check_estimator(small())
