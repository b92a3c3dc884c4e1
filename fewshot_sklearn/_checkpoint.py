"""A file from which an interrupted meta-training goes on, bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._codec import Decoder, Encoder
from ._container import import_safetensors, read_file, reading, write_file
from ._training_run import TrainingRun

_VERSION = 1
_ENTRY = "fewshot_sklearn.checkpoint"
# A write is followed by so many times its own duration without one.
_PAUSE = 20
# What to do about something that differs, where it cannot simply be set back.
_CURES = {
    "starting weights": "begin with the estimator as it was before the call that was interrupted",
    "network": "go back to the code that built it",
    "tasks": "pass the tasks of then, made with a fixed random_state",
    "validation_tasks": "pass the tasks of then, made with a fixed random_state",
}


class Checkpoint:
    """Where a meta-training keeps its state, and the configuration that the state belongs to.

    Parameters
    ----------
    path : str or path-like
        The file; its folder must exist.
    configuration : dict of str
        What must be the same in the call that goes on.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ImportError
        When safetensors is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], configuration: Mapping[str, str]) -> None:
        import_safetensors()
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint must be the path of a file, got {path!r}.")
        self.path = Path(path)
        self.configuration = dict(configuration)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint={str(path)!r} needs the folder {str(self.path.parent)!r}, which does "
                "not exist; make it first."
            )
        self._written: dict[str, str] | None = None
        self._pause_ends = -float("inf")

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, or None when there is no file.

        Raises
        ------
        ValueError
            When the file is damaged, no checkpoint, or one of another configuration.
        """
        if not self.path.exists():
            return None
        cure = "delete it to start anew"
        tensors, content = read_file(self.path, entry=_ENTRY, version=_VERSION, cure=cure)
        with reading(self.path):
            self._written = dict(content["configuration"])
            state: dict[str, Any] = Decoder(tensors).decode(content["state"])
        for name, value in self.configuration.items():
            self.require(name, value)
        return state

    def require(self, name: str, value: str) -> None:
        """Add something that must be the same in the call that goes on.

        Raises
        ------
        ValueError
            When it is not what it was in the file that was read.
        """
        self.configuration[name] = value
        written = value if self._written is None else self._written.get(name, "absent")
        if written != value:
            raise ValueError(
                f"{self.path} is the checkpoint of another configuration: it was written with "
                f"{name}={written}, now {name}={value}; {_CURES.get(name, 'set it back')} to go "
                "on, or delete the file to start anew."
            )

    def offer(self, run: TrainingRun, others: Mapping[str, Any]) -> None:
        """Write the state of a run, unless that was done a moment ago.

        Parameters
        ----------
        run : TrainingRun
        others : dict
            What else belongs to the state.
        """
        begin = time.monotonic()
        last = run.finished or run.n_done == run.options.max_iter
        if begin < self._pause_ends and not last:
            return
        encoder = Encoder()
        state = encoder.encode({"run": run.state(), **others}, "state")
        content = {"version": _VERSION, "configuration": self.configuration, "state": state}
        write_file(self.path, content, encoder.tensors, entry=_ENTRY)
        end = time.monotonic()
        self._pause_ends = end + _PAUSE * (end - begin)
