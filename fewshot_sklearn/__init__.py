"""Few-shot and meta-learning estimators that fit scikit-learn's contract.

Every public name is loaded on first use, so that importing the package loads neither torch nor
scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_sklearn import (
        baselines,
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
    from fewshot_sklearn.baselines import (
        CosineBaselineClassifier,
        FineTuneClassifier,
        FineTuneRegressor,
        FrequentHittersClassifier,
        FromScratchClassifier,
        FromScratchRegressor,
        LinearProbeClassifier,
        LinearProbeRegressor,
        QuadraticProbeClassifier,
    )
    from fewshot_sklearn.gradient_based import (
        ANILClassifier,
        ANILRegressor,
        BOILClassifier,
        BOILRegressor,
        CAVIAClassifier,
        CAVIARegressor,
        ESMAMLClassifier,
        ESMAMLRegressor,
        IMAMLClassifier,
        IMAMLRegressor,
        LearnedOptimizerClassifier,
        LearnedOptimizerRegressor,
        LSTMMetaLearnerClassifier,
        LSTMMetaLearnerRegressor,
        MAMLClassifier,
        MAMLRegressor,
        MetaSGDClassifier,
        MetaSGDRegressor,
        ProtoMAMLClassifier,
        ReptileClassifier,
        ReptileRegressor,
    )
    from fewshot_sklearn.memory_based import MANNClassifier, SNAILClassifier
    from fewshot_sklearn.metric_based import (
        CNAPSClassifier,
        DKTClassifier,
        DKTRegressor,
        GNNClassifier,
        KernelNeighborsClassifier,
        KernelNeighborsRegressor,
        MatchingNetClassifier,
        ProtoNetClassifier,
        RelationNetClassifier,
        RidgeNetClassifier,
        RidgeNetRegressor,
        SiameseNetClassifier,
        SVMNetClassifier,
        ZeroShotProtoNetClassifier,
    )
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
    "ANILClassifier",
    "ANILRegressor",
    "BOILClassifier",
    "BOILRegressor",
    "CAVIAClassifier",
    "CAVIARegressor",
    "CNAPSClassifier",
    "ClassFoldSplit",
    "ClassFoldTasks",
    "Conv4",
    "CosineBaselineClassifier",
    "DKTClassifier",
    "DKTRegressor",
    "ESMAMLClassifier",
    "ESMAMLRegressor",
    "EpisodicTasks",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "FrequentHittersClassifier",
    "FromScratchClassifier",
    "FromScratchRegressor",
    "GNNClassifier",
    "GroupedTasks",
    "IMAMLClassifier",
    "IMAMLRegressor",
    "KernelNeighborsClassifier",
    "KernelNeighborsRegressor",
    "LSTMMetaLearnerClassifier",
    "LSTMMetaLearnerRegressor",
    "LearnedOptimizerClassifier",
    "LearnedOptimizerRegressor",
    "LinearProbeClassifier",
    "LinearProbeRegressor",
    "MAMLClassifier",
    "MAMLRegressor",
    "MANNClassifier",
    "MatchingNetClassifier",
    "MetaPipeline",
    "MetaSGDClassifier",
    "MetaSGDRegressor",
    "ProtoMAMLClassifier",
    "ProtoNetClassifier",
    "QuadraticProbeClassifier",
    "RelationNetClassifier",
    "ReptileClassifier",
    "ReptileRegressor",
    "RidgeNetClassifier",
    "RidgeNetRegressor",
    "SNAILClassifier",
    "SVMNetClassifier",
    "SiameseNetClassifier",
    "Task",
    "TaskLearner",
    "TaskList",
    "TaskSet",
    "ZeroShotProtoNetClassifier",
    "__version__",
    "baselines",
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
    "ANILClassifier": "gradient_based",
    "ANILRegressor": "gradient_based",
    "BOILClassifier": "gradient_based",
    "BOILRegressor": "gradient_based",
    "CAVIAClassifier": "gradient_based",
    "CAVIARegressor": "gradient_based",
    "MetaSGDClassifier": "gradient_based",
    "MetaSGDRegressor": "gradient_based",
    "ReptileRegressor": "gradient_based",
    "ReptileClassifier": "gradient_based",
    "ProtoMAMLClassifier": "gradient_based",
    "IMAMLRegressor": "gradient_based",
    "IMAMLClassifier": "gradient_based",
    "CNAPSClassifier": "metric_based",
    "SVMNetClassifier": "metric_based",
    "ClassFoldSplit": "model_selection",
    "ClassFoldTasks": "tasks",
    "Conv4": "nn",
    "CosineBaselineClassifier": "baselines",
    "DKTClassifier": "metric_based",
    "DKTRegressor": "metric_based",
    "ESMAMLClassifier": "gradient_based",
    "ESMAMLRegressor": "gradient_based",
    "EpisodicTasks": "tasks",
    "FineTuneClassifier": "baselines",
    "FineTuneRegressor": "baselines",
    "FrequentHittersClassifier": "baselines",
    "FromScratchClassifier": "baselines",
    "FromScratchRegressor": "baselines",
    "GroupedTasks": "tasks",
    "KernelNeighborsClassifier": "metric_based",
    "KernelNeighborsRegressor": "metric_based",
    "LSTMMetaLearnerClassifier": "gradient_based",
    "LSTMMetaLearnerRegressor": "gradient_based",
    "LearnedOptimizerClassifier": "gradient_based",
    "LearnedOptimizerRegressor": "gradient_based",
    "LinearProbeClassifier": "baselines",
    "LinearProbeRegressor": "baselines",
    "MAMLClassifier": "gradient_based",
    "MAMLRegressor": "gradient_based",
    "MANNClassifier": "memory_based",
    "SNAILClassifier": "memory_based",
    "MLP": "nn",
    "MetaPipeline": "pipeline",
    "SiameseNetClassifier": "metric_based",
    "RidgeNetRegressor": "metric_based",
    "RidgeNetClassifier": "metric_based",
    "RelationNetClassifier": "metric_based",
    "MatchingNetClassifier": "metric_based",
    "GNNClassifier": "metric_based",
    "ProtoNetClassifier": "metric_based",
    "QuadraticProbeClassifier": "baselines",
    "Task": "tasks",
    "TaskLearner": "model_selection",
    "TaskList": "tasks",
    "TaskSet": "tasks",
    "ZeroShotProtoNetClassifier": "metric_based",
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
