"""Nested training: which dims a step reads, what is kept, and what is put back."""

from collections.abc import Iterator, Sequence
from threading import Barrier

import pytest
import torch
from torch import Tensor

from matryoshka.train import Loss, at_once, best, reproducible, steps

DIMS = (2, 4, 8)


def distance(weight: Tensor, seen: list[list[int]]) -> Loss:
    """How far the prefixes of a row are from ones."""

    def loss(dims: Sequence[int], temperatures: Sequence[Tensor]) -> Tensor:
        seen.append(list(dims))
        losses = [
            ((weight[:dim] - 1) ** 2).sum() / heat
            for dim, heat in zip(dims, temperatures, strict=True)
        ]
        return torch.stack(losses).mean()

    return loss


def run(n: int, *, per_step: int = 2, always: int = 1, seed: int = 0) -> tuple[Tensor, list]:
    weight = torch.zeros(8, requires_grad=True)
    seen: list[list[int]] = []
    moving = torch.optim.Adam([weight])
    losses = ((0.1, distance(weight, seen)) for _ in range(n))
    done = list(steps(losses, moving, DIMS, per_step=per_step, always=always, seed=seed))
    assert done == list(range(1, n + 1))
    return weight.detach(), seen


def test_every_step_reads_the_shortest_dim_and_others_in_turn() -> None:
    weight, seen = run(60)
    assert all(dims[0] == 2 and len(dims) == 2 for dims in seen)
    assert {dims[1] for dims in seen} == {4, 8}
    assert (weight - 1).abs().max() < 0.2


def test_dims_may_all_be_drawn_and_are_never_more_than_there_are() -> None:
    _, seen = run(60, always=0)
    assert {min(dims) for dims in seen} == {2, 4}
    assert all(sorted(dims) == [2, 4, 8] for dims in run(3, per_step=9)[1])


def test_the_seed_draws_the_dims() -> None:
    assert run(30)[1] == run(30)[1]
    assert run(30)[1] != run(30, seed=1)[1]


def counting(n: int) -> tuple[Iterator[int], list[int]]:
    """Steps that leave their number where it can be read."""
    now = [0]

    def trained() -> Iterator[int]:
        for now[0] in range(1, n + 1):
            yield now[0]

    return trained(), now


def kept(marks: dict[int, float] | None, *, stop: int = 100) -> tuple[int, int]:
    trained, now = counting(100)
    quality = marks.__getitem__ if marks else None
    found = best(trained, lambda: now[0], stop=stop, quality=quality, every=10, patience=2)
    return found, now[0]


def test_the_best_is_kept_and_training_ends_where_nothing_improves() -> None:
    assert kept({0: 0.0, 10: 3.0, 20: 2.0, 30: 4.0, 40: 1.0, 50: 1.0}) == (30, 50)


def test_what_training_makes_worse_stays_as_it_was() -> None:
    assert kept({0: 1.0, 10: 0.5, 20: 0.9}) == (0, 20)


def test_without_a_judge_it_stops_where_it_is_told() -> None:
    assert kept(None) == (100, 100)
    assert kept(None, stop=37) == (37, 37)
    assert kept(None, stop=0) == (0, 0)


def test_the_last_step_is_judged_wherever_it_is() -> None:
    assert kept({0: 0.0, 10: 1.0, 13: 2.0}, stop=13) == (13, 13)


def test_the_switches_of_torch_are_put_back() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before


def test_two_are_called_at_once_each_with_one_thread() -> None:
    before, both = torch.get_num_threads(), Barrier(2)

    def call(name: str) -> tuple[str, int, bool]:
        both.wait(timeout=60)  # for the other
        exact = torch.are_deterministic_algorithms_enabled()
        return name, torch.get_num_threads(), exact

    assert at_once(lambda: call("one"), lambda: call("other")) == (
        ("one", 1, True),
        ("other", 1, True),
    )
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("first", [True, False])
def test_what_either_of_two_raises_is_raised(first: bool) -> None:
    def fail() -> int:
        raise ValueError("no row")

    with pytest.raises(ValueError, match="no row"):
        at_once(*(fail, lambda: 1) if first else (lambda: 1, fail))
    assert not torch.are_deterministic_algorithms_enabled()
