"""Few-shot and meta-learning estimators that fit scikit-learn's contract.

Every public name is loaded on first use, so that importing the package loads neither torch nor
scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_sklearn import (
        datasets,
        exceptions,
        gradient_based,
        inspection,
        memory_based,
        metric_based,
        metrics,
        model_selection,
        nn,
        pipeline,
        tasks,
        utils,
    )
    from fewshot_sklearn.gradient_based import MAMLClassifier, MAMLRegressor
    from fewshot_sklearn.memory_based import MANNClassifier
    from fewshot_sklearn.metric_based import ProtoNetClassifier
    from fewshot_sklearn.model_selection import ClassFoldSplit, TaskLearner, compare, evaluate
    from fewshot_sklearn.nn import MLP, Conv4
    from fewshot_sklearn.persistence import load
    from fewshot_sklearn.pipeline import MetaPipeline, make_meta_pipeline
    from fewshot_sklearn.tasks import (
        ClassFoldTasks,
        EpisodicTasks,
        GroupedTasks,
        Task,
        TaskList,
        TaskSet,
    )

__version__ = "0.1.0.dev0"

__all__ = [
    "MLP",
    "ClassFoldSplit",
    "ClassFoldTasks",
    "Conv4",
    "EpisodicTasks",
    "GroupedTasks",
    "MAMLClassifier",
    "MAMLRegressor",
    "MANNClassifier",
    "MetaPipeline",
    "ProtoNetClassifier",
    "Task",
    "TaskLearner",
    "TaskList",
    "TaskSet",
    "__version__",
    "compare",
    "datasets",
    "evaluate",
    "exceptions",
    "gradient_based",
    "inspection",
    "load",
    "make_meta_pipeline",
    "memory_based",
    "metric_based",
    "metrics",
    "model_selection",
    "nn",
    "pipeline",
    "tasks",
    "utils",
]

# Where each name comes from; a public name that is not here is a subpackage.
_HOME = {
    "ClassFoldSplit": "model_selection",
    "ClassFoldTasks": "tasks",
    "Conv4": "nn",
    "EpisodicTasks": "tasks",
    "GroupedTasks": "tasks",
    "MAMLClassifier": "gradient_based",
    "MAMLRegressor": "gradient_based",
    "MANNClassifier": "memory_based",
    "MLP": "nn",
    "MetaPipeline": "pipeline",
    "ProtoNetClassifier": "metric_based",
    "Task": "tasks",
    "TaskLearner": "model_selection",
    "TaskList": "tasks",
    "TaskSet": "tasks",
    "compare": "model_selection",
    "evaluate": "model_selection",
    "load": "persistence",
    "make_meta_pipeline": "pipeline",
}

if not TYPE_CHECKING:  # a type checker reads the imports above and refuses any other name

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _HOME:
            value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
            globals()[name] = value
            return value
        return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
