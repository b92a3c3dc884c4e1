"""The neural Turing machine's cell.

Shape letters: N sequences, M memory slots, W memory width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .addressing import circular_shift, content_weights, erase_and_add, sharpen
from .controllers import CONTROLLERS, CellState

# What is in every slot at first: equal and not zero, so that cosines are defined.
_BLANK = 1e-6


class Heads(nn.Module):
    """Heads that address a memory by content and by location (Graves et al. 2014, section 3.3).

    Parameters
    ----------
    n_hidden : int
        Width of the controller.
    n_heads : int
        H.
    n_slots, slot_size : int
        M and W.
    shift_range : int
        How far a head can move in a step, in both directions.
    n_more : int, default=0
        Further numbers that each head gets from the controller.
    """

    def __init__(
        self,
        n_hidden: int,
        n_heads: int,
        *,
        n_slots: int,
        slot_size: int,
        shift_range: int,
        n_more: int = 0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.sizes = [slot_size, 2 * shift_range + 1, 1, 1, 1, n_more]
        self.interface = nn.Linear(n_hidden, n_heads * sum(self.sizes))
        # They begin at the first slot, as on a tape.
        self.start = nn.Parameter(torch.zeros(n_heads, n_slots))
        with torch.no_grad():
            self.start[:, 0] = 5.0

    def initial_weights(self, n: int) -> Tensor:
        """Return the learned weights [n, H, M] before the first step."""
        return self.start.softmax(dim=-1).expand(n, -1, -1)

    def control(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return keys, shifts, strengths, gates, powers and further numbers of every head.

        All are of shape (N, H, *), the strengths, gates and powers (N, H).
        """
        numbers = self.interface(hidden).unflatten(-1, (self.n_heads, -1))
        keys, shifts, strengths, gates, powers, more = numbers.split(self.sizes, dim=-1)
        return (
            keys,
            shifts.softmax(dim=-1),
            F.softplus(strengths).squeeze(-1),
            gates.sigmoid(),
            1 + F.softplus(powers).squeeze(-1),
            more,
        )

    def address(self, memory: Tensor, last: Tensor, control: tuple[Tensor, ...]) -> Tensor:
        """Return the weights [N, H, M] from the memory, the last weights and :meth:`control`."""
        keys, shifts, strengths, gates, powers, _ = control
        by_content = content_weights(memory, keys, strengths)  # eqs. 5 and 6
        gated = torch.lerp(last, by_content, gates)  # eq. 7
        return sharpen(circular_shift(gated, shifts), powers)  # eqs. 8 and 9


class NTMCell(nn.Module):
    r"""A controller with a memory that it addresses by content and by location [1]_.

    In one step the controller sees the row and what was read last, the write heads address
    :math:`M_{t-1}` and write, and the read heads address and read :math:`M_t`.

    Parameters
    ----------
    n_inputs : int
        Width of an input row.
    n_hidden : int
        Width of the controller.
    n_slots, slot_size : int
        M and W.
    n_read_heads, n_write_heads : int, default=1
        Heads of each kind.
    shift_range : int, default=1
        How far a head can move in a step, in both directions; 2 r + 1 is at most M.
    controller : {"lstm", "feedforward"}, default="lstm"
        The kind of controller.

    Attributes
    ----------
    n_outputs : int
        Width of the output, ``n_hidden + n_read_heads * slot_size``.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.
    """

    def __init__(
        self,
        n_inputs: int,
        *,
        n_hidden: int,
        n_slots: int,
        slot_size: int,
        n_read_heads: int = 1,
        n_write_heads: int = 1,
        shift_range: int = 1,
        controller: str = "lstm",
    ) -> None:
        super().__init__()
        if not 2 * shift_range < n_slots:
            raise ValueError(
                f"shift_range={shift_range} must be less than half of n_slots={n_slots}; lower "
                "shift_range or take more slots."
            )
        n_reads = n_read_heads * slot_size
        self.n_slots, self.slot_size = n_slots, slot_size
        self.controller = CONTROLLERS[controller](n_inputs, n_hidden, n_reads=n_reads)
        sizes = {"n_slots": n_slots, "slot_size": slot_size, "shift_range": shift_range}
        self.read_heads = Heads(n_hidden, n_read_heads, **sizes)
        self.write_heads = Heads(n_hidden, n_write_heads, n_more=2 * slot_size, **sizes)
        self.start = nn.Parameter(torch.zeros(n_read_heads, slot_size))
        self.n_outputs = n_hidden + n_reads

    def initial_state(self, like: Tensor) -> CellState:
        """Return a blank memory with the learned first weights and reads for rows [N, *]."""
        n = len(like)
        return self.controller.initial_state(like) | {
            "memory": like.new_full((n, self.n_slots, self.slot_size), _BLANK),
            "read_weights": self.read_heads.initial_weights(n),
            "write_weights": self.write_heads.initial_weights(n),
            "reads": self.start.expand(n, -1, -1),
        }

    def project(self, x: Tensor) -> Tensor:
        """Return the part of a step that needs no state, for rows [..., n_inputs]."""
        return self.controller.project(x)

    def step(self, projected: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step from what :meth:`project` returned."""
        hidden, after = self.controller.step(projected, state, state["reads"].flatten(1))
        control = self.write_heads.control(hidden)
        write_weights = self.write_heads.address(state["memory"], state["write_weights"], control)
        erase, add = control[-1].chunk(2, dim=-1)
        memory = erase_and_add(state["memory"], write_weights, erase.sigmoid(), add.tanh())
        read_weights = self.read_heads.address(
            memory, state["read_weights"], self.read_heads.control(hidden)
        )
        reads = read_weights @ memory  # eq. 2
        after = after | {
            "memory": memory,
            "read_weights": read_weights,
            "write_weights": write_weights,
            "reads": reads,
        }
        return torch.cat([hidden, reads.flatten(1)], dim=-1), after

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step: [N, n_inputs] -> ``[h_t, r_t]`` [N, n_outputs]."""
        return self.step(self.project(x), state)
