"""A catalogue folder into tables: items, interactions, and what was refused of them.

Reading the same files twice writes nothing the second time. It knows which rows go where; how a
row is read, judged and rendered is decided in the modules beside it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.columns import convert, kind_of
from assets.intake import ADDED, CATALOGUE, Intake, Known, Tally, survey
from assets.item_text import digest
from assets.readers import SUFFIXES, CatalogueError, Rows, column_names, locate, read
from assets.rejects import KEPT_ROW, Rejects
from assets.rules import (
    Faults,
    Progress,
    Reason,
    as_text,
    clean_ids,
    clean_times,
    clean_weights,
    silent,
    sound,
)
from assets.settings import Settings
from store.schema import INTERACTIONS, ITEM_FIELDS, items_schema
from store.tables import Tables

LOG_BATCH = 50_000
LOG_COLUMNS = ("user_id", "item_id", "timestamp")
LOG_EXTRAS = ("weight", "rating", "event")
MAX_EVENT_CHARS = 100


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did. Every row was either kept or refused: rows = kept + sum(rejected)."""

    source: str
    rows: int
    kept: int
    added: int
    changed: int
    removed: int
    unchanged: int
    rejected: Counter[str]  # rows by reason
    parts: Counter[str]  # "image: truncated" and the like: refused of rows that were kept
    notes: Counter[str]  # what was kept by rule, but not as it stood
    written: list[str]  # the ids of the items added or changed
    seconds: float

    def sentence(self) -> str:
        """Say it in one line."""
        what = [f"{self.kept:,} of {self.rows:,} rows kept"]
        for name in ("added", "changed", "removed"):
            if count := getattr(self, name):
                what.append(f"{count:,} {name}")
        if not (self.added or self.changed or self.removed):
            what.append("nothing new")
        if self.parts:
            what.append(f"{sum(self.parts.values()):,} parts refused")
        return ", ".join(what)

    def refusals(self) -> list[dict[str, Any]]:
        """Return what was refused, and what was changed by rule, as rows of a table."""
        groups = (("row", self.rejected), ("part", self.parts), ("note", self.notes))
        return [
            {"what": what, "reason": reason, "count": count}
            for what, counts in groups
            for reason, count in counts.most_common()
        ]


def need_files(folder: Path) -> None:
    """Raise CatalogueError unless a folder has its two files, and the log its columns."""
    locate(folder, "items")
    _need_columns(locate(folder, "interactions"), LOG_COLUMNS)


def ingest_items(
    tables: Tables,
    settings: Settings,
    progress: Progress = silent,
    *,
    file: Path | None = None,
    origin: str = CATALOGUE,
) -> IngestReport:
    """Bring `items` up to date with the catalogue's items file; write only what changed.

    Rows that vanished from the catalogue are deleted. With origin "added" the rows of `file` are
    added to what is there: they stay until the catalogue has an item of their id.
    """
    started = monotonic()
    path = file or locate(settings.catalogue, "items")
    with tables.lock():
        known = Known(tables)
        added = set(known.of(ADDED))
        surveyed = survey(path, settings, progress, watched=added)
        staying = _staying_fields(tables, added - surveyed.ids, origin)
        columns = surveyed.columns.joined(staying)
        intake = Intake(path, columns, known, settings, origin=origin)
        progress = _of_total(progress, surveyed.rows)
        if _has_columns(tables, columns.fields(), gains=origin == ADDED):
            _update(tables, intake, progress)
        else:
            _rewrite(tables, intake, progress)
        gone = intake.vanished()
        if gone:
            tables.delete("items", "item_id", gone)
        intake.rejects.save(tables)
    intake.tally.removed = len(gone)
    intake.tally.notes["columns_left_out"] = columns.left_out
    return _report(intake.rejects, intake.tally, started)


def ingest_interactions(
    tables: Tables, settings: Settings, progress: Progress = silent
) -> IngestReport:
    """Make `interactions` the log of the catalogue, in the file's order; items must be there.

    A log has no key: it is unchanged, or all rows count as added and the old ones as removed.
    """
    started = monotonic()
    path = locate(settings.catalogue, "interactions")
    _need_columns(path, LOG_COLUMNS)
    with tables.lock():
        rejects, tally = Rejects("interactions"), Tally()
        log = pa.Table.from_batches(_log(path, tables, rejects, tally, progress), INTERACTIONS)
        exists = tables.version("interactions") is not None
        before = tables.read("interactions") if exists else INTERACTIONS.empty_table()
        if exists and before.equals(log):
            tally.unchanged = len(log)
        else:
            tables.replace("interactions", log)
            tally.added, tally.removed = len(log), len(before)
        rejects.save(tables)
    return _report(rejects, tally, started)


def fingerprint(folder: Path) -> str | None:
    """Identify the state of a catalogue's files without reading them; None without items."""
    states = []
    for kind in ("items", "interactions"):
        for path in (folder / (kind + suffix) for suffix in SUFFIXES):
            if path.is_file():
                status = path.stat()
                states.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return digest(*states) if states and states[0].startswith("items") else None


def _report(rejects: Rejects, tally: Tally, started: float) -> IngestReport:
    rows, parts = Counter[str](), Counter[str]()
    for (part, reason), count in rejects.counts().items():
        if part in KEPT_ROW:
            parts[f"{part}: {reason}"] += count
        else:
            rows[reason] += count
    return IngestReport(
        source=rejects.source,
        rows=tally.rows,
        kept=tally.rows - rows.total(),
        added=tally.added,
        changed=tally.changed,
        removed=tally.removed,
        unchanged=tally.unchanged,
        rejected=rows,
        parts=parts,
        notes=+tally.notes,
        written=tally.written,
        seconds=monotonic() - started,
    )


def _of_total(progress: Progress, total: int) -> Progress:
    return lambda done, _, what, /: progress(done, total, what)


def _attribute_fields(tables: Tables) -> list[pa.Field]:
    fixed = {column.name for column in ITEM_FIELDS}
    return [column for column in tables.schema("items") if column.name not in fixed]


def _has_columns(tables: Tables, fields: list[pa.Field], *, gains: bool) -> bool:
    """Tell whether `items` exists with exactly these attribute columns, in whatever order.

    gains: it may lack some of them, which an upsert adds as nulls.
    """
    if tables.version("items") is None:
        return False
    there = {column.name: column.type for column in _attribute_fields(tables)}
    wanted = {column.name: column.type for column in fields}
    return there == wanted or (gains and there.items() <= wanted.items())


def _staying_fields(tables: Tables, added: set[str], origin: str) -> list[pa.Field]:
    """Return the attribute columns of rows that stay whatever the file says."""
    if tables.version("items") is None:
        return []
    fields = _attribute_fields(tables)
    if origin == ADDED:
        return fields
    names = [column.name for column in fields]
    rows = tables.take("items", "item_id", sorted(added), columns=names)
    return [column for column in fields if rows[column.name].null_count < len(rows)]


def _update(tables: Tables, intake: Intake, progress: Progress) -> None:
    """Upsert the rows that are new or changed."""
    schema = items_schema(intake.columns.fields())
    for batch in intake.batches(schema, progress, unchanged=False):
        tables.upsert("items", pa.Table.from_batches([_with_stored_images(tables, batch)]))


def _rewrite(tables: Tables, intake: Intake, progress: Progress) -> None:
    """Write the whole table anew, in one version, since its columns change."""
    schema = items_schema(intake.columns.fields())
    failures: list[Exception] = []

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            yield from _all_rows(tables, intake, schema, progress)
        except Exception as error:  # Arrow passes on its text only
            failures.append(error)
            raise

    try:
        tables.replace("items", pa.RecordBatchReader.from_batches(schema, rows()))
    except Exception as error:
        raise (failures or [error])[0] from None


def _all_rows(
    tables: Tables, intake: Intake, schema: pa.Schema, progress: Progress
) -> Iterator[pa.RecordBatch]:
    exists = tables.version("items") is not None
    for batch in intake.batches(schema, progress, unchanged=True):
        yield _with_stored_images(tables, batch) if exists else batch
    if exists:
        yield from _staying_rows(tables, intake, schema)


def _with_stored_images(tables: Tables, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Fill in pictures that were not read again because the table has them."""
    lacking = pc.and_(pc.equal(batch["image_status"], "ok"), pc.is_null(batch["image"]))
    ids = batch["item_id"].filter(lacking)
    if not len(ids):
        return batch
    stored = tables.take("items", "item_id", ids.to_pylist(), columns=["image"])["image"]
    filled = pc.replace_with_mask(batch["image"], lacking, stored.combine_chunks())
    return batch.set_column(
        batch.schema.get_field_index("image"), batch.schema.field("image"), filled
    )


def _staying_rows(tables: Tables, intake: Intake, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the table's rows that the intake does not replace, in the new columns."""
    where = f"origin = '{ADDED}'" if intake.origin == CATALOGUE else None
    seen = pa.array(sorted(intake.tally.seen), pa.string())
    for batch in tables.batches("items", where=where, batch_size=128):
        kept = batch.filter(pc.invert(pc.is_in(batch["item_id"], seen)))
        columns = [_as_field(kept, column) for column in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_field(batch: pa.RecordBatch, column: pa.Field) -> pa.Array:
    """Return a batch's column in the type of a field; null where the batch has none."""
    if column.name not in batch.schema.names:
        return pa.nulls(len(batch), column.type)
    values = batch[column.name]
    if values.type == column.type:
        return values
    kind = kind_of(column.type)
    found = [None if each is None else convert(each, kind) for each in values.to_pylist()]
    return pa.array(found, column.type)


def _need_columns(path: Path, wanted: tuple[str, ...]) -> None:
    names = column_names(path)
    missing = [] if names is None else [name for name in wanted if name not in names]
    if names is not None and missing:
        raise CatalogueError(f"{path} has no column {missing[0]}: it has {', '.join(names)}")


def _log(
    path: Path, tables: Tables, rejects: Rejects, tally: Tally, progress: Progress
) -> Iterator[pa.RecordBatch]:
    """Yield the usable rows of an interactions file; refuse the others."""
    if tables.version("items") is None:
        raise CatalogueError("interactions need items: ingest those first")
    known = tables.read("items", columns=["item_id"])["item_id"].combine_chunks()
    for rows in read(path, batch_size=LOG_BATCH, columns=LOG_COLUMNS + LOG_EXTRAS):
        for bad in rows.bad:
            rejects.add(bad.number, None, "row", bad.reason, bad.detail)
        yield _log_batch(rows, known, rejects)
        tally.rows += len(rows.numbers) + len(rows.bad)
        progress(tally.rows, None, "reading interactions")


def _log_batch(rows: Rows, known: pa.Array, rejects: Rejects) -> pa.RecordBatch:
    found = {name: rows.column(name) for name in LOG_COLUMNS}
    users, user_faults = clean_ids(found["user_id"], Reason.MISSING_USER_ID)
    items, item_faults = clean_ids(found["item_id"], Reason.MISSING_ITEM_ID)
    times, time_faults = clean_times(found["timestamp"])
    weights, weight_faults = _weights(rows)
    unknown = ~pc.is_in(items, known).to_numpy(zero_copy_only=False)
    item_faults[unknown & sound(item_faults)] = Reason.UNKNOWN_ITEM
    found["weight"] = pa.nulls(len(times)) if sound(weight_faults).all() else rows.column("weight")
    refused = np.zeros(len(times), bool)
    for part, faults in (
        ("item_id", item_faults),
        ("user_id", user_faults),
        ("timestamp", time_faults),
        ("weight", weight_faults),
    ):
        faults[refused] = None  # a row is refused once, for the first fault in this order
        refused |= rejects.add_faults(rows.numbers, items, part, faults, found[part])
    columns = [users, items, pa.array(times), pa.array(weights), _events(rows)]
    fields = [column.with_nullable(True) for column in INTERACTIONS]
    whole = pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
    return pa.RecordBatch.from_arrays(whole.filter(pa.array(~refused)).columns, schema=INTERACTIONS)


def _weights(rows: Rows) -> tuple[NDArray[np.float32], Faults]:
    """Return each row's weight, or else its rating, or else 1."""
    weights, faults = clean_weights(rows.column("weight"))
    ratings, rating_faults = clean_weights(rows.column("rating"))
    absent = np.isnan(weights) & sound(faults)
    faults = np.where(absent, rating_faults, faults)
    weights = np.where(absent, ratings, weights)
    return np.where(np.isnan(weights), np.float32(1), weights), faults


def _events(rows: Rows) -> pa.Array:
    """Return the kinds of events as trimmed text without control characters, null where empty."""
    text = pc.replace_substring_regex(as_text(rows.column("event")), r"\p{Cc}+", " ")
    text = pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(text), 0, MAX_EVENT_CHARS)
    return pc.if_else(pc.equal(text, ""), None, text)
