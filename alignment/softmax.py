"""Cross-entropy over a whole catalogue, fast on one CPU core: torch, no state.

All logits of a batch never exist at once. A chunk of them gets its softmax and both gradients while
it is in the cache, three matrix products in all. It knows states, items and row numbers only.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_BYTES = 12 << 20  # logits and their softmax together; measured best of 1 to 32 MiB
TINY = torch.finfo(torch.float32).tiny
ROUND = 256  # items are filled up to so many: oneDNN compiles, and keeps 4 MB, for every new shape


def fastest() -> torch.dtype:
    """The type of the products: bfloat16 where the processor multiplies it, thrice as fast here."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class Pairs(NamedTuple):
    """Pairs of a state and an item by their rows, both int64 [p], the states in ascending order."""

    states: Tensor
    items: Tensor

    def within(self, rows: slice) -> "Pairs":
        """Return the pairs of some consecutive states, counted from the first of these."""
        first, last = torch.searchsorted(self.states, torch.tensor([rows.start, rows.stop]))
        return Pairs(self.states[first:last] - rows.start, self.items[first:last])


def cross_entropy(
    states: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    absent: Pairs | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean over t of -log softmax(states[t] . items)[targets[t]], as a scalar.

    states: float32 [t, h]; items: float32 [n, h]; targets: int64 [t], rows of items; t, n >= 1.
    absent: items that do not compete for a state, its target not among them. dtype: of the
    products. In bfloat16 gradients are right to half a percent, and the loss of one t ends at 87
    nats.
    """
    given = states, items, targets, absent, dtype
    return _CrossEntropy.apply(*given)  # pyright: ignore[reportReturnType]


class _CrossEntropy(torch.autograd.Function):
    """The gradients are made with the value, so that no logit is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        targets: Tensor,
        absent: Pairs | None,
        dtype: torch.dtype,
    ) -> Tensor:
        value, to_states, to_items = _products(states.to(dtype), items.to(dtype), targets, absent)
        to_states -= items[targets]
        to_items.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(to_states, to_items)
        ctx.count = len(states)
        return value / len(states)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0] / ctx.count
        return *(gradient * scale for gradient in ctx.saved_tensors), None, None, None


def _products(
    states: Tensor, items: Tensor, targets: Tensor, absent: Pairs | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the losses, softmax @ items [t, h] and softmax.T @ states [n, h], chunk by chunk."""
    count = len(items)
    items = functional.pad(items, (0, 0, 0, -count % ROUND))
    size = max(1, CHUNK_BYTES // (2 * items.element_size() * len(items)))
    size = -(-len(states) // max(1, round(len(states) / size)))  # chunks of like size
    logits, softmax = torch.empty(2, size, len(items), dtype=items.dtype)
    value = torch.zeros(())
    to_states = torch.empty(states.shape)
    to_items = torch.zeros(items.shape)
    for start in range(0, len(states), size):
        rows = slice(start, min(start + size, len(states)))
        part, n = states[rows], rows.stop - start
        torch.mm(part, items.T, out=logits[:n])
        logits[:n, count:] = -torch.inf
        if absent is not None:
            here = absent.within(rows)
            logits[here.states, here.items] = -torch.inf
        torch.softmax(logits[:n], dim=1, out=softmax[:n])
        value -= softmax[:n].gather(1, targets[rows, None]).float().clamp_min(TINY).log().sum()
        to_states[rows] = softmax[:n] @ items
        to_items += (softmax[:n].T @ part).float()  # four times as fast as adding bfloat16
    return value, to_states, to_items[:count]
