"""Ways for a vector of context, one for each task, into a network that all tasks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .film import embed_modulated, modulated_layers

# Modulates the third normalisation, or the last one where there are fewer.
_MODULATED = 2

# ``context(backbone, phi, x)``: [T, P], [T, N, *] -> [T, N, D].
Context = Callable[[nn.Module, Tensor, Tensor], Tensor]


class InputContext(nn.Module):
    """Context as further features: the backbone embeds flat rows [x, phi]."""

    def forward(self, backbone: nn.Module, context: Tensor, x: Tensor) -> Tensor:
        """Embed the rows of all tasks at once.

        Parameters
        ----------
        backbone : nn.Module
            Rows [N, F + P] to embeddings [N, D].
        context : Tensor of shape (T, P)
        x : Tensor of shape (T, N, *)
            Of F features each.

        Returns
        -------
        z : Tensor of shape (T, N, D)
        """
        rows = torch.cat([x.flatten(2), context.unsqueeze(1).expand(-1, x.shape[1], -1)], dim=-1)
        return backbone(rows.flatten(0, 1)).unflatten(0, x.shape[:2])


class FiLMContext(nn.Module):
    r"""Context as feature-wise linear modulation of one normalisation [1]_.

    The normalised channels :math:`\hat h` become

    .. math:: (w + W_\gamma \phi) \odot \hat h + (b + W_\beta \phi) ,

    with the normalisation's own scale w and shift b, so that a context of zero changes nothing.

    Parameters
    ----------
    backbone : nn.Module
        The network to modulate; not held. Its third normalisation with a scale is taken, or the
        last one where there are fewer.
    n_context : int
        P, width of a context.

    Raises
    ------
    ValueError
        When the backbone has no normalisation with a scale.

    References
    ----------
    .. [1] Perez, Strub, de Vries, Dumoulin, Courville (2018). "FiLM: visual reasoning with a
       general conditioning layer." AAAI.
    """

    def __init__(self, backbone: nn.Module, n_context: int) -> None:
        super().__init__()
        names = list(modulated_layers(backbone))
        if not names:
            raise ValueError(
                "context modulates the scale and shift of a normalisation, but the backbone has "
                "none that is learned; add one, such as nn.GroupNorm or Conv4(norm='group')."
            )
        self.layer = names[min(_MODULATED, len(names) - 1)]
        parameters = self.modulated(backbone)
        n_changes = sum(p.numel() for p in parameters.values())
        self.changes = nn.Linear(n_context, n_changes, bias=False)

    def modulated(self, backbone: nn.Module) -> dict[str, nn.Parameter]:
        """Return the scale and shift that the context changes, by their names in the backbone."""
        prefix = f"{self.layer}." if self.layer else ""
        norm = backbone.get_submodule(self.layer)
        return {f"{prefix}{name}": p for name, p in norm.named_parameters()}

    def forward(self, backbone: nn.Module, context: Tensor, x: Tensor) -> Tensor:
        """Embed the rows of each task with its scale and shift.

        Parameters
        ----------
        backbone : nn.Module
            Rows [N, *] to embeddings [N, D].
        context : Tensor of shape (T, P)
        x : Tensor of shape (T, N, *)

        Returns
        -------
        z : Tensor of shape (T, N, D)
        """
        parameters = self.modulated(backbone)
        changes = self.changes(context).chunk(len(parameters), dim=-1)
        both = zip(parameters.items(), changes, strict=True)
        return embed_modulated(backbone, {name: p + change for (name, p), change in both}, x)
