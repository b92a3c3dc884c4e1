"""Learned rates of the inner steps: one for every layer in every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..nn import TaskNetwork
from ..nn.task_network import Rates


class LayerStepRates(nn.Module):
    r"""A learned rate for every layer :math:`l` in every inner step :math:`k` [1]_.

    .. math::
        \theta^{(k+1)}_l = \theta^{(k)}_l - \alpha_{kl} \nabla_{\theta_l} L(\theta^{(k)})

    A layer is a module that has weights. Where the head starts at zero the first step moves the
    head alone, and the other layers have no rate in it. Steps beyond those that were trained take
    the rates of the last.

    Parameters
    ----------
    network : TaskNetwork
        What the rates are for.
    n_inner_steps : int
        The steps that are trained; without any, the rates stay as they are.
    inner_learning_rate : float
        Where they start, above zero.

    Attributes
    ----------
    backbone : Parameter of shape (n_steps, n_layers), or None
        None for a backbone without weights.
    head : Parameter of shape (n_steps,)

    References
    ----------
    .. [1] Antoniou, Edwards, Storkey (2019). "How to train your MAML." ICLR.
    """

    trained_rate: Tensor

    def __init__(
        self, network: TaskNetwork, n_inner_steps: int, inner_learning_rate: float
    ) -> None:
        super().__init__()
        names = list(network.rates(inner_learning_rate, 1)[0])
        self._layers: dict[str, list[str]] = {}
        for name in names:
            if name.startswith("backbone."):
                self._layers.setdefault(name.rpartition(".")[0], []).append(name)
        # The head's start at zero sends no gradient to the backbone in the first step.
        self._n_still = 0 if network.head is not None else 1
        self.head = _constant((n_inner_steps,), inner_learning_rate)
        shape = (n_inner_steps - self._n_still, len(self._layers))
        self.backbone = _constant(shape, inner_learning_rate) if self._layers else None
        trained_rate = torch.tensor(inner_learning_rate, dtype=torch.float64)
        self.register_buffer("trained_rate", trained_rate)

    def forward(self, n_steps: int, inner_learning_rate: float) -> Rates:
        """Return the rates of some steps.

        Parameters
        ----------
        n_steps : int
        inner_learning_rate : float
            Another one than in training scales all rates alike.
        """
        scale = inner_learning_rate / self.trained_rate
        of_head = (scale * self.head).unbind()
        rates = [
            dict.fromkeys(("weight", "bias"), of_head[min(k, len(of_head) - 1)])
            for k in range(n_steps)
        ]
        if self.backbone is None:
            return rates
        of_backbone = [row.unbind() for row in (scale * self.backbone).unbind()]
        for k in range(self._n_still, n_steps):
            row = of_backbone[min(k - self._n_still, len(of_backbone) - 1)]
            for rate, names in zip(row, self._layers.values(), strict=True):
                rates[k] |= dict.fromkeys(names, rate)
        return rates

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Have as many steps as were trained."""
        for name, p in self.named_parameters():
            kept = state_dict.get(prefix + name, p)
            setattr(self, name, nn.Parameter(torch.empty_like(kept), p.requires_grad))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _constant(shape: tuple[int, ...], value: float) -> nn.Parameter:
    """Return rates that start alike; where there is no step to learn them in, they stay."""
    n_steps, *rest = shape
    return nn.Parameter(torch.full((max(1, n_steps), *rest), float(value)), n_steps > 0)
