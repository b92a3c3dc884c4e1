"""The parameters that every estimator has, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from ._distributed import gpu_number
from ._meta_state import MetaState, changed_parameters
from .tasks._tensors import TensorMaker
from .utils._docs import insert_shared_docs
from .utils._sklearn import Integral, Interval, Real, StrOptions

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}
NUMPY_DTYPES = {"float32": np.float32, "float64": np.float64, "bf16": np.float32}


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingParameters:
    """Dataclass fields of everything that the training loop trains."""

    max_iter: int = 500
    max_time: float | None = None
    schedule: str = "constant"
    clip_norm: float | None = 10.0
    early_stopping: bool = False
    validation_interval: int = 50
    n_iter_no_change: int = 5
    tol: float = 1e-4
    warm_start: bool = False
    precision: str = "float32"
    device: Any = "auto"
    random_state: Any = None
    verbose: int = 0

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [StrOptions({"constant", "linear", "step", "one_cycle"})],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "early_stopping": ["boolean"],
        "validation_interval": [Interval(Integral, 1, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "precision": [StrOptions(set(DTYPES))],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        insert_shared_docs(cls)

    def _parameters(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _torch_device(self) -> torch.device:
        if self.device != "auto":
            try:
                device = torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(
                    f"device={self.device!r} is none that torch knows; use 'auto', 'cpu', 'cuda' "
                    "or 'mps'."
                ) from error
            if device.type == "cuda" and not torch.cuda.is_available():
                raise ValueError(
                    f"device={str(device)!r} needs a CUDA device, but torch finds none; "
                    "use device='auto' or 'cpu'."
                )
        else:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda" and device.index is None:
            # As tensors report it: without the number "cuda" is another device than "cuda:0".
            device = torch.device("cuda", gpu_number())
        return device

    def _tensor_maker(self) -> TensorMaker:
        return TensorMaker(self._torch_device(), DTYPES[self.precision])


@dataclass(kw_only=True, eq=False, repr=False)
class SharedParameters(TrainingParameters):
    """Dataclass fields of all few-shot estimators.

    Parameters
    ----------
    %(shared_parameters)s
    """

    backbone: Any = None
    meta_batch_size: int = 8
    meta_optimizer: str = "adam"
    meta_learning_rate: float = 1e-3

    _adaptation_parameters: ClassVar[frozenset[str]] = frozenset(
        {"device", "random_state", "verbose", "warm_start"}
    )
    _training_parameters: ClassVar[frozenset[str]] = frozenset(
        {
            "max_iter", "max_time", "meta_batch_size", "meta_learning_rate", "schedule",
            "clip_norm", "early_stopping", "validation_interval", "n_iter_no_change", "tol",
        }
    )  # fmt: skip
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TrainingParameters._parameter_constraints,
        "meta_batch_size": [Interval(Integral, 1, None, closed="left")],
        "meta_optimizer": [StrOptions({"adam", "sgd", "rmsprop"})],
        "meta_learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    def _check_unchanged(self, meta: MetaState, except_for: frozenset[str] = frozenset()) -> None:
        names = meta.parameters.keys() - self._adaptation_parameters - except_for
        changed = changed_parameters(self._parameters(), meta.parameters, sorted(names))
        if changed:
            now, before = (
                ", ".join(f"{name}={values[name]!r}" for name in changed)
                for values in (self._parameters(), meta.parameters)
            )
            learned_in, hint = "fit", ""
            if not meta.from_fit:
                learned_in = "meta_fit"
                hint = " A search over it needs TaskLearner(estimator), prefit=False, and tasks."
            raise ValueError(
                f"{now} {'were' if changed[1:] else 'was'} changed after {learned_in}, which "
                f"learned with {before}; call {learned_in} again, or set it back.{hint}"
            )
