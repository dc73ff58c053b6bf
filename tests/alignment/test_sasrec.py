"""Consumer B on a planted world."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from alignment import sasrec
from alignment.collaborative import factorise
from alignment.consumer import Floats, Trial, figures, rank, trial
from alignment.interactions import Split, from_log, leave_last_out
from alignment.sasrec import (
    HEADS,
    WIDTH,
    FrozenItems,
    Layer,
    Network,
    Recommender,
    train,
    train_ids,
)
from alignment.softmax import cross_entropy
from matryoshka.prefix import Vectors

Tables = tuple[Vectors, Vectors]


@pytest.fixture(scope="module", autouse=True)
def _enough_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sasrec, "BATCH", 32)
        yield


@pytest.fixture(scope="module")
def tables(split: Split) -> Tables:
    known = factorise(split.train, dim=64, seed=0)
    return known.context, known.target


@pytest.fixture(scope="module")
def model(split: Split, tables: Tables) -> Recommender:
    return train(*tables, split, seed=0)


@pytest.fixture(scope="module")
def cases(split: Split) -> Trial:
    return trial(split, on="test")


def recall(ranks: Floats) -> float:
    return figures(ranks)["R@10"]


def popularity(split: Split, cases: Trial) -> float:
    scores = split.train.support.astype(np.float32)
    return recall(rank(lambda some: np.tile(scores, (some.shape[0], 1)), cases).unmasked)


def test_the_next_item_is_found_far_above_popularity(
    model: Recommender, split: Split, cases: Trial
) -> None:
    assert recall(rank(model.score, cases).unmasked) > 5 * popularity(split, cases)


def test_learned_items_beat_popularity(
    split: Split, cases: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sasrec, "LEARNED", replace(sasrec.LEARNED, checks=(6, 12)))
    ids = train_ids(split, seed=0)
    assert recall(rank(ids.score, cases).unmasked) > 2 * popularity(split, cases)
    read, scored = ids.rows()
    np.testing.assert_array_equal(read, scored)
    assert read.shape == (split.train.n_items, WIDTH)


def test_a_seed_gives_the_same_network_whatever_the_test_targets(
    model: Recommender, split: Split, tables: Tables, cases: Trial
) -> None:
    torch.rand(3)
    again = train(*tables, replace(split, test=split.validation), seed=0)
    first, second = rank(model.score, cases), rank(again.score, cases)
    np.testing.assert_array_equal(first.unmasked, second.unmasked)
    assert (again.epoch, again.validation) == (model.epoch, model.validation)


def test_training_leaves_vectors_and_torch_as_they_were(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sasrec, "FROZEN", replace(sasrec.FROZEN, checks=(1,)))
    vectors = np.random.default_rng(0).standard_normal((split.train.n_items, 8)).astype(np.float32)
    vectors.flags.writeable = False
    before, state = FrozenItems(vectors, vectors).seen, torch.get_rng_state()
    items = train(vectors, vectors, split, seed=0).network.items
    assert isinstance(items, FrozenItems)
    assert torch.equal(items.seen, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_validation_figure_is_that_of_the_network_kept(
    model: Recommender, split: Split
) -> None:
    ranks = rank(model.score, trial(split, on="validation"))
    assert figures(ranks.unmasked)["N@10"] == model.validation


def test_masked_ranks_are_never_worse(model: Recommender, cases: Trial) -> None:
    ranks = rank(model.score, cases)
    assert (ranks.masked <= ranks.unmasked).all()
    assert (ranks.masked < ranks.unmasked).any()


def test_scores_are_those_of_a_user_alone(model: Recommender, cases: Trial) -> None:
    together = model.score(cases.history[:20])
    alone = np.concatenate([model.score(cases.history[user : user + 1]) for user in range(20)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_the_order_of_a_history_matters_and_older_events_than_the_latest_do_not(
    model: Recommender,
) -> None:
    few, many = np.arange(50), np.arange(60) % 50
    logs = [few, few[::-1], np.concatenate([[7] * 3, few]), many]
    users = np.repeat(np.arange(4), [len(log) + 2 for log in logs])
    items = np.concatenate([np.append(log, [0, 0]) for log in logs])
    split = leave_last_out(from_log(users, items, np.arange(len(users)), n_items=180, seed=0))
    straight, turned, longer, other = model.score(trial(split, on="validation").history)
    np.testing.assert_allclose(straight, longer, rtol=1e-4, atol=1e-4)
    assert np.abs(straight - turned).max() > 0.1
    assert np.abs(straight - other).max() > 0.1


def test_a_layer_is_the_pre_ln_layer_of_torch() -> None:
    ours, wide = Layer(0.0), 4 * WIDTH
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, wide, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs.norm1, theirs.norm2 = ours.before, ours.between
    theirs.linear1, theirs.linear2 = ours.wide, ours.narrow
    theirs.self_attn.out_proj = ours.mix
    theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.roles.parameters()
    states = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(states, src_mask=mask, is_causal=True)
    found = ours(states.view(-1, WIDTH), [(3, 5)]).view(3, 5, WIDTH)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_state_does_not_know_what_follows(model: Recommender) -> None:
    events = np.arange(9, dtype=np.int32)
    with torch.no_grad():
        whole = model.network(sasrec._batch([events]))
        starts = [model.network(sasrec._batch([events[:n]]))[-1] for n in range(1, 10)]
    torch.testing.assert_close(whole, torch.stack(starts), rtol=1e-4, atol=1e-4)


def test_a_user_without_events_scores_every_item_0(model: Recommender, cases: Trial) -> None:
    none = sparse.csr_matrix((1, cases.history.shape[1]), dtype=np.float32)
    scores = model.score(sparse.vstack([none, cases.history[:2]], format="csr"))
    assert not scores[0].any()
    np.testing.assert_allclose(scores[1:], model.score(cases.history[:2]), rtol=1e-4, atol=1e-4)


def test_items_in_another_order_have_the_same_loss(split: Split, tables: Tables) -> None:
    order = np.random.default_rng(0).permutation(split.train.n_items)
    place = np.argsort(order)
    events = sasrec._sequences(split.train)[:50]

    def loss(rows: Tables, logs: list[np.ndarray]) -> torch.Tensor:
        torch.manual_seed(0)
        network = Network(FrozenItems(*rows), 0.0)
        states = network(sasrec._batch([log[:-1] for log in logs]))
        targets = sasrec._batch([log[1:] for log in logs]).items
        return cross_entropy(states, network.items.target(), targets)

    context, target = tables
    moved = loss((context[order], target[order]), [place[log] for log in events])
    torch.testing.assert_close(moved, loss(tables, events), rtol=1e-5, atol=1e-5)


def test_equal_roles_share_a_linear(tables: Tables) -> None:
    context, target = tables
    assert len(list(FrozenItems(context, context.copy()).parameters())) == 1
    assert len(list(FrozenItems(context, target).parameters())) == 2


def test_vectors_of_other_items_are_refused(split: Split, tables: Tables) -> None:
    context, target = tables
    with pytest.raises(ValueError, match="give one each"):
        train(context[:-1], target, split, seed=0)


def test_a_log_without_anything_to_predict_is_refused() -> None:
    split = leave_last_out(from_log([0, 0, 0], [0, 1, 2], range(3), n_items=3, seed=0))
    with pytest.raises(ValueError, match="longer histories"):
        train_ids(split, seed=0)
