"""Contrastive loss at several prefixes at once, each normalised on its own: torch, no state."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def nested_info_nce(
    left: Tensor,
    right: Tensor,
    dims: Sequence[int],
    *,
    temperatures: Tensor,
    log_popularity: Tensor,
    forbidden: Tensor,
) -> Tensor:
    """Mean over `dims` of the cross-entropy of pair i against the other right-hand rows.

    left, right: [batch, width], row i of one belongs to row i of the other; temperatures: one per
    dim; log_popularity: [batch], how often each right-hand row is drawn as a negative (logQ);
    forbidden: bool [batch, batch], entries that are no negatives (the same item, say).
    """
    own = torch.arange(len(left))
    losses: list[Tensor] = []
    for temperature, dim in zip(temperatures, dims, strict=True):
        a = functional.normalize(left[:, :dim], dim=1)
        b = functional.normalize(right[:, :dim], dim=1)
        logits = a @ b.T / temperature - log_popularity
        losses.append(functional.cross_entropy(logits.masked_fill(forbidden, -torch.inf), own))
    return torch.stack(losses).mean()
