"""The chunked cross-entropy against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from alignment import softmax
from alignment.softmax import Pairs, cross_entropy


def drawn(t: int, n: int, h: int, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(t + n + h)
    states, items = (torch.randn(rows, h, generator=g) * scale for rows in (t, n))
    return states.requires_grad_(), items.requires_grad_(), torch.randint(n, (t,), generator=g)


def lacking(targets: Tensor, n: int, share: float) -> Tensor:
    """Which items do not compete for which state: a share of them, never a target."""
    gone = torch.rand(len(targets), n, generator=torch.Generator().manual_seed(n)) < share
    gone[torch.arange(len(targets)), targets] = False
    return gone


def reference(states: Tensor, items: Tensor, targets: Tensor, gone: Tensor | None = None) -> Tensor:
    logits = states @ items.T
    if gone is not None:
        logits = logits.masked_fill(gone, -torch.inf)
    return functional.cross_entropy(logits, targets)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9), st.integers(1, 4000))
def test_value_and_gradients_are_those_of_torch(t: int, n: int, h: int, chunk: int) -> None:
    states, items, targets = drawn(t, n, h)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CHUNK_BYTES", chunk)
        loss = cross_entropy(states, items, targets)
    expected = reference(states, items, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for found, known in zip(
        gradients(2 * loss, states, items), gradients(2 * expected, states, items), strict=True
    ):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 40), st.integers(2, 50), st.integers(1, 4000), st.floats(0, 1))
def test_absent_items_do_not_compete(t: int, n: int, chunk: int, share: float) -> None:
    states, items, targets = drawn(t, n, 5)
    gone = lacking(targets, n, share)
    absent = Pairs(*gone.nonzero(as_tuple=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CHUNK_BYTES", chunk)
        loss = cross_entropy(states, items, targets, absent=absent)
    expected = reference(states, items, targets, gone)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for found, known in zip(
        gradients(loss, states, items), gradients(expected, states, items), strict=True
    ):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_gradients_in_bfloat16_are_right_to_half_a_percent(share: float) -> None:
    states, items, targets = drawn(300, 2000, 64, scale=0.4)
    gone = lacking(targets, 2000, share)
    expected = gradients(reference(states, items, targets, gone), states, items)
    absent = Pairs(*gone.nonzero(as_tuple=True))
    loss = cross_entropy(states, items, targets, absent=absent, dtype=torch.bfloat16)
    for found, known in zip(gradients(loss, states, items), expected, strict=True):
        assert (found - known).norm() < 0.005 * known.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_logits_stay_finite(dtype: torch.dtype) -> None:
    states, items, targets = drawn(20, 30, 8, scale=100.0)
    loss = cross_entropy(states, items, targets, dtype=dtype)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, states, items))
    assert loss.isfinite()


def test_inputs_stay_as_they_are() -> None:
    states, items, targets = drawn(20, 30, 8)
    before = [part.detach().clone() for part in (states, items, targets)]
    cross_entropy(states, items, targets).backward()
    for part, kept in zip((states, items, targets), before, strict=True):
        assert torch.equal(part, kept)
