"""
A table with a task column, of numbers and words
================================================

A new shop has offered twelve things. Which of the others will it sell? The table has prices with
gaps, categories and words; its column ``shop`` says to which task a row belongs. Older shops cannot
tell what this one's customers like, but they can tell what there is to like.
"""

# %%
# A generated table: every shop has customers with a taste of their own, but all tastes are made of
# the same few things: a warm or a cold colour, a high or a low price, a light material. The column
# ``colour`` has sixteen words, and twelve rows do not show all of them.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fewshot_sklearn import MLP, GroupedTasks, MAMLClassifier, evaluate, make_meta_pipeline

warm = ["red", "crimson", "orange", "amber", "gold", "coral", "rust", "rose"]
cold = ["blue", "navy", "teal", "cyan", "mint", "violet", "indigo", "grey"]


def make_shops(n_shops, rng, n_rows=60):
    """Return a table of things that were offered in shops, with the column ``sold``."""
    n = n_shops * n_rows
    shop = np.repeat(np.arange(n_shops), n_rows)
    table = pd.DataFrame(
        {
            "shop": [f"shop {number}" for number in shop],
            "price": np.exp(rng.normal(3, 1, n)).round(2),
            "weight": rng.gamma(2, 2, n).round(1),
            "material": pd.Categorical(rng.choice(["wood", "steel", "glass", "paper"], n)),
            "colour": rng.choice(warm + cold, n),
        }
    )
    likes_warm, likes_dear, likes_light = rng.normal(0, [2.5, 1.5, 1.0], (n_shops, 3))[shop].T
    z = likes_warm * np.where(table["colour"].isin(warm), 1, -1)
    z += likes_dear * (np.log(table["price"]) - 3)
    z += likes_light * np.where(table["material"].isin(["glass", "paper"]), 1, -1)
    table["sold"] = np.where(z + rng.logistic(0, 0.5, n) > 0, "yes", "no")
    table.loc[rng.random(n) < 0.15, "price"] = np.nan
    table.loc[rng.random(n) < 0.05, "material"] = np.nan
    return table


rng = np.random.default_rng(0)
table = make_shops(300, rng)
table.head()

# %%
# Each shop is a task. A pipeline fills gaps, scales numbers and encodes words, all of which it
# learns from the older shops together; then MAML learns where to start in a new one. After
# ``meta_fit`` the transformers are frozen: ``fit`` on twelve rows changes the classifier alone.

options = {"task": "shop", "target": "sold", "n_support": 12, "random_state": 0}
old = GroupedTasks.from_frame(table[:12_000], n_query=12, **options)
new = GroupedTasks.from_frame(table[12_000:], **options)
numbers = make_pipeline(SimpleImputer(), StandardScaler())
words = make_pipeline(
    SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
)
columns = make_column_transformer((numbers, ["price", "weight"]), (words, ["material", "colour"]))
pipe = make_meta_pipeline(
    columns,
    MAMLClassifier(
        backbone=MLP(hidden_layer_sizes=(64,)),
        n_inner_steps=3,
        max_iter=500,
        random_state=0,
    ),
)
pipe.meta_fit(old)

# %%
# One new shop: twelve sales in, the probability that something else sells out.

X_support, y_support, X_query, y_query = new[0]
pipe.fit(X_support, y_support)
X_query.assign(sold=y_query, probability=pipe.predict_proba(X_query)[:, 1].round(2)).head()

# %%
# The same hundred new shops for logistic regression, which begins anew in each of them: with an
# encoder and a scaler fitted to the twelve rows, and with those of the pipeline above.

scores = {"MAML in a MetaPipeline": evaluate(pipe, new)}
for name, front in {
    "logistic regression": columns,
    "logistic regression\non the same features": FrozenEstimator(pipe[0]),
}.items():
    scores[name] = evaluate(make_pipeline(front, LogisticRegression()), new)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[3, 2], layout="constrained")
for place, result in enumerate(scores.values()):
    axes[0].errorbar(result.mean, -place, xerr=result.ci95, fmt="o", capsize=4)
    axes[0].annotate(f"{result.mean:.2f}", (result.mean, -place + 0.12), ha="center")
axes[0].set(
    yticks=-np.arange(len(scores)),
    yticklabels=list(scores),
    ylim=(0.5 - len(scores), 0.5),
    xlabel="accuracy in 100 new shops, with its 95 % interval",
)
ours, _, other = (result.scores for result in scores.values())
axes[1].scatter(other, ours, s=14, alpha=0.6)
axes[1].axline((0.5, 0.5), slope=1, color="grey", linewidth=0.8)
axes[1].set(xlabel="logistic regression", ylabel="MAML", title="accuracy, one dot a shop")
axes[1].set(xlim=(0.3, 1.03), ylim=(0.3, 1.03), aspect="equal")
plt.show()

# %%
# What a meta-learner gains here is not the encoding but what lies behind it: sixteen words for
# colours are two kinds of colour, which twelve rows of one shop cannot show and two hundred shops
# do.
