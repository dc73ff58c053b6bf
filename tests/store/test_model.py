"""Any interleaving of writes, releases and reads answers as a plain dictionary would.

The model is `now`, what the writer has written, and for every release what it held. Everything
else here is the real thing: LanceDB tables, the log of releases, packs.
"""

import shutil
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from matryoshka.prefix import prefix
from store import ItemStore, UnknownIds, UnknownRelease, releases
from store.schema import item_vectors_table
from store.tables import Tables
from tests.store.shelf import draft

IDS = [f"item {number}" for number in range(12)]
WIDTH, DIMS = 4, [2, 4]
ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=6, unique=True)
seeds = st.integers(0, 2**32 - 1)
places = st.integers(0, 2**16)

Rows = dict[str, np.ndarray]


def drawn(items: Sequence[str], seed: int) -> Rows:
    numbers = np.random.default_rng(seed).standard_normal((len(items), WIDTH)).astype(np.float32)
    return dict(zip(items, prefix(numbers, WIDTH), strict=True))


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="itemnest-model-"))
        self.now: Rows = {}
        self.released: dict[str, Rows] = {}
        self.log: list[tuple[str, str]] = []  # channel, release
        self.pins: dict[str, str] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def tables(self) -> Tables:
        return Tables(self.folder)

    @property
    def store(self) -> ItemStore:
        return ItemStore.open(self.folder)

    def shown(self, channel: str = "production") -> str | None:
        return next((name for place, name in reversed(self.log) if place == channel), None)

    def published(self, name: str, channel: str, rows: Rows) -> None:
        assert name == f"r{len(self.released) + 1}"
        self.released[name] = dict(rows)
        self.log.append((channel, name))

    def some_release(self, place: int) -> str:
        return list(self.released)[place % len(self.released)]

    @initialize(items=ids, seed=seeds)
    def begin(self, items: list[str], seed: int) -> None:
        rows = drawn(items, seed)
        store = ItemStore.create(self.folder)
        store.publish_vectors(items, np.array([*rows.values()]), dims=DIMS)
        self.published("r1", "production", rows)
        self.now = rows

    @rule(items=ids, seed=seeds)
    def upsert(self, items: list[str], seed: int) -> None:
        rows = drawn(items, seed)
        table = item_vectors_table(items, {"fused": np.array([*rows.values()])})
        self.tables.upsert("item_vectors", table)
        self.now = self.now | rows

    @rule(items=ids)
    def delete(self, items: list[str]) -> None:
        self.tables.delete("item_vectors", "item_id", items)
        self.now = {item: row for item, row in self.now.items() if item not in items}

    @precondition(lambda self: self.now)
    @rule(channel=st.sampled_from(["production", "staging"]))
    def release(self, channel: str) -> None:
        version = self.tables.version("item_vectors")
        assert version is not None
        description = {
            "dims": DIMS,
            "width": WIDTH,
            "views": {"fused": []},
            "default_view": "fused",
        }
        made = draft({"item_vectors": version}, description=description)
        self.published(releases.publish(self.tables, made, channel).name, channel, self.now)

    @rule(items=ids, seed=seeds)
    def publish_own(self, items: list[str], seed: int) -> None:
        rows = drawn(items, seed)
        release = self.store.publish_vectors(items, np.array([*rows.values()]), dims=DIMS)
        self.published(release.name, "production", rows)
        self.now = rows

    @rule(place=places, channel=st.sampled_from(["production", "staging"]))
    def show(self, place: int, channel: str) -> None:
        name = self.some_release(place)
        if self.readable(name):
            self.store.promote(name, channel)
            self.log.append((channel, name))

    @rule(place=places, consumer=st.sampled_from(["trainer", "ranker"]))
    def pin(self, place: int, consumer: str) -> None:
        name = self.some_release(place)
        if self.readable(name):
            self.store.pin(consumer, name)
            self.pins[consumer] = name

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        consumer, _ = self.pins.popitem()
        self.store.unpin(consumer)

    @rule(keep=st.integers(1, 3))
    def maintain(self, keep: int) -> None:
        before = {name for name in self.released if self.readable(name)}
        self.tables.maintain(releases.pinned(self.tables, keep=keep), grace=timedelta(0))
        stay = {*list(self.released)[-keep:], *self.pins.values()}
        stay |= {self.shown(channel) for channel in ("production", "staging")}
        assert {name for name in self.released if self.readable(name)} >= stay & before

    @rule(place=places, wanted=st.lists(st.sampled_from([*IDS, "none such"]), max_size=20))
    def read(self, place: int, wanted: list[str]) -> None:
        name = self.some_release(place)
        if self.readable(name):
            self.compare(self.store.at(release=name), self.released[name], wanted)

    @rule(place=places)
    def compare_two(self, place: int) -> None:
        name = self.some_release(place)
        if not self.readable(name) or self.store.at(release=name).release.space_id != "space":
            return
        if self.store.release.space_id != "space":
            return
        old, new = self.released[name], self.released[self.store.release.name]
        found = self.store.changes(since=name)
        assert found.added == sorted(new.keys() - old.keys())
        assert found.removed == sorted(old.keys() - new.keys())
        both = [item for item in new if item in old]
        assert found.changed == sorted(i for i in both if not np.array_equal(new[i], old[i]))

    @invariant()
    def every_channel_answers_for_its_release(self) -> None:
        for channel in ("production", "staging"):
            if (name := self.shown(channel)) is not None:
                store = ItemStore.open(self.folder, release=name)
                assert releases.visible(self.tables, channel).name == name
                self.compare(store, self.released[name], IDS)

    def readable(self, name: str) -> bool:
        try:
            self.store.at(release=name)
        except UnknownRelease:
            return False
        return True

    def compare(self, store: ItemStore, truth: Rows, wanted: list[str]) -> None:
        for dim in DIMS:
            answer = store.lookup(wanted, dim)
            assert answer.found.tolist() == [item in truth for item in wanted]
            nothing = np.zeros(WIDTH, np.float32)
            rows = np.array([truth.get(item, nothing) for item in wanted], np.float32)
            expected = prefix(rows.reshape(-1, WIDTH), dim)
            np.testing.assert_allclose(answer.vectors, expected, atol=1e-6)
        assert sorted(store.item_matrix(2).ids) == sorted(truth)
        if not answer.found.all():
            with pytest.raises(UnknownIds):
                store.get_item_vectors(wanted)


@pytest.mark.parametrize(
    ("examples", "steps"), [(12, 15), pytest.param(60, 40, marks=pytest.mark.slow)]
)
def test_any_interleaving_answers_as_a_dictionary(examples: int, steps: int):
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(Model, settings=chosen)
