"""The part of a file that holds a pipeline's transformers, as skops writes them: data, no code."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import torch

from ._codec import Decoder, Encoder, all_subclasses, class_reference, find_class
from ._frozen import FrozenSteps, copy_estimator, is_skipped
from .utils._optional import require

if TYPE_CHECKING:
    from .pipeline import MetaPipeline

_SELECTION = "sklearn.feature_selection"
# What skops asks about although making one does nothing else: a dtype, the column selector that
# scikit-learn writes for ColumnTransformer, the scores of its feature selection.
_HARMLESS = (
    "numpy.dtype",
    "sklearn.compose._column_transformer.make_column_selector",
    f"{_SELECTION}._mutual_info.mutual_info_classif",
    f"{_SELECTION}._mutual_info.mutual_info_regression",
    f"{_SELECTION}._univariate_selection.chi2",
    f"{_SELECTION}._univariate_selection.f_classif",
    f"{_SELECTION}._univariate_selection.f_regression",
    f"{_SELECTION}._univariate_selection.r_regression",
)


def pack_pipeline(pipeline: MetaPipeline, encoder: Encoder) -> dict[str, Any]:
    """Return JSON for all of a pipeline but its last step, of which the name alone is written.

    Parameters
    ----------
    pipeline : MetaPipeline
        Meta-fitted or fitted.
    encoder : Encoder
        Takes the bytes of the transformers as a tensor.

    Raises
    ------
    ValueError
        When the transformers hold a type that is not known to be harmless; the message names it.
    ImportError
        When skops is not installed.
    """
    if pipeline._is_meta_fitted():
        pipeline._checked_frozen()
    parameters = {**pipeline.get_params(deep=False), "steps": None}
    transformers = _dump({"steps": pipeline.steps[:-1]}) if len(pipeline.steps) > 1 else None
    return {
        "class": class_reference(type(pipeline)),
        "parameters": encoder.encode(parameters, "pipeline"),
        "last": pipeline.steps[-1][0],
        "frozen": pipeline._frozen is not None,
        "transformers": encoder.encode(transformers, "transformers"),
    }


def unpack_pipeline(content: dict[str, Any], decoder: Decoder, last: Any) -> MetaPipeline:
    """Return the pipeline that :func:`pack_pipeline` wrote.

    Parameters
    ----------
    content : dict
    decoder : Decoder
    last : FewShotEstimator
        The last step.

    Raises
    ------
    ValueError
        When the file holds another type than is known to be harmless.
    ImportError
        When skops is not installed.
    """
    # The module pipeline stands above, so it is looked up when it is needed.
    base: type[MetaPipeline] = import_module(f"{__package__}.pipeline").MetaPipeline
    cls = find_class(content["class"], [base, *all_subclasses(base)])
    data = decoder.decode(content["transformers"])
    steps = [] if data is None else _load_steps(data)
    steps.append((content["last"], last))
    pipeline: MetaPipeline = cls(**{**decoder.decode(content["parameters"]), "steps": steps})
    if content["frozen"]:
        given = {name: copy_estimator(step) for name, step in steps[:-1] if not is_skipped(step)}
        pipeline._frozen = FrozenSteps(tuple(steps), given)
    return pipeline


def _import_skops() -> ModuleType:
    purpose = "saving or loading a pipeline's transformers"
    return require("skops.io", extra="save", purpose=purpose)


def _dump(value: Any) -> torch.Tensor:
    """Return the bytes of a value that can be read without running code."""
    skops = _import_skops()
    try:
        data: bytes = skops.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the transformers cannot be written to a file without code: {error} Use pickle."
        ) from error
    _check_types(data, "what a file without code cannot hold; use scikit-learn's own, or pickle")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _load_steps(tensor: torch.Tensor) -> list[tuple[str, Any]]:
    data = tensor.numpy().tobytes()
    try:
        _check_types(data, "which loading would have to trust, and it trusts no file")
        content = _import_skops().loads(data, trusted=list(_HARMLESS))
    except BadZipFile as error:
        raise ValueError(f"its transformers are not what save writes ({error}).") from error
    steps = [(name, step) for name, step in content["steps"]]
    for name, step in steps:
        if not (is_skipped(step) or hasattr(step, "transform")):
            raise ValueError(f"its step {name!r} is no transformer, but {type(step).__name__}.")
    return steps


def _check_types(data: bytes, why: str) -> None:
    """Refuse types of which skops does not know that making one does nothing else."""
    types = sorted(set(_import_skops().get_untrusted_types(data=data)) - set(_HARMLESS))
    if types:
        raise ValueError(f"the transformers hold {', '.join(types)}, {why}.")
