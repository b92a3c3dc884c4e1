"""Data sets to meta-learn from: rendered, generated and fetched.

Loaders return scikit-learn's Bunch; generators of tasks return a task set.
"""

from fewshot_sklearn.datasets._babi import fetch_babi
from fewshot_sklearn.datasets._base import get_data_home
from fewshot_sklearn.datasets._clinc150 import fetch_clinc150
from fewshot_sklearn.datasets._glyphs import load_glyphs
from fewshot_sklearn.datasets._ngram_sequences import make_ngram_sequences, ngram_optimal_proba
from fewshot_sklearn.datasets._omniglot import fetch_omniglot, rotated_classes
from fewshot_sklearn.datasets._prior import make_prior_tasks
from fewshot_sklearn.datasets._sequences import (
    make_associative_recall_sequences,
    make_copy_sequences,
    make_priority_sort_sequences,
    make_repeat_copy_sequences,
)
from fewshot_sklearn.datasets._synthetic import make_cubic_tasks, make_sinusoid_tasks

__all__ = [
    "fetch_babi",
    "fetch_clinc150",
    "fetch_omniglot",
    "get_data_home",
    "load_glyphs",
    "make_associative_recall_sequences",
    "make_copy_sequences",
    "make_cubic_tasks",
    "make_ngram_sequences",
    "make_prior_tasks",
    "make_priority_sort_sequences",
    "make_repeat_copy_sequences",
    "make_sinusoid_tasks",
    "ngram_optimal_proba",
    "rotated_classes",
]
