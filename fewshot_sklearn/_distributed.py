"""Several processes that meta-train together, connected by torch.distributed.

A process by itself is a :class:`World` of one, in which everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
_CPU = torch.device("cpu")
_FAILED = "another process of the group failed in meta_fit; its error says why. This one stops too."


def gpu_number() -> int:
    """Return the number of the GPU that this process uses unless it is told another.

    The current device, as ``torch.cuda.set_device`` left it; in a group whose processes did not
    set one, the GPU with the process's number on this machine, which ``torchrun`` says.
    """
    current = torch.cuda.current_device()
    local_rank = int(os.environ.get("LOCAL_RANK", 0)) if _in_a_group() else 0
    return local_rank if current == 0 and local_rank < torch.cuda.device_count() else current


def current_world(find_device: Callable[[], torch.device]) -> World:
    """Return the processes that the user has connected.

    Parameters
    ----------
    find_device : callable
        Returns where the weights are; it is asked in a group only.

    Raises
    ------
    ValueError
        When the group's backend does not reach the device.
    """
    if not _in_a_group():
        return World()
    device = find_device()
    backends = str(dist.get_backend_config())
    if f"{device.type}:" not in backends:
        raise ValueError(
            f"the process group must be able to send tensors of device={str(device)!r}, but its "
            f"backends are {backends!r}; call init_process_group with another backend ('gloo' for "
            "a CPU, 'nccl' for GPUs), or set device."
        )
    return World(dist.get_rank(), dist.get_world_size(), device)


def object_world() -> World:
    """Return the processes that the user has connected, to exchange objects and no tensors.

    Any backend will do: objects go through the CPU, or else through this process's GPU.
    """
    if not _in_a_group():
        return World()
    on_cpu = "cpu:" in str(dist.get_backend_config())
    device = _CPU if on_cpu else torch.device("cuda", gpu_number())
    return World(dist.get_rank(), dist.get_world_size(), device)


def _in_a_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class World:
    """The processes that meta-train together. All call the same methods in the same order.

    Parameters
    ----------
    rank, size : int
        The number of this process and how many there are.
    device : torch.device
        Where this process has its weights.

    Attributes
    ----------
    seed : int
        What the processes' noise is a function of.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device = _CPU) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.seed = 0
        self._in_exchange = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that the others follow."""
        return self.rank == 0

    # ------------------------------------------------------------------ small values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an exception in one process become one in all, so that none waits for ever.

        What follows the block in every process, or is the last of it, must be an exchange.
        """
        try:
            yield
        except BaseException:
            if self.size > 1 and not self._in_exchange:
                self._gather(None, failed=True)
            raise

    def exchange(self, value: T) -> list[T]:
        """Return the values of all processes.

        Raises
        ------
        RuntimeError
            When one of them has failed.
        """
        if self.size == 1:
            return [value]
        with self._exchanging():
            everyone = self._gather(value, failed=False)
            if any(failed for _, failed in everyone):
                raise RuntimeError(_FAILED)
        return [value for value, _ in everyone]

    def decide(self, compute: Callable[[], T]) -> T:
        """Compute in every process and return what the main one found."""
        with self.together():
            return self.exchange(compute())[0]

    def from_main(self, value: T) -> T:
        """Return the main process's value, which may be large."""
        if self.size == 1:
            return value
        self.exchange(None)
        sent = [value if self.is_main else None]
        with self._exchanging(), self._on_device():
            dist.broadcast_object_list(sent, src=0)
        return sent[0]  # type: ignore[return-value]

    def check_alike(self, facts: Mapping[str, Any]) -> None:
        """Refuse processes that would not train alike.

        Raises
        ------
        ValueError
            When a fact differs between processes.
        """
        everyone = self.exchange(facts)
        for rank, theirs in enumerate(everyone):
            for name, value in everyone[0].items():
                if theirs[name] != value:
                    raise ValueError(
                        "all processes of a group must call meta_fit alike, but process 0 has "
                        f"{name}={value} and process {rank} {name}={theirs[name]}."
                    )

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """Mark what must not be announced when it fails: the others know, or cannot be reached."""
        self._in_exchange = True
        yield
        self._in_exchange = False

    def _gather(self, value: Any, *, failed: bool) -> list[tuple[Any, bool]]:
        everyone: list[Any] = [None] * self.size
        with self._on_device():
            dist.all_gather_object(everyone, (value, failed))
        return everyone

    def _on_device(self) -> torch.cuda.device:
        """Return the context in which NCCL sends objects; it does nothing without a GPU."""
        return torch.cuda.device(self.device if self.device.type == "cuda" else -1)

    # ------------------------------------------------------------------ tensors

    @torch.no_grad()
    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give the tensors of every process the values of the main one, bit for bit."""
        if self.size == 1 or not tensors:
            return
        parts = [t.detach().reshape(-1).view(torch.uint8) for t in tensors]
        packed = torch.cat(parts)
        dist.broadcast(packed, src=0)
        for t, part in zip(tensors, packed.split([len(p) for p in parts]), strict=True):
            # The copy is aligned for its type.
            t.copy_(part.clone().view(t.dtype).view_as(t))

    def average_gradient(
        self, parameters: Sequence[nn.Parameter], compute: Callable[[], float]
    ) -> float:
        """Compute a loss and its gradient in every process, and average both over them.

        Parameters
        ----------
        parameters : sequence of Parameter
            Their ``grad`` becomes the average; it stays None where no process has one.
        compute : callable
            Sets the gradients and returns the loss.

        Returns
        -------
        loss : float

        Raises
        ------
        RuntimeError
            When ``compute`` has failed in another process.
        """
        if self.size == 1:
            return compute()
        try:
            loss = compute()
        except BaseException:
            self._sum(parameters, 0.0, failed=True)
            raise
        (n_failed, loss, *n_given), gradients = self._sum(parameters, loss, failed=False)
        if n_failed:
            raise RuntimeError(_FAILED)
        for p, gradient, n in zip(parameters, gradients, n_given, strict=True):
            p.grad = gradient.to(p.dtype).view_as(p).div_(self.size) if n else None
        return loss / self.size

    @torch.no_grad()
    def _sum(
        self, parameters: Sequence[nn.Parameter], loss: float, *, failed: bool
    ) -> tuple[list[float], Sequence[Tensor]]:
        """Add up failures, losses, which parameters have a gradient, and the gradients."""
        facts = [failed, loss, *(p.grad is not None for p in parameters)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        packed = torch.cat(
            [gradients[0].new_tensor(facts), *(gradient.flatten() for gradient in gradients)]
        )
        dist.all_reduce(packed)
        head, *parts = packed.split([len(facts), *(p.numel() for p in parameters)])
        return head.tolist(), parts

    def seed_noise(self, generators: Sequence[torch.Generator], n_iter: int) -> None:
        """Give each process of a group its own dropout in this meta-iteration."""
        for generator in generators if self.size > 1 else []:
            generator.manual_seed((self.seed + 1 + n_iter * self.size + self.rank) % 2**63)
