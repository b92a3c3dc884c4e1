"""The differentiable neural computer's cell and its parts (Graves et al. 2016, Methods).

Shape letters: N sequences, M memory slots, W memory width, H read heads. There is one write head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .addressing import content_weights, erase_and_add
from .controllers import CONTROLLERS, CellState

# The least usage that allocation sees, so that products of usages have gradients.
_LEAST_USAGE = 1e-6


def next_usage(
    usage: Tensor, write_weights: Tensor, read_weights: Tensor, free_gates: Tensor
) -> Tensor:
    r"""Return how far each slot is in use, after the last write and what is freed.

    .. math::
        \psi_t = \prod_h (1 - f_t^h w^{r,h}_{t-1}), \quad
        u_t = (u_{t-1} + w^w_{t-1} - u_{t-1} w^w_{t-1}) \psi_t

    Parameters
    ----------
    usage : Tensor of shape (N, M)
    write_weights : Tensor of shape (N, M)
        Of the last step.
    read_weights : Tensor of shape (N, H, M)
        Of the last step.
    free_gates : Tensor of shape (N, H)

    Returns
    -------
    usage : Tensor of shape (N, M)
        In [0, 1].
    """
    retention = (1 - free_gates.unsqueeze(-1) * read_weights).prod(dim=1)
    return (usage + write_weights - usage * write_weights) * retention


def allocation_weights(usage: Tensor) -> Tensor:
    r"""Weigh the slots by how free they are, the freest first.

    .. math:: a_t(\phi_j) = (1 - u_t(\phi_j)) \prod_{i < j} u_t(\phi_i)

    where phi is the list of slots in ascending order of usage.

    Parameters
    ----------
    usage : Tensor of shape (N, M)

    Returns
    -------
    weights : Tensor of shape (N, M)
        Their sum is at most one.
    """
    ascending, free_list = usage.clamp_min(_LEAST_USAGE).sort(dim=-1, stable=True)
    before = F.pad(ascending[:, :-1], (1, 0), value=1.0).cumprod(dim=-1)
    weights = (1 - ascending) * before
    return torch.zeros_like(usage).scatter(-1, free_list, weights)


def next_links(links: Tensor, precedence: Tensor, write_weights: Tensor) -> Tensor:
    r"""Return how far slot i was written right after slot j.

    .. math:: L_t(i, j) = (1 - w^w_t(i) - w^w_t(j)) L_{t-1}(i, j) + w^w_t(i) p_{t-1}(j), \quad
        L_t(i, i) = 0

    Parameters
    ----------
    links : Tensor of shape (N, M, M)
    precedence : Tensor of shape (N, M)
        Of the last step.
    write_weights : Tensor of shape (N, M)

    Returns
    -------
    links : Tensor of shape (N, M, M)
    """
    to, apart = write_weights.unsqueeze(-1), 1 - torch.eye(links.shape[-1]).to(links)
    kept = (1 - to - write_weights.unsqueeze(-2)) * links
    return torch.addcmul(kept, to, precedence.unsqueeze(-2)) * apart


def next_precedence(precedence: Tensor, write_weights: Tensor) -> Tensor:
    r"""Return how far each slot was the last one written [N, M].

    .. math:: p_t = (1 - \textstyle\sum_i w^w_t(i)) p_{t-1} + w^w_t
    """
    return (1 - write_weights.sum(dim=-1, keepdim=True)) * precedence + write_weights


def linked_read_weights(links: Tensor, last: Tensor, by_content: Tensor, modes: Tensor) -> Tensor:
    r"""Read where was written before, by content, or where was written after.

    .. math:: w^r_t = \pi_1 L_t^\top w^r_{t-1} + \pi_2 c^r_t + \pi_3 L_t w^r_{t-1}

    Parameters
    ----------
    links : Tensor of shape (N, M, M)
    last, by_content : Tensor of shape (N, H, M)
    modes : Tensor of shape (N, H, 3)
        Backward, content, forward.

    Returns
    -------
    weights : Tensor of shape (N, H, M)
    """
    backward, content, forward = modes.unsqueeze(-2).unbind(dim=-1)
    return (
        backward * (last @ links)
        + content * by_content
        + forward * (last @ links.transpose(-1, -2))
    )


class DNCCell(nn.Module):
    r"""A controller with a memory that it allocates, links and reads in the order of writing [1]_.

    In one step the controller sees the row and what was read last, writes with one head, and reads
    what it has written.

    Parameters
    ----------
    n_inputs : int
        Width of an input row.
    n_hidden : int
        Width of the controller.
    n_slots, slot_size : int
        M and W. The links take M x M numbers a sequence.
    n_read_heads : int, default=1
        H.
    controller : {"lstm", "feedforward"}, default="lstm"
        The kind of controller.

    Attributes
    ----------
    n_outputs : int
        Width of the output, ``n_hidden + n_read_heads * slot_size``.

    References
    ----------
    .. [1] Graves et al. (2016). "Hybrid computing using a neural network with dynamic external
       memory." Nature.
    """

    def __init__(
        self,
        n_inputs: int,
        *,
        n_hidden: int,
        n_slots: int,
        slot_size: int,
        n_read_heads: int = 1,
        controller: str = "lstm",
    ) -> None:
        super().__init__()
        self.n_slots, self.slot_size, self.n_read_heads = n_slots, slot_size, n_read_heads
        n_reads = n_read_heads * slot_size
        self.controller = CONTROLLERS[controller](n_inputs, n_hidden, n_reads=n_reads)
        # Keys, strengths, modes and free gates of the read heads, then key and add vector, erase
        # vector, strength, and the gates of allocation and of writing.
        h, w = n_read_heads, slot_size
        self.sizes = [h * w, h, 3 * h, h, w, w, w, 1, 1, 1]
        self.interface = nn.Linear(n_hidden, sum(self.sizes))
        self.n_outputs = n_hidden + n_reads

    def initial_state(self, like: Tensor) -> CellState:
        """Return an empty memory for each row of ``like`` [N, *]: everything zero."""
        n, m, h = len(like), self.n_slots, self.n_read_heads
        shapes = {
            "memory": (m, self.slot_size),
            "usage": (m,),
            "links": (m, m),
            "precedence": (m,),
            "read_weights": (h, m),
            "write_weights": (1, m),
            "reads": (h, self.slot_size),
        }
        empty = {name: like.new_zeros(n, *shape) for name, shape in shapes.items()}
        return self.controller.initial_state(like) | empty

    def project(self, x: Tensor) -> Tensor:
        """Return the part of a step that needs no state, for rows [..., n_inputs]."""
        return self.controller.project(x)

    def step(self, projected: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step from what :meth:`project` returned."""
        hidden, after = self.controller.step(projected, state, state["reads"].flatten(1))
        (
            read_keys, read_strengths, modes, free_gates,
            key, add, erase, strength, allocate, write,
        ) = self.interface(hidden).split(self.sizes, dim=-1)  # fmt: skip
        usage = next_usage(
            state["usage"],
            state["write_weights"].squeeze(1),
            state["read_weights"],
            free_gates.sigmoid(),
        )
        by_content = content_weights(state["memory"], key.unsqueeze(1), _oneplus(strength))
        where = torch.lerp(by_content.squeeze(1), allocation_weights(usage), allocate.sigmoid())
        written = write.sigmoid() * where
        weights = written.unsqueeze(1)
        memory = erase_and_add(
            state["memory"], weights, erase.sigmoid().unsqueeze(1), add.unsqueeze(1)
        )
        links = next_links(state["links"], state["precedence"], written)
        heads = (self.n_read_heads, -1)
        read_weights = linked_read_weights(
            links,
            state["read_weights"],
            content_weights(memory, read_keys.unflatten(-1, heads), _oneplus(read_strengths)),
            modes.unflatten(-1, heads).softmax(dim=-1),
        )
        reads = read_weights @ memory
        after = after | {
            "memory": memory,
            "usage": usage,
            "links": links,
            "precedence": next_precedence(state["precedence"], written),
            "read_weights": read_weights,
            "write_weights": weights,
            "reads": reads,
        }
        return torch.cat([hidden, reads.flatten(1)], dim=-1), after

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step: [N, n_inputs] -> ``[h_t, r_t]`` [N, n_outputs]."""
        return self.step(self.project(x), state)


def _oneplus(x: Tensor) -> Tensor:
    """Return numbers of at least one: 1 + log(1 + e^x)."""
    return 1 + F.softplus(x)
