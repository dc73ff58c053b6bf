"""The item space on a world whose right answer is known, and on worlds that hardly are one."""

import json
from dataclasses import astuple, replace

import numpy as np
import pytest

from alignment import choose
from alignment.collaborative import Collaborative
from alignment.fit import fit, outgrown, relearn
from alignment.fuse import Residuals
from alignment.improve import Fitted
from alignment.interactions import Split, from_log, leave_last_out
from alignment.residuals import DEFAULT_SCHEDULE
from alignment.space import Anchors, ItemSpace, Views, nothing
from alignment.whiten import Content, Encoded
from matryoshka.head import Head
from matryoshka.prefix import Vectors, prefix, unit
from tests.alignment.world import DIMS, World, content_of, only_text, plant


def is_sound(views: Views, n: int, dims: tuple[int, ...]) -> bool:
    """Every prefix of every view is made of finite unit rows."""
    return all(
        view.shape == (n, max(dims))
        and np.isfinite(view).all()
        and np.allclose(np.linalg.norm(prefix(view, dim), axis=1), 1, atol=1e-4)
        for view in astuple(views)
        for dim in dims
    )


def of_own_chain(context: np.ndarray, target: np.ndarray, chain: np.ndarray) -> float:
    """Part of every item's ten best others that is of its chain."""
    scores = context @ target.T
    np.fill_diagonal(scores, -2)
    return float(np.mean(chain[np.argsort(-scores, axis=1)[:, :10]] == chain[:, None]))


def finds_the_next(context: np.ndarray, target: np.ndarray, chain: np.ndarray) -> float:
    """Part of the items, but for the last of a chain, whose next is among their three best."""
    scores = context @ target.T
    np.fill_diagonal(scores, -2)
    has_next = np.flatnonzero(chain[1:] == chain[:-1])
    best = np.argsort(-scores[has_next], axis=1)[:, :3]
    return float(np.mean((best == has_next[:, None] + 1).any(axis=1)))


@pytest.mark.parametrize("dim", DIMS[1:])
def test_fused_finds_what_was_planted_to_come_next(world: World, views: Views, dim: int) -> None:
    context, target = prefix(views.fused_context, dim), prefix(views.fused_target, dim)
    content = prefix(views.content, dim)
    assert finds_the_next(context, target, world.chain) > 0.75
    assert finds_the_next(content, content, world.chain) < 0.3


@pytest.fixture(scope="module")
def worlds(world: World, views: Views) -> list[tuple[World, Views]]:
    """Three worlds: what a fit to one finds moves by some hundredths with the order of events."""
    others = [plant(seed=seed) for seed in (1, 2)]
    return [(world, views), *((other, fused_views(other)) for other in others)]


def fused_views(world: World) -> Views:
    space, known, added = fit(world.content, leave_last_out(world.sequences), dims=DIMS, seed=0)
    return space.views(world.content, known, added)


@pytest.mark.parametrize("dim", DIMS[1:])
def test_fused_neighbours_are_the_planted_ones(worlds: list[tuple[World, Views]], dim: int) -> None:
    shares = [
        of_own_chain(prefix(v.fused_context, dim), prefix(v.fused_target, dim), w.chain)
        for w, v in worlds
    ]
    assert np.mean(shares) > 0.7


def test_behaviour_adds_to_content(world: World, views: Views) -> None:
    alone = of_own_chain(views.content, views.content, world.chain)
    fused = of_own_chain(views.fused_context, views.fused_target, world.chain)
    assert fused > alone + 0.1


def test_the_head_brings_content_closer_to_behaviour(world: World, views: Views) -> None:
    content, aligned = (
        of_own_chain(prefix(v, 8), prefix(v, 8), world.chain)
        for v in (views.content, views.aligned)
    )
    assert aligned > content + 0.02


def test_a_cold_item_is_found_by_its_content(world: World) -> None:
    """As it is published: beside known items that were trained, and with the reach of a new one."""
    rng = np.random.default_rng(3)
    cold = np.zeros(len(world.chain), bool)
    cold[[rng.choice(np.flatnonzero(world.chain == c)) for c in range(12)]] = True
    split = leave_last_out(world.sequences.keep(~cold[world.sequences.items]))
    space, known, residuals = fit(world.content, split, dims=DIMS, seed=0)
    assert residuals.target.any()
    views = space.views(world.content, known, residuals)
    scores = views.fused_context @ views.fused_target.T
    own = world.chain[:, None] == world.chain[cold]
    assert np.median(scores[:, cold][own]) > np.quantile(scores[:, cold][~own], 0.9)
    first = (scores[:, None, :] > scores[:, cold, None]).sum(axis=2)[own] < 15  # a chain's length
    assert first.mean() > 0.6  # by chance a twelfth


def test_items_without_content_are_found_by_what_users_do(world: World) -> None:
    bare = np.random.default_rng(1).random(len(world.chain)) < 0.5  # not the items that play new
    has = world.content.text.has & ~bare
    content = replace(world.content, text=Encoded(world.content.text.vectors, has))
    views = fused_views(replace(world, content=content))
    for dim, least in ((16, 0.53), (32, 0.73)):  # with the mean of the catalogue for them .44, .67
        context, target = prefix(views.fused_context, dim), prefix(views.fused_target, dim)
        assert finds_the_next(context, target, world.chain) > least


def test_every_view_is_sound(world: World, views: Views) -> None:
    assert is_sound(views, len(world.chain), DIMS)


def test_items_nobody_touched_have_all_views(world: World, space: ItemSpace) -> None:
    assert is_sound(space.views(world.content, None), len(world.chain), DIMS)


def test_evidence_moves_an_item_step_by_step(
    world: World, split: Split, space: ItemSpace, views: Views
) -> None:
    known = space.factorise(split.train)
    moved = []
    for n in (0, 1, 3, 10, 1000):
        some = replace(known, support=np.full_like(known.support, n))
        moved.append(space.views(world.content, some).fused_context)
    steps = [float(np.mean(np.sum(row * moved[0], axis=1))) for row in moved]
    assert steps == sorted(steps, reverse=True)
    assert steps[1] > 0.9


def test_a_row_depends_on_its_own_item_only(world: World, fitted: Fitted, views: Views) -> None:
    space, known, added = fitted
    some = Content(*(Encoded(part.vectors[:4], part.has[:4]) for part in world.content.parts))
    first = space.views(
        some,
        Collaborative(known.context[:4], known.target[:4], known.support[:4]),
        Residuals(added.context[:4], added.target[:4]),
    )
    for few, all_ in zip(astuple(first), astuple(views), strict=True):
        np.testing.assert_allclose(few, all_[:4], atol=1e-5)


def test_the_same_inputs_give_the_same_space(world: World, split: Split, space: ItemSpace) -> None:
    again = fit(world.content, split, dims=DIMS, seed=0).space
    assert (again.space_id, again.basis_id) == (space.space_id, space.basis_id)


@pytest.mark.parametrize(("then", "grown"), [(0, True), (83, True), (84, False), (168, False)])
def test_a_space_is_outgrown_when_more_than_twice_as_many_items_have_events(
    fitted: Fitted, then: int, grown: bool
) -> None:
    space, known = fitted.space, fitted.known
    rows, context, target = astuple(space.anchors)
    assert len(rows) == np.count_nonzero(known.support) == 168
    few = replace(space, anchors=Anchors(rows[:then], context[:then], target[:then]))
    assert outgrown(few, known.support) == grown


def test_a_log_without_events_outgrows_nothing(fitted: Fitted) -> None:
    assert not outgrown(fitted.space, nothing(180, 32).support)


def test_other_inputs_give_another_space(world: World, split: Split, space: ItemSpace) -> None:
    text = world.content.text.vectors.copy()
    text[0] = text[1]
    other = fit(only_text(text), split, dims=DIMS, seed=0, like=space).space
    assert other.space_id != space.space_id


def test_another_basis_is_the_same_space(space: ItemSpace) -> None:
    basis = replace(space.basis, context=-space.basis.context, target=-space.basis.target)
    other = replace(space, basis=basis)
    assert other.space_id == space.space_id
    assert other.basis_id != space.basis_id


def test_a_stored_space_is_restored_whole(world: World, space: ItemSpace) -> None:
    description = json.loads(json.dumps(space.description()))
    back = ItemSpace.restore(space.arrays(), description)
    assert back.basis_id == space.basis_id
    before, after = (s.views(world.content, None) for s in (space, back))
    np.testing.assert_array_equal(before.fused_target, after.fused_target)


def test_the_order_of_items_changes_nothing(world: World, space: ItemSpace, views: Views) -> None:
    order = np.random.default_rng(0).permutation(len(world.chain))
    place = np.argsort(order)
    seq = world.sequences
    split = leave_last_out(replace(seq, items=place[seq.items].astype(np.int32)))
    content = only_text(world.content.text.vectors[order])
    other, known, added = fit(content, split, dims=DIMS, seed=0)
    assert (other.recipe, other.steps) == (space.recipe, space.steps)
    moved = other.views(content, known, added)
    for dim in DIMS:
        scores, after = (
            prefix(each.fused_context, dim) @ prefix(each.fused_target, dim).T
            for each in (views, moved)
        )
        after = after[np.ix_(place, place)]
        assert np.corrcoef(scores.ravel(), after.ravel())[0, 1] > 0.99


def test_choices_can_be_taken_over(world: World, split: Split, space: ItemSpace) -> None:
    looked: list[str] = []
    other = fit(
        world.content,
        split,
        dims=DIMS,
        seed=0,
        like=space,
        progress=lambda done, total, what: looked.append(what),
    ).space
    assert (other.recipe, other.dial) == (space.recipe, space.dial)
    assert not any("choosing" in what for what in looked)


def test_progress_ends_where_it_said(world: World, split: Split) -> None:
    told: list[tuple[int, int]] = []
    fit(
        world.content,
        split,
        dims=(8,),
        seed=0,
        progress=lambda done, total, what: told.append((done, total)),
    )
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def log(rows: list[tuple[int, int, int]], n: int) -> Split:
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    return leave_last_out(from_log(users, items, times, n_items=n, seed=0))


ONE_USER = [(0, i, i) for i in range(6)]
SINGLE_EVENTS = [(u, u % 9, u) for u in range(30)]
CROWD = [(u, (u + 3 * t) % 20, t) for u in range(20) for t in range(4)]


@pytest.mark.parametrize("rows", [[], ONE_USER, SINGLE_EVENTS, CROWD])
@pytest.mark.parametrize(
    "modalities", ["text", "image", "multimodal", "some", "all", "none", "widths"]
)
def test_poor_catalogues_have_sound_vectors(rows: list, modalities: str) -> None:
    n, rng = 20, np.random.default_rng(0)
    text = unit(rng.standard_normal((n, 6)).astype(np.float32))
    image = unit(rng.standard_normal((n, 7)).astype(np.float32))
    every, none = np.ones(n, bool), np.zeros(n, bool)
    two, three = np.arange(n) % 2 == 0, np.arange(n) % 3 == 0
    parts = {
        "text": {"text": Encoded(text, every)},
        "image": {"image": Encoded(image, every)},
        "multimodal": {"multimodal": Encoded(image, two | three)},
        "some": {"text": Encoded(text, two), "image": Encoded(image, three)},
        "all": {
            "text": Encoded(text, two),
            "image": Encoded(image, three),
            "multimodal": Encoded(text, two | three),
        },
        "none": {},
        "widths": {"text": Encoded(text, none), "image": Encoded(image, none)},
    }[modalities]
    content = content_of(n, **parts)
    split = log(rows, n)
    space = fit(content, split, dims=(4, 64), seed=0).space
    known = space.factorise(split.train)
    assert is_sound(space.views(content, known), n, (4, 64))
    assert is_sound(space.views(content, nothing(n, 64)), n, (4, 64))


def test_one_item_is_a_catalogue() -> None:
    content = only_text(np.ones((1, 5), np.float32))
    space = fit(content, log([(0, 0, t) for t in range(4)], 1), dims=(2, 4), seed=0).space
    assert is_sound(space.views(content, None), 1, (2, 4))


def test_identical_items_have_sound_vectors() -> None:
    content = only_text(np.ones((20, 5), np.float32))
    space = fit(content, log(CROWD, 20), dims=(4, 8), seed=0).space
    assert is_sound(space.views(content, None), 20, (4, 8))


def test_islands_of_items_survive_the_shortest_prefix() -> None:
    """Two items that are only ever seen together have a direction of their own, far behind."""
    n = 60
    rows = [(u, 2 * (u % 30) + t % 2, t) for u in range(90) for t in range(4)]
    content = only_text(np.eye(n, dtype=np.float32))
    split = log(rows, n)
    space = fit(content, split, dims=(4, 32), seed=0).space
    assert is_sound(space.views(content, space.factorise(split.train)), n, (4, 32))


@pytest.mark.parametrize("dims", [[], [1, 4], [0]])
def test_dims_that_make_no_vector_are_refused(world: World, split: Split, dims: list[int]) -> None:
    with pytest.raises(ValueError, match="granularities"):
        fit(world.content, split, dims=dims, seed=0)


def test_content_of_other_items_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="give the same"):
        fit(only_text(np.ones((3, 2), np.float32)), split, dims=DIMS, seed=0)


def test_evidence_of_other_items_is_refused(world: World, space: ItemSpace) -> None:
    with pytest.raises(ValueError, match="give one each"):
        space.views(world.content, nothing(3, 32))


def test_a_second_world_is_another_space(space: ItemSpace) -> None:
    other = plant(seed=5)
    found = fit(other.content, leave_last_out(other.sequences), dims=DIMS, seed=0, like=space).space
    assert found.space_id != space.space_id


def test_a_kept_space_learns_from_a_log_what_it_did_when_it_was_fitted(
    world: World, split: Split, fitted: Fitted
) -> None:
    space, known, added = fitted
    again = space.learn(world.content, known, split.train)
    np.testing.assert_array_equal(again.target, added.target)


def test_a_kept_space_is_the_same_however_a_log_is_read(
    world: World, split: Split, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, known, added = fitted
    yesterday = replace(space, recipe=replace(space.recipe, recency=0.9), steps=7)
    assert yesterday.recency != space.recency
    assert yesterday.space_id == space.space_id
    assert yesterday.basis_id == space.basis_id
    monkeypatch.setattr(choose, "RECENCIES", (space.recency,))
    again = relearn(yesterday, world.content, known, split)
    assert again.space.description() == space.description()
    np.testing.assert_array_equal(again.residuals.target, added.target)


def test_what_is_spared_is_asked_of_the_training_period_and_holds_for_all_that_is_trained(
    world: World, split: Split, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    spares: list[bool] = []

    def train(
        context: Vectors, target: Vectors, *_: object, spare: bool, **__: object
    ) -> Residuals:
        spares.append(spare)
        return Residuals(np.zeros_like(context), np.zeros_like(target))

    def fit_head(*_: object, spare: bool, **__: object) -> Head:
        spares.append(spare)
        return fitted.space.head

    monkeypatch.setattr("alignment.residuals.train", train)
    monkeypatch.setattr("alignment.fit.fit_head", fit_head)
    space, known, _ = fitted
    assert not space.spare
    once, n = split.train, len(split.train.items)
    users, items = np.tile(once.users, 2), np.tile(once.items, 2)
    twice = replace(split, train=from_log(users, items, range(2 * n), n_items=once.n_items, seed=0))
    again = relearn(space, world.content, known, twice).space
    assert again.spare
    assert again.space_id == space.space_id
    again.learn(world.content, known, once)
    assert fit(world.content, twice, dims=DIMS, seed=0).space.spare
    assert fit(world.content, split, dims=DIMS, seed=0, like=again).space.spare
    assert len(spares) > 8
    assert all(spares)
    spares.clear()
    assert not relearn(again, world.content, known, split).space.spare
    assert spares
    assert not any(spares)


LONG = {(recency, share): 4 * share for recency in (0.6, 0.8, 0.9) for share in (1, 0)}


@pytest.mark.parametrize(
    ("values", "recency", "share"),  # values by recency and share of the schedule
    [
        ({(0.6, 0.25): 1, (0.8, 0.25): 0, (0.6, 1): 3, (0.6, 0): 0}, 0.6, 1),
        ({(0.6, 0.25): 3, (0.8, 0.25): 0, (0.6, 1): 3, (0.6, 0): 0}, 0.6, 1),
        ({(0.6, 0.25): 1, (0.8, 0.25): 0, (0.6, 1): 1, (0.6, 0): 2}, 0.6, 0),
        ({(0.6, 0.25): 2, (0.8, 0.25): 2, (0.6, 1): 1, (0.6, 0): 0, (0.6, 0.5): 1}, 0.6, 0.25),
        ({(0.6, 0.25): 2, (0.8, 0.25): 0, (0.6, 1): 1, (0.6, 0): 0, (0.6, 0.5): 3}, 0.6, 0.5),
        ({(0.6, 0.25): 1, (0.8, 0.25): 2, (0.9, 0.25): 2} | LONG, 0.8, 1),
        ({(0.6, 0.25): 1, (0.8, 0.25): 2, (0.9, 0.25): 3} | LONG, 0.9, 1),
        ({(0.6, 0.25): 2, (0.8, 0.25): 1} | LONG, 0.6, 1),
    ],
)
def test_training_takes_as_long_as_is_best(
    world: World,
    split: Split,
    fitted: Fitted,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[tuple[float, float], float],
    recency: float,
    share: float,
) -> None:
    """What is not in the table is not asked for; a quarter as long tells the recency, no other."""
    whole = DEFAULT_SCHEDULE.length(split.train)
    by_steps = {(each, int(whole * part)): value for (each, part), value in values.items()}
    known = {each for each, share in values if share == 0.25}
    monkeypatch.setattr(choose, "RECENCIES", tuple(sorted({0.6, 0.8} | known)))
    monkeypatch.setattr(ItemSpace, "train", lambda space, *rows, steps: (space.recency, steps))
    monkeypatch.setattr("alignment.improve.fused", lambda *given: (given[-1], given[-1]))
    monkeypatch.setattr(choose.Judge, "__call__", lambda _, found, __: by_steps[found])
    space = replace(fitted.space, recipe=replace(fitted.space.recipe, recency=0.6))
    found = relearn(space, world.content, fitted.known, split)
    assert (found.space.recency, found.space.steps) == (recency, int(whole * share))
    assert found.residuals == (recency, int(whole * share))


def test_a_kept_space_reads_a_log_as_its_users_remember(
    world: World, split: Split, fitted: Fitted
) -> None:
    """Everybody took the same three items of another chain last: older events tell the next."""
    space, known, _ = fitted
    slow = relearn(space, world.content, known, distracted(split)).space
    assert slow.recency == 0.95
    assert slow.space_id == space.space_id


def distracted(split: Split) -> Split:
    """The same users after three more events."""
    train, tail = split.train, np.array([170, 171, 172], np.int32)
    ends = np.repeat(train.indptr[1:], 3)
    items = np.insert(train.items, ends, np.tile(tail, train.n_users)).astype(np.int32)
    indptr = train.indptr + 3 * np.arange(train.n_users + 1)
    places = np.arange(len(items)) - np.repeat(indptr[:-1], np.diff(indptr))
    return replace(split, train=replace(train, indptr=indptr, items=items, times=places))
