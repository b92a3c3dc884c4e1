"""Docstring text that several places share, written once and inserted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)

# What every estimator says.
SHARED = {
    "shared_parameters": """\
backbone : None, specification, nn.Module or callable, default=None
    The network that embeds a row. None takes ``MLP()`` for flat rows and ``Conv4()`` for images,
    unless the method says otherwise. A specification such as ``MLP(hidden_layer_sizes=(128,))``
    has searchable parameters; an ``nn.Module`` is copied; a class or function is called with
    the shape of one row.
max_iter : int, default=500
    Meta-iterations, each on one batch of tasks.
max_time : float or None, default=None
    Seconds after which meta-training stops if ``max_iter`` was not reached. The schedule
    follows whichever is nearer.
meta_batch_size : int, default=8
    Tasks in a meta-iteration, of each process where several train together.
meta_optimizer : {"adam", "sgd", "rmsprop"}, default="adam"
    The optimizer of meta-training.
meta_learning_rate : float, default=0.001
    Its step size.
schedule : {"constant", "linear", "step", "one_cycle"}, default="constant"
    How the step size changes: not at all, falling to zero, halved after every tenth of
    training, or rising for 30 % of it and then falling along a cosine.
clip_norm : float or None, default=10.0
    Largest norm of the meta-gradient; a longer one is scaled down. None never scales.
early_stopping : bool, default=False
    Stop when the validation score has not risen by ``tol`` for ``n_iter_no_change``
    validations. Without ``validation_tasks`` a tenth of the tasks is held out.
validation_interval : int, default=50
    Meta-iterations between validations.
n_iter_no_change : int, default=10
    Validations without a gain before stopping.
tol : float, default=0.0001
    The smallest gain that counts.
warm_start : bool, default=False
    ``meta_fit`` continues from what was meta-learned before instead of starting anew.
precision : {"float32", "float64", "bf16"}, default="float32"
    Of the computation. "bf16" meta-trains in bfloat16 where that is safe.
device : {"auto", "cpu", "cuda", "mps"} or torch.device, default="auto"
    Where to compute. "auto" takes a CUDA device if there is one. An adaptation parameter.
random_state : int, RandomState instance or None, default=None
    Seeds initial weights, episodes and dropout. No global generator is touched. An adaptation
    parameter.
verbose : int, default=0
    1 logs the meta-loss at every validation interval to the logger ``fewshot_sklearn``. An
    adaptation parameter.""",
    "supervised_parameters": """\
max_iter : int, default=1000
    Iterations, each on one batch.
max_time : float or None, default=None
    Seconds after which training stops if ``max_iter`` was not reached. The schedule follows
    whichever is nearer.
batch_size : int, default=16
    Samples in a batch.
optimizer : {"adam", "sgd", "rmsprop"}, default="adam"
    The optimizer.
learning_rate : float, default=0.001
    Its step size.
schedule : {"constant", "linear", "step", "one_cycle"}, default="constant"
    How the step size changes: not at all, falling to zero, halved after every tenth of
    training, or rising for 30 % of it and then falling along a cosine.
clip_norm : float or None, default=10.0
    Largest norm of the gradient; a longer one is scaled down. None never scales.
early_stopping : bool, default=False
    Hold a tenth of the samples out, keep the weights with the lowest loss on them, and stop
    when it has not fallen by ``tol`` for ``n_iter_no_change`` validations.
validation_interval : int, default=50
    Iterations between validations.
n_iter_no_change : int, default=5
    Validations without a gain before stopping.
tol : float, default=0.0001
    The smallest gain that counts.
warm_start : bool, default=False
    ``fit`` continues from what was learned before instead of starting anew.
precision : {"float32", "float64", "bf16"}, default="float32"
    Of the computation. "bf16" trains in bfloat16 where that is safe.
device : {"auto", "cpu", "cuda", "mps"} or torch.device, default="auto"
    Where to compute. "auto" takes a CUDA device if there is one.
random_state : int, RandomState instance or None, default=None
    Seeds initial weights and batches. No global generator is touched.
verbose : int, default=0
    1 logs the loss at every validation interval to the logger ``fewshot_sklearn``.""",
    "supervised_attributes": """\
n_iter_ : int
    Iterations taken, over all calls that continued each other.
loss_curve_ : list of float
    The loss of every iteration.
validation_scores_ : list of (int, float)
    Iteration and score, minus the loss, of every validation. The weights with the best score are
    kept.""",
    "head_parameter": """\
head : {"auto", "shared", "per_class"}, default="auto"
    Where the linear head starts. "shared": every class starts alike, so any number of
    classes works. "per_class": a learned vector for each class, as in the paper, which fixes
    the number of classes and their order. "auto" takes "per_class" where the tasks share
    their labels and "shared" where labels are arbitrary per task.""",
    "sequential_parameters": """\
n_orders : int, default=1
    In how many orders the support rows are read: their own, then fixed shuffles of it, whose
    predictions are averaged. The cost of a task grows with it. An adaptation parameter.""",
    "memory_cell_parameters": """\
controller : {"lstm", "feedforward"}, default="lstm"
    What reads a row and governs the memory. A feed-forward layer remembers nothing but through
    the memory.
n_hidden : int, default=100
    Width of the controller.
n_slots : int, default=128
    Memory slots.
slot_size : int, default=20
    Width of a slot.""",
    "neural_process_parameters": """\
n_hidden : int, default=128
    Width of the encodings and of all hidden layers.
n_layers : int, default=3
    Hidden layers of encoder and decoder.
min_std : float, default=0.01
    The smallest standard deviation that can be predicted, in units of the standardised targets.
min_support_share : float, default=0.5
    In every iteration of meta-training a random number of the support rows is learned from,
    between this share of them and all, so that supports of several sizes are known. 0 begins at
    one row, 1 takes all rows always.""",
    "latent_process_parameters": """\
n_latent : int, default=128
    Width of the latent variable.
n_latent_samples : int, default=32
    Points that a prediction averages over; one is the mean of the latent variable alone. An
    adaptation parameter.""",
    "regressor_parameters": """\
normalize_y : bool, default=True
    Standardise targets with the mean and scale of the meta-training tasks' targets (of a
    thousand of them, if there are more).""",
    "shared_attributes": """\
n_features_in_ : int
    Number of features, seen in ``meta_fit`` or ``fit``.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Their names, where X was a DataFrame with string column names.
n_meta_iter_ : int
    Meta-iterations taken, over all calls that continued each other.
n_iter_ : int
    The same number, under scikit-learn's name.
meta_loss_curve_ : list of float
    The meta-loss of every meta-iteration.
validation_scores_ : list of (int, float)
    Meta-iteration and score of every validation: mean accuracy, or minus the mean squared
    error of standardised targets. The weights with the best score are kept.""",
    "classifier_attributes": """\
classes_ : ndarray of shape (n_classes,)
    The labels of the support set, sorted.
calibration_temperature_ : float
    Divides the logits, so that probabilities are true to the frequencies on the validation tasks;
    1 where there were none.""",
}

_DEFAULT = re.compile(r"^(?P<name>\w+) : (?P<type>.*), default=.*$", flags=re.MULTILINE)


def insert_docs(texts: Mapping[str, str]) -> Callable[[Class], Class]:
    """Return a decorator that replaces ``%(name)s`` by the text of that name.

    It does so in the docstrings of a class and of the methods that the class defines.
    """

    def decorate(cls: Class) -> Class:
        members = [getattr(member, "__func__", member) for member in vars(cls).values()]
        for documented in (cls, *filter(inspect.isfunction, members)):
            _insert(documented, texts)
        return cls

    return decorate


def _insert(documented: Any, texts: Mapping[str, str]) -> None:
    if "%(" in (documented.__doc__ or ""):
        doc = inspect.cleandoc(documented.__doc__)
        for name, text in texts.items():
            doc = doc.replace(f"%({name})s", text)
        documented.__doc__ = doc


def insert_shared_docs(cls: type) -> None:
    """Replace ``%(name)s`` in an estimator's docstring by the shared text of that name.

    The defaults that the text states are those of the class.
    """
    if not cls.__doc__ or "%(" not in cls.__doc__:
        return

    def with_default(match: re.Match[str]) -> str:
        default = getattr(cls, match["name"])
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        return f"{match['name']} : {match['type']}, default={shown}"

    named = [name for name in SHARED if f"%({name})s" in cls.__doc__]
    _insert(cls, {name: _DEFAULT.sub(with_default, SHARED[name]) for name in named})
