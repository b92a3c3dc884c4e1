"""Memory cells: state and input go in, output and the next state come out.

Shape letters: N sequences, M memory slots, W memory width, H read heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .addressing import content_weights
from .controllers import CONTROLLERS, CellState


def cosine_read(memory: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    r"""Read by content (Santoro et al. 2016, eqs. 2 to 4).

    .. math::
        K(k, M(i)) = \frac{k \cdot M(i)}{\lVert k \rVert \lVert M(i) \rVert}, \quad
        w^r(i) = \frac{\exp K(k, M(i))}{\sum_j \exp K(k, M(j))}, \quad
        r = \sum_i w^r(i) M(i)

    Parameters
    ----------
    memory : Tensor of shape (N, M, W)
    keys : Tensor of shape (N, H, W)

    Returns
    -------
    reads : Tensor of shape (N, H, W)
    weights : Tensor of shape (N, H, M)
    """
    weights = content_weights(memory, keys)
    return weights @ memory, weights


def least_used(usage: Tensor, n_slots: int) -> Tensor:
    r"""Mark the ``n_slots`` least used slots with one (Santoro et al. 2016, eq. 6).

    .. math:: w^{lu}(i) = 1 \text{ if } w^u(i) \le m(w^u, n) \text{ else } 0

    Parameters
    ----------
    usage : Tensor of shape (N, M)
    n_slots : int
        n, the number of reads. Of equally used slots the first ones are marked.

    Returns
    -------
    marks : Tensor of shape (N, M)
    """
    slots = usage.argsort(dim=-1, stable=True)[:, :n_slots]
    return torch.zeros_like(usage).scatter(-1, slots, 1.0)


def lru_write(
    memory: Tensor, keys: Tensor, gate: Tensor, last_read: Tensor, marks: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Write where the memory was last read or least used (Santoro et al. 2016, eqs. 7 and 8).

    .. math::
        w_t^w = \sigma(\alpha) w_{t-1}^r + (1 - \sigma(\alpha)) w_{t-1}^{lu}, \quad
        M_t(i) = M_{t-1}(i) + w_t^w(i) k_t

    The least used slots are set to zero before the write.

    Parameters
    ----------
    memory : Tensor of shape (N, M, W)
    keys : Tensor of shape (N, H, W)
    gate : Tensor of shape (H, 1)
        The scalar alpha of every head.
    last_read : Tensor of shape (N, H, M)
        The previous step's read weights.
    marks : Tensor of shape (N, M)
        From :func:`least_used`.

    Returns
    -------
    memory : Tensor of shape (N, M, W)
    weights : Tensor of shape (N, H, M)
    """
    share = gate.sigmoid()
    weights = share * last_read + (1 - share) * marks.unsqueeze(-2)
    kept = memory * (1 - marks).unsqueeze(-1)
    return torch.baddbmm(kept, weights.transpose(-1, -2), keys), weights


class LRUMemoryCell(nn.Module):
    """A controller with a memory whose least recently used slots are overwritten [1]_.

    One step maps an input row to the controller's hidden state and what it read, and writes the
    controller's keys to the memory.

    Parameters
    ----------
    n_inputs : int
        Width of an input row.
    n_hidden : int
        Width of the controller.
    n_slots, slot_size : int
        M and W.
    n_read_heads : int
        H.
    usage_decay : float
        gamma, the share of its usage that a slot keeps at every step.
    controller : {"lstm", "feedforward"}, default="lstm"
        The kind of controller.

    Attributes
    ----------
    n_outputs : int
        Width of the output, ``n_hidden + n_read_heads * slot_size``.

    References
    ----------
    .. [1] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.
    """

    def __init__(
        self,
        n_inputs: int,
        *,
        n_hidden: int,
        n_slots: int,
        slot_size: int,
        n_read_heads: int,
        usage_decay: float,
        controller: str = "lstm",
    ) -> None:
        super().__init__()
        self.n_slots, self.slot_size, self.n_read_heads = n_slots, slot_size, n_read_heads
        self.usage_decay = usage_decay
        n_reads = n_read_heads * slot_size
        self.controller = CONTROLLERS[controller](n_inputs, n_hidden, n_reads=n_reads)
        self.key = nn.Linear(n_hidden, n_reads)
        self.gate = nn.Parameter(torch.zeros(n_read_heads, 1))
        self.n_outputs = n_hidden + n_reads

    def initial_state(self, like: Tensor) -> CellState:
        """Return an empty memory for each row of ``like`` [N, *]: everything zero."""
        n, heads = len(like), self.n_read_heads
        return self.controller.initial_state(like) | {
            "memory": like.new_zeros(n, self.n_slots, self.slot_size),
            "usage": like.new_zeros(n, self.n_slots),
            "read_weights": like.new_zeros(n, heads, self.n_slots),
            "write_weights": like.new_zeros(n, heads, self.n_slots),
            "reads": like.new_zeros(n, heads, self.slot_size),
        }

    def project(self, x: Tensor) -> Tensor:
        """Return the part of a step that needs no state, for rows [..., n_inputs]."""
        return self.controller.project(x)

    def step(self, projected: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step from what :meth:`project` returned."""
        hidden, after = self.controller.step(projected, state, state["reads"].flatten(1))
        keys = self.key(hidden).tanh().unflatten(-1, (self.n_read_heads, self.slot_size))
        marks = least_used(state["usage"], self.n_read_heads)
        memory, write_weights = lru_write(
            state["memory"], keys, self.gate, state["read_weights"], marks
        )
        reads, read_weights = cosine_read(memory, keys)
        # Eq. 5: w^u_t = gamma w^u_{t-1} + w^r_t + w^w_t
        used = read_weights.sum(dim=-2) + write_weights.sum(dim=-2)
        after = after | {
            "memory": memory,
            "usage": self.usage_decay * state["usage"] + used,
            "read_weights": read_weights,
            "write_weights": write_weights,
            "reads": reads,
        }
        return torch.cat([hidden, reads.flatten(1)], dim=-1), after

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step: [N, n_inputs] -> ``[h_t, r_t]`` [N, n_outputs]."""
        return self.step(self.project(x), state)
