"""The nested softmax against what it is by definition."""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from matryoshka.loss import nested_softmax

QUERIES = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
FOUND = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.5], [1.0, 1.0, 0.0]])
NONE = torch.zeros(2, 2, dtype=torch.bool)


def loss(
    dims: Sequence[int] = (2,), *, correction: float = 0.0, forbidden: torch.Tensor = NONE
) -> float:
    return float(
        nested_softmax(
            lambda dim: (QUERIES[:, :dim], FOUND[:, :dim]),
            dims,
            [torch.tensor(0.5)] * len(dims),
            correction=correction,
            forbidden=forbidden,
        )
    )


def expected(dim: int) -> float:
    """Cross-entropy of a query's own row, put first, against both candidates."""
    logits = [
        torch.stack([QUERIES[k, :dim] @ FOUND[row, :dim] / 0.5 for row in (k, 2, 3)])
        for k in range(2)
    ]
    return float(cross_entropy(torch.stack(logits), torch.zeros(2, dtype=torch.long)))


def test_it_is_the_cross_entropy_against_the_candidates() -> None:
    assert abs(loss() - expected(2)) < 1e-6


def test_several_dims_are_averaged() -> None:
    assert expected(2) != expected(3)
    assert abs(loss((2, 3)) - (expected(2) + expected(3)) / 2) < 1e-6


def test_what_is_forbidden_is_no_negative() -> None:
    assert loss(forbidden=~NONE) == 0
    assert 0 < loss(forbidden=torch.tensor([[True, False], [False, True]])) < loss()


def test_candidates_that_stand_for_many_count_more() -> None:
    assert loss(correction=-1.0) < loss() < loss(correction=1.0)
