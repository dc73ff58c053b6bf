"""Rows of an items file into rows of the table `items`: ids, text, attributes, picture, hashes.

It decides which rows are new or changed against what the table holds. It writes nothing.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets import images
from assets.columns import Columns, Survey
from assets.item_text import (
    MAX_DEPTH,
    MAX_NAME_CHARS,
    TEMPLATE,
    Cleaner,
    Value,
    digest,
    plain,
    sentences,
    text_hash,
)
from assets.readers import CatalogueError, Rows, column_names, read, spells_values
from assets.rejects import Rejects
from assets.rules import Progress, Reason, clean_ids
from assets.settings import Settings
from encoders.images import RefusedImage, check
from store.schema import ITEM_FIELDS
from store.tables import Tables

BATCH = 128  # rows read at once: a Parquet file may hold a picture in each
WINDOW = 32  # pictures in memory at once beside those of the batch being built
BATCH_BYTES = 64 << 20
FETCHERS = 16
OK, ABSENT = "ok", "absent"
CATALOGUE, ADDED = "catalogue", "added"
NOT_ATTRIBUTES = ("item_id", *images.SOURCES)
STORED = ["item_id", "row_hash", "image_source_hash", "image_status", "origin"]


class Known:
    """What the table holds of each item, by id: enough to see whether a row is unchanged."""

    def __init__(self, tables: Tables) -> None:
        exists = tables.version("items") is not None
        empty = pa.table({name: pa.array([], pa.string()) for name in STORED})
        held = tables.read("items", columns=STORED) if exists else empty
        self._ids, *self._columns = (held[name].combine_chunks() for name in STORED)
        self._row = {item: row for row, item in enumerate(self._ids.to_pylist())}

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._row

    def get(self, item_id: str) -> tuple[str | None, ...]:
        """Return row hash, image source hash, image status and origin; all None if unknown."""
        row = self._row.get(item_id)
        if row is None:
            return (None, None, None, None)
        return tuple(column[row].as_py() for column in self._columns)

    def of(self, origin: str) -> list[str]:
        """Return the ids that came from there."""
        return self._ids.filter(pc.equal(self._columns[-1], origin)).to_pylist()


@dataclass(frozen=True, slots=True)
class Draft:
    """A usable row before its picture is read."""

    number: int
    item_id: str
    fields: dict[str, Value | None]
    text: str
    source: tuple[str, Any] | None
    row_hash: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What became of a row's picture; no data where it is refused, absent or already stored."""

    status: str
    source_hash: str | None = None
    data: bytes | None = None
    detail: str = ""


@dataclass
class Tally:
    """What an intake has seen so far."""

    rows: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    seen: set[str] = field(default_factory=set)
    written: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a first reading of an items file finds."""

    columns: Columns
    rows: int
    ids: frozenset[str]  # those of the watched ids that the file has


def survey(
    path: Path, settings: Settings, progress: Progress, *, watched: Collection[str] = ()
) -> Surveyed:
    """Read the whole file once, to know its columns before any row is written."""
    names = column_names(path)
    if names is not None and "item_id" not in names:
        raise CatalogueError(f"{path} has no column item_id: it has {', '.join(names)}")
    wanted = None if names is None else [name for name in names if name not in images.SOURCES]
    found, cleaner, total = Survey(spelled=spells_values(path)), _cleaner(settings), 0
    ids: set[str] = set()
    for rows in read(path, batch_size=BATCH, columns=wanted):
        for row in rows.dicts():
            fields, _ = attributes(row, cleaner)
            fields.pop("title", None)
            found.add(fields)
        if watched:
            texts, _ = clean_ids(rows.column("item_id"), Reason.MISSING_ITEM_ID)
            ids.update(item for item in texts.to_pylist() if item in watched)
        total += len(rows.numbers) + len(rows.bad)
        progress(total, None, "surveying items")
    columns = found.columns(taken=[column.name for column in ITEM_FIELDS])
    return Surveyed(columns, total, frozenset(ids))


def attributes(
    row: Mapping[str, Any], cleaner: Cleaner
) -> tuple[dict[str, Value | None], str | None]:
    """Return a row's title and attributes by key, and why its JSON column is unreadable if it is.

    A JSON column `attributes` counts as the columns it holds; nested objects are flattened.
    """
    outer = {key: value for key, value in row.items() if key not in NOT_ATTRIBUTES}
    inner, problem = _json_object(outer.get("attributes"))
    if inner is not None:
        del outer["attributes"]
        for key, value in inner.items():
            outer[f"attributes_{key}" if key in outer else key] = value
    fields: dict[str, Value | None] = {}
    for key, value in _flat(outer, cleaner):
        name = cleaner.text(key)[:MAX_NAME_CHARS] or "column"
        cleaned = cleaner.value(value)
        if fields.get(name) is None:
            fields[name] = cleaned
    return fields, problem


class Intake:
    """Reads an items file against what is known, and keeps count."""

    def __init__(
        self,
        path: Path,
        columns: Columns,
        known: Known,
        settings: Settings,
        *,
        origin: str = CATALOGUE,
    ) -> None:
        self.path, self.columns, self.known, self.settings = path, columns, known, settings
        self.origin = origin
        self.rejects = Rejects("items" if origin == CATALOGUE else origin)
        self.tally = Tally()
        self._cleaner = _cleaner(settings)

    def batches(
        self, schema: pa.Schema, progress: Progress, *, unchanged: bool
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows to write, those that did not change too if `unchanged`.

        An unchanged row may lack the bytes of its picture, which the table has.
        """
        workers = FETCHERS if self.settings.ingest.fetch_urls else cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            pending: list[dict[str, Any]] = []
            size = 0
            for row in self._rows(pool, progress, unchanged=unchanged):
                pending.append(row)
                size += len(row["image"] or b"") + len(row["text"])
                if size > BATCH_BYTES or len(pending) >= 64 * BATCH:
                    yield pa.RecordBatch.from_pylist(pending, schema=schema)
                    pending, size = [], 0
            if pending:
                yield pa.RecordBatch.from_pylist(pending, schema=schema)
        self.tally.notes.update(+self._cleaner.notes)

    def vanished(self) -> list[str]:
        """Return the ids that the table has from an earlier catalogue and this one lacks."""
        if self.origin != CATALOGUE:
            return []
        return [item for item in self.known.of(CATALOGUE) if item not in self.tally.seen]

    def _rows(
        self, pool: ThreadPoolExecutor, progress: Progress, *, unchanged: bool
    ) -> Iterator[dict[str, Any]]:
        for rows in read(self.path, batch_size=BATCH):
            drafts = list(self._drafts(rows))
            for start in range(0, len(drafts), WINDOW):
                window = drafts[start : start + WINDOW]
                run = pool.map if any(draft.source for draft in window) else map
                for draft, picture in zip(window, run(self._picture, window), strict=True):
                    if self._count(draft, picture) or unchanged:
                        yield self._row(draft, picture)
            self.tally.rows += len(rows.numbers) + len(rows.bad)
            progress(self.tally.rows, None, "reading items")

    def _drafts(self, rows: Rows) -> Iterator[Draft]:
        """Yield the usable rows; refuse the others."""
        for bad in rows.bad:
            self.rejects.add(bad.number, None, "row", bad.reason, bad.detail)
        ids, faults = clean_ids(rows.column("item_id"), Reason.MISSING_ITEM_ID)
        self.rejects.add_faults(rows.numbers, ids, "item_id", faults, rows.column("item_id"))
        for number, item_id, fault, row in zip(
            rows.numbers, ids.to_pylist(), faults, rows.dicts(), strict=True
        ):
            if fault is None and self._is_ours(number, item_id):
                yield self._draft(number, item_id, row)

    def _is_ours(self, number: int, item_id: str) -> bool:
        """Refuse an id that an earlier row has, or that is not this file's to change."""
        if item_id in self.tally.seen:
            self.rejects.add(
                number, item_id, "item_id", Reason.REPEATED_ID, "the first row is kept"
            )
            return False
        if self.origin == ADDED and self.known.get(item_id)[3] == CATALOGUE:
            detail = "the catalogue has this item: change it there"
            self.rejects.add(number, item_id, "item_id", Reason.IN_CATALOGUE, detail)
            return False
        self.tally.seen.add(item_id)
        return True

    def _draft(self, number: int, item_id: str, row: Mapping[str, Any]) -> Draft:
        found, problem = attributes(row, self._cleaner)
        if problem is not None:
            reason = Reason.UNREADABLE_ATTRIBUTES
            self.rejects.add(number, item_id, "attributes", reason, problem)
        fields = {key: self.columns.fit(key, value) for key, value in found.items()}
        text = self._cleaner.cut(sentences(fields))
        source = images.source(row)
        kind, where = source or ("", "")
        values = {key: plain(value) for key, value in fields.items() if value is not None}
        parts = json.dumps([values, "" if kind == "image" else str(where)], sort_keys=True)
        row_hash = digest(item_id, TEMPLATE, text, parts, images.rules(kind, self.settings.ingest))
        return Draft(number, item_id, fields, text, source, row_hash)

    def _picture(self, draft: Draft) -> Picture:
        """Read and check a picture, unless it is the one that the table already has."""
        if draft.source is None:
            return Picture(ABSENT)
        row_hash, source_hash, status, _ = self.known.get(draft.item_id)
        stored = row_hash == draft.row_hash and status == OK
        kind, value = draft.source
        if stored and kind == "image_url":  # asked for again only when the row or a rule changes
            return Picture(OK, source_hash)
        try:
            data = images.read(kind, value, folder=self.path.parent, ingest=self.settings.ingest)
        except images.ImageRefused as refused:
            return Picture(refused.reason, detail=refused.detail)
        found = images.image_hash(data)
        if stored and source_hash == found:
            return Picture(OK, found, data)
        try:
            check(data, max_pixels=self.settings.ingest.max_image_pixels)
        except RefusedImage as refused:
            return Picture(str(refused.reason), found, detail=refused.detail)
        return Picture(OK, found, data)

    def _count(self, draft: Draft, picture: Picture) -> bool:
        """Count a row; tell whether the table has it otherwise or not at all."""
        if picture.status not in (OK, ABSENT):
            self.rejects.add(draft.number, draft.item_id, "image", picture.status, picture.detail)
        tally = self.tally
        tally.notes["without_text"] += not draft.text
        tally.notes["without_image"] += picture.status != OK
        now = (draft.row_hash, picture.source_hash, picture.status, self.origin)
        if self.known.get(draft.item_id) == now:
            tally.unchanged += 1
            return False
        tally.written.append(draft.item_id)
        if draft.item_id in self.known:
            tally.changed += 1
        else:
            tally.added += 1
        return True

    def _row(self, draft: Draft, picture: Picture) -> dict[str, Any]:
        columns = self.columns.by_key
        return {
            **{columns[key][0]: value for key, value in draft.fields.items() if key in columns},
            "item_id": draft.item_id,
            "title": plain(draft.fields.get("title") or ""),
            "text": draft.text,
            "text_template": TEMPLATE,
            "text_hash": text_hash(draft.text),
            "image": picture.data,
            "image_hash": picture.source_hash if picture.status == OK else None,
            "image_status": str(picture.status),
            "image_source_hash": picture.source_hash,
            "row_hash": draft.row_hash,
            "origin": self.origin,
        }


def _cleaner(settings: Settings) -> Cleaner:
    return Cleaner(settings.ingest.max_text_chars)


def _json_object(value: Any) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return the object that a JSON column holds, and why it holds none although it should."""
    if isinstance(value, Mapping):
        return value, None
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return None, None
    try:
        return json.loads(value), None
    except (ValueError, RecursionError) as error:
        return {}, str(error)


def _flat(
    fields: Mapping[str, Any], cleaner: Cleaner, *, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; the keys of nested objects follow the key that holds them."""
    for key, value in fields.items():
        if not isinstance(value, Mapping):
            yield prefix + key, value
        elif depth < MAX_DEPTH:
            yield from _flat(value, cleaner, prefix=f"{prefix}{key}_", depth=depth + 1)
        else:
            cleaner.notes["nested_too_deep"] += 1
