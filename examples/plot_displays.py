"""
Seeing what was learned
=======================

Four displays answer four questions. Was meta-training long enough? How many inner steps does a new
task need? How many labelled rows? And what does a single task look like? Each follows
scikit-learn's convention: ``from_estimator`` computes and draws; ``ax_`` and ``figure_`` are what
was drawn on.
"""

# %%
# The tasks are characters of fonts, five to an episode. Training, validation and test episodes have
# characters of different alphabets. ProtoNet and MAML learn from the same episodes.

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression

from fewshot_sklearn import MLP, EpisodicTasks, MAMLClassifier, ProtoNetClassifier
from fewshot_sklearn.datasets import load_glyphs
from fewshot_sklearn.inspection import (
    AdaptationCurveDisplay,
    EpisodeDisplay,
    MetaLearningCurveDisplay,
    ShotCurveDisplay,
)
from fewshot_sklearn.tasks import with_shots


def episodes(scripts, n_shot, n_tasks, random_state):
    """Return episodes of the characters of some alphabets."""
    glyphs = load_glyphs(scripts=scripts, image_size=14)
    y = glyphs.characters[glyphs.target]
    return EpisodicTasks(
        glyphs.data,
        y,
        n_way=5,
        n_shot=n_shot,
        n_query=8,
        n_tasks=n_tasks,
        random_state=random_state,
    )


train = episodes(["Latin", "Cyrillic"], 1, 1000, random_state=0)
validation = episodes(["Greek"], 1, 50, random_state=1)
test = episodes(["Armenian", "Georgian"], 10, 60, random_state=2)

net = MLP(hidden_layer_sizes=(128, 64))
protonet = ProtoNetClassifier(backbone=net, max_iter=300, validation_interval=25, random_state=0)
maml = MAMLClassifier(
    backbone=net,
    n_inner_steps=3,
    inner_learning_rate=0.1,
    max_iter=300,
    validation_interval=25,
    random_state=0,
)
for estimator in (protonet, maml):
    estimator.meta_fit(train, validation)

# %%
# Meta-training: the loss of every meta-iteration, faint, its running mean, and the accuracy on the
# validation tasks, with its scale on the right. As long as that rises, a larger ``max_iter`` pays.

display = MetaLearningCurveDisplay.from_estimator(protonet)
MetaLearningCurveDisplay.from_estimator(maml, ax=display.ax_, validation_ax=display.validation_ax_)
plt.show()

# %%
# Adaptation: the mean accuracy over the test tasks by the number of inner steps, with its 95 %
# interval. The start itself knows nothing of the five classes and the first step learns most of it;
# many more steps than the three of meta-training do harm here.

AdaptationCurveDisplay.from_estimator(maml, test, steps=range(11), name="MAML, 10 shots")
plt.show()

# %%
# Shots: each point scores the same queries; the supports of fewer shots are part of those of more.
# Logistic regression, which learns each task from nothing, needs more of them.

ax = None
for estimator in (protonet, maml, LogisticRegression()):
    ax = ShotCurveDisplay.from_estimator(estimator, test, ax=ax).ax_
plt.show()

# %%
# One episode: the support set on the left, queries on the right, framed by whether they were
# recognised; in the corner what was said instead.

EpisodeDisplay.from_estimator(protonet, with_shots(test, 2)[0], image_shape=(14, 14))
plt.show()
