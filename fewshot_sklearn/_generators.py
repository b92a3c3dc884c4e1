"""torch's generators for the time of a block, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch

# The generators belong to the process: of two threads that seed them, one has to wait.
_IN_USE = RLock()


@contextmanager
def own_generators(seed: int | None = None, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Let a block draw from torch's generators as if it were alone.

    Parameters
    ----------
    seed : int or None, default=None
        Where the generators start; None leaves them where they are.
    devices : sequence of torch.device, default=()
        CUDA devices whose generators the block uses beside the CPU's.
    """
    with _IN_USE, torch.random.fork_rng(devices=list(devices)):
        if seed is not None:
            # torch.manual_seed would reach the generators of every device.
            torch.default_generator.manual_seed(seed)
            for used in devices:
                with torch.cuda.device(used):
                    torch.cuda.manual_seed(seed)
        yield
