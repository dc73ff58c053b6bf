"""Softmax over candidates at several prefixes at once, each read on its own: torch, no state."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def nested_softmax(
    read: Callable[[int], tuple[Tensor, Tensor]],
    dims: Sequence[int],
    temperatures: Sequence[Tensor],
    *,
    correction: float,
    forbidden: Tensor,
) -> Tensor:
    """Mean over `dims` of the cross-entropy of what each query wants against candidates for all.

    read: of a dim, queries [b, m] and found rows [b + c, m], of which row i < b is what query i
    wants and the others are candidates; temperatures: one per dim; correction: what is added to the
    logits of candidates, the log of how many rows each stands for; forbidden: bool [b, c],
    candidates that are no negatives (what is wanted itself, say).
    """
    losses: list[Tensor] = []
    for dim, temperature in zip(dims, temperatures, strict=True):
        queries, found = read(dim)
        queries = queries / temperature
        own, others = found[: len(queries)], found[len(queries) :]
        right = (queries * own).sum(1)
        wrong = (queries @ others.T + correction).masked_fill(forbidden, -torch.inf)
        every = torch.cat([right[:, None], wrong], dim=1)
        losses.append((torch.logsumexp(every, dim=1) - right).mean())
    return torch.stack(losses).mean()
