"""
Where is the ball?
==================

A memory network answers questions about short stories. Nobody tells it which sentences matter: it
learns where to look from the answers alone, and it can be asked where it looked.
"""

# %%
# The stories are written here, in the manner of the bAbI tasks of Weston et al. (2016), which
# :func:`~fewshot_sklearn.datasets.fetch_babi` loads: people walk about, somebody takes a ball. To
# say where the ball is, two sentences have to be chained: who took it last, and where that person
# went last.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from fewshot_sklearn import MemNNClassifier, StoryMemN2NClassifier, StoryVectorizer

PEOPLE, PLACES = ["Mary", "John", "Sandra"], ["garden", "office", "kitchen", "hallway"]


def make_stories(n_stories, random_state):
    """Return stories with their questions, the answers, and the two sentences of each."""
    rng = np.random.default_rng(random_state)
    samples, answers, facts = [], [], []
    for _ in range(n_stories):
        owner = rng.choice(PEOPLE)
        story = [f"{who} went to the {rng.choice(PLACES)}." for who in rng.choice(PEOPLE, 5)]
        story.append(f"{owner} went to the {rng.choice(PLACES)}.")
        rng.shuffle(story)
        story.insert(rng.integers(len(story)), f"{owner} took the ball.")
        last = max(i for i, line in enumerate(story) if line.startswith(f"{owner} went"))
        samples.append((story, "Where is the ball?"))
        answers.append(story[last].rstrip(".").split()[-1])
        facts.append([story.index(f"{owner} took the ball.") - len(story), last - len(story)])
    return samples, np.array(answers), facts


stories, answers, facts = make_stories(1000, random_state=0)
new_stories, new_answers, new_facts = make_stories(500, random_state=1)
print(*stories[0][0], stories[0][1], answers[0], sep="\n")

# %%
# :class:`~fewshot_sklearn.StoryVectorizer` turns a story into an array of word numbers. In a
# pipeline it also sees the answers, and gives these words the first numbers.

network = StoryMemN2NClassifier(
    n_hops=2,
    max_iter=800,
    linear_start_iter=250,
    time_noise=0.0,
    learning_rate=0.02,
    random_state=0,
)
weak = make_pipeline(StoryVectorizer(), network).fit(stories, answers)
print(f"new questions answered rightly: {weak.score(new_stories, new_answers):.1%}")

# %%
# What each hop attended to in three new stories: first to the sentence with the ball, then to
# the last place of whoever took it.

vectorizer, network = weak
attention = network.attention(vectorizer.transform(new_stories[:3]))
predicted = weak.predict(new_stories[:3])

fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
for ax, weights, (story, _), answer in zip(axes, attention, new_stories, predicted, strict=False):
    image = ax.imshow(weights[:, -len(story) :].T, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.set_yticks(range(len(story)), story)
    ax.set_xticks([0, 1], ["hop 1", "hop 2"])
    ax.set_title(f"The ball is in the {answer}.")
fig.colorbar(image, ax=axes, label="attention")

# %%
# Where it is known which sentences an answer follows from, a network can be told, and needs far
# fewer stories. The first memory networks learned like that.

few = 60
told = make_pipeline(StoryVectorizer(), MemNNClassifier(max_iter=500, random_state=0))
told.fit(stories[:few], answers[:few], memnnclassifier__supporting_facts=facts[:few])
weak_few = weak.fit(stories[:few], answers[:few])
print(f"after {few} questions, told the sentences: {told.score(new_stories, new_answers):.1%}")
print(f"after {few} questions, told the answers:   {weak_few.score(new_stories, new_answers):.1%}")

plt.show()
