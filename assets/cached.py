"""What models make of items, cached by item, model and content: made once, kept, never again.

Equal contents are made once, whoever has them. What a model refuses is kept too, in
`refused_vectors`, so that it is named and not tried every night. A killed run loses what is being
worked on, and what was made in the last second. It knows keys, not what is made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.lake import Build, Lake
from encoders.encoder import ItemError, MissingModality, Outcome
from encoders.engine import Engine, Work
from store.schema import REFUSED_VECTORS, positions

REFUSED = "refused_vectors"
COMMIT_SECONDS = 1.0  # of work that a killed run may lose; a commit takes a few hundredths
COMPACTED = 200  # commits between two merges of their fragments: each one slows the next commit
COPIED = 4096  # rows copied at once
TELLING = 8  # refusals without a single success: the model is broken, not the items

T = TypeVar("T")


class Ref(NamedTuple):
    """An item by its row in the table `items`, and a text that is read behind its own."""

    row: int
    addition: str = ""


class Maker(Protocol[T]):
    """A model and the table that caches what it makes."""

    @property
    def table(self) -> str:
        """Name of the table."""
        ...

    @property
    def what(self) -> str:
        """What a person is told that it does."""
        ...

    @property
    def digest(self) -> str:
        """The model's digest: the column `encoder`."""
        ...

    @property
    def modality(self) -> str:
        """What of an item it reads, or makes."""
        ...

    @property
    def batch(self) -> int:
        """How many items are made together."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        ...

    def factory(self, items: int) -> Callable[[], Work[T]]:
        """Return what makes the work, on the items at this table version."""
        ...

    def refs(self, items: pa.Array, rows: Sequence[int]) -> list[Ref]:
        """Return references to items whose rows these are."""
        ...

    def columns(self, made: Sequence[Outcome[T]]) -> dict[str, pa.Array]:
        """Return the columns of the table that hold what was made."""
        ...

    def enough(self, made: Sequence[Outcome[T]]) -> bool:
        """Take note of what was made; tell whether the run shall make no more."""
        ...


@dataclass(frozen=True, slots=True)
class Filled:
    """How many contents were made and how many were not, and how many rows were copied."""

    made: int = 0
    copied: int = 0
    refused: int = 0


def fill(
    lake: Lake, engine: Engine, maker: Maker[T], rows: pa.Table, *, items: int, whole: bool = True
) -> Filled:
    """Make what is missing of the wanted rows (`assets.inputs.wanted`).

    items: the version of the table that holds their content. whole: these are all rows that are
    wanted, and what the model has made of anything else is deleted.
    """
    tables = lake.tables
    if tables.version(maker.table) is None or not _fits(lake, maker):
        tables.replace(maker.table, maker.schema.empty_table())
    if lake.retry:
        _forget(lake, maker, rows.slice(0, 0))
    at = tables.dataset(maker.table).version
    have = tables.read(maker.table, columns=["key", "encoder", "content_hash"], version=at)
    have = have.filter(pc.equal(have["encoder"], maker.digest))
    done = pa.chunked_array([*have["key"].chunks, *_refused(lake, maker)["key"].chunks])
    missing = rows.filter(pc.invert(pc.is_in(rows["key"], done)))
    known = pc.is_in(missing["content_hash"], have["content_hash"])
    copied = missing.filter(known)
    at = _copy(lake, maker, copied, have, at)
    todo = missing.filter(pc.invert(known))
    made = _Making(lake, engine, maker, todo, items, at, works=len(have) > 0).run()
    if whole:
        stale = have.filter(pc.invert(pc.is_in(have["key"], rows["key"])))
        tables.delete(maker.table, "key", stale["key"].to_pylist())
        _forget(lake, maker, rows)
    return Filled(made.made, len(copied), made.refused)


def refusals(lake: Lake, modality: str, digest: str) -> pa.Table:
    """Return what a model refuses, of the newest items."""
    if lake.tables.version(REFUSED) is None:
        return REFUSED_VECTORS.empty_table()
    found = lake.tables.read(REFUSED)
    mine = pc.and_(pc.equal(found["encoder"], digest), pc.equal(found["modality"], modality))
    return found.filter(mine).sort_by("item_id")


def complete(lake: Lake, asset: str, inputs: str) -> Build | None:
    """Return the asset's last build if there is nothing more to make."""
    build = lake.unchanged(asset, inputs)
    if build is None or build.metadata.get("waiting"):
        return None
    return None if lake.retry and build.metadata.get("refused") else build


def _fits(lake: Lake, maker: Maker[Any]) -> bool:
    there = lake.tables.schema(maker.table)
    return there.names == maker.schema.names and there.types == maker.schema.types


def _refused(lake: Lake, maker: Maker[Any]) -> pa.Table:
    return refusals(lake, maker.modality, maker.digest)


def _forget(lake: Lake, maker: Maker[Any], rows: pa.Table) -> None:
    """Delete refusals of contents that are not among the rows."""
    refused = _refused(lake, maker)
    stale = refused.filter(pc.invert(pc.is_in(refused["key"], rows["key"])))
    if len(stale):
        lake.tables.delete(REFUSED, "key", stale["key"].to_pylist())


def _copy(lake: Lake, maker: Maker[Any], rows: pa.Table, have: pa.Table, at: int) -> int:
    """Give rows what the model has made of the same content under another id.

    at: the version of the table in which they were missing. Returns the one in which they are not.
    """
    source = (
        have["key"]
        .combine_chunks()
        .take(positions(rows["content_hash"].combine_chunks(), have["content_hash"]))
    )
    for start in range(0, len(rows), COPIED):
        part, keys = rows.slice(start, COPIED), source.slice(start, COPIED)
        found = lake.tables.take(maker.table, "key", list(dict.fromkeys(keys.to_pylist())))
        copies = found.take(positions(keys, found["key"]))
        for name in ("key", "item_id"):
            column = copies.schema.get_field_index(name)
            copies = copies.set_column(column, copies.schema.field(name), part[name])
        at = lake.tables.append(maker.table, copies, absent_at=at)
    return at


class _Making(Generic[T]):
    """One run of a model over contents that nobody has."""

    def __init__(
        self,
        lake: Lake,
        engine: Engine,
        maker: Maker[T],
        rows: pa.Table,
        items: int,
        at: int,
        *,
        works: bool,
    ) -> None:
        self._lake, self._engine, self._maker, self._items = lake, engine, maker, items
        self._rows, self._starts = _grouped(rows)
        self._at, self._commits = at, 0
        self._stopped = False
        self._works = works  # it has made something of an item, now or earlier
        self.made = self.refused = 0

    def run(self) -> "_Making[T]":
        """Make everything, or as much as is enough; commit it as it comes."""
        total = len(self._starts) - 1
        if not total:
            return self
        self._report(0, total)
        work = self._engine.map(self._maker.factory(self._items), self._batches())
        pending: list[Outcome[T]] = []
        first, last = 0, monotonic()
        with closing(work) as outcomes:
            try:
                for found in outcomes:
                    pending += found
                    self._stopped = self._maker.enough(found)
                    self._report(first + len(pending), total)
                    if monotonic() - last >= COMMIT_SECONDS:
                        done, pending = pending, []
                        self._commit(first, done)
                        first, last = first + len(done), monotonic()
            finally:  # also when the engine has failed: what is made is made
                self._commit(first, pending)
        return self

    def _report(self, done: int, total: int) -> None:
        self._lake.progress(done, total, self._maker.what)

    def _batches(self) -> Iterator[list[Ref]]:
        """Yield references to the first item of each content."""
        ids = self._rows["item_id"].combine_chunks().take(pa.array(self._starts[:-1]))
        table = self._lake.tables.read("items", columns=["item_id"], version=self._items)
        rows = positions(ids, table["item_id"]).to_numpy()
        for start in range(0, len(ids), self._maker.batch):
            if self._stopped:
                return
            part = slice(start, start + self._maker.batch)
            yield self._maker.refs(ids[part], rows[part].tolist())

    def _commit(self, first: int, outcomes: Sequence[Outcome[T]]) -> None:
        """Write what became of the contents from `first` on, for every item that has them."""
        if not outcomes:
            return
        made = [i for i, outcome in enumerate(outcomes) if outcome.refusal is None]
        refused = [i for i, outcome in enumerate(outcomes) if outcome.refusal is not None]
        self._works = self._works or bool(made)
        told = [error for error in map(_refusal, (outcomes[i] for i in refused)) if _tells(error)]
        if not self._works and len(told) >= TELLING:
            raise RuntimeError(
                f"{self._maker.what}: none of {len(told)} items could be read; the first says: "
                f"{told[0]}"
            )
        if made:
            values = self._maker.columns([outcomes[i] for i in made])
            rows = self._expanded(self._maker.schema, first, made, values)
            self._at = self._lake.tables.append(self._maker.table, rows, absent_at=self._at)
            self._commits += 1
            if self._commits % COMPACTED == 0:
                self._at = self._lake.tables.compact(self._maker.table)
        lasting = [i for i in refused if _refusal(outcomes[i]).lasting]
        if lasting:
            values = _said([_refusal(outcomes[i]) for i in lasting], self._maker.modality)
            rows = self._expanded(REFUSED_VECTORS, first, lasting, values)
            self._lake.tables.append(REFUSED, rows)
        self.made += len(made)
        self.refused += len(refused)

    def _expanded(
        self, schema: pa.Schema, first: int, places: Sequence[int], values: Mapping[str, pa.Array]
    ) -> pa.Table:
        """Return a row per item of each content; values are one per place."""
        spans = [(self._starts[first + i], self._starts[first + i + 1]) for i in places]
        rows = pa.array(np.concatenate([np.arange(*span) for span in spans]))
        repeats = pa.array(np.repeat(np.arange(len(places)), [b - a for a, b in spans]))
        columns = {
            **{name: self._rows[name].take(rows) for name in ("key", "item_id", "content_hash")},
            "encoder": pa.array([self._maker.digest] * len(rows)),
            **{name: value.take(repeats) for name, value in values.items()},
        }
        return pa.table([columns[name] for name in schema.names], schema=schema)


def _grouped(rows: pa.Table) -> tuple[pa.Table, list[int]]:
    """Return rows with equal contents together, in order of first appearance, and their starts."""
    codes = rows["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes).tolist() if len(codes) else []
    return rows.take(pa.array(order)), list(accumulate(sizes, initial=0))


def _refusal(outcome: Outcome[Any]) -> ItemError:
    assert outcome.refusal is not None
    return outcome.refusal


def _tells(error: ItemError) -> bool:
    """Tell whether it may be the model's fault: an item may simply lack what a prompt shows."""
    return not isinstance(error, MissingModality)


def _said(refused: Sequence[ItemError], modality: str) -> dict[str, pa.Array]:
    return {
        "modality": pa.array([modality] * len(refused)),
        "reason": pa.array([str(error.reason) for error in refused]),
        "detail": pa.array([str(error)[:300] for error in refused]),
    }
