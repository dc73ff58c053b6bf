"""Releases: one row makes a set of table versions visible; publish, find, roll back, compare.

It knows which versions belong together and proves their vectors before anybody can see them. It
does not know how vectors were made, nor how they are served.

`releases` is a log that only grows. A channel is a name under which readers find a release: what
it shows is its last row, moving it to another release repeats that one's row, and a moment in the
past is answered by the last row of its time.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa

from store.errors import (
    BadVectors,
    NoRelease,
    SpaceMismatch,
    StoreLocked,
    UnknownDim,
    UnknownRelease,
    UnknownTable,
    UnknownView,
    some,
)
from store.pins import pins
from store.recall import searchable
from store.schema import RELEASES, matrix, positions, view_column
from store.tables import Tables

CHANNEL = "production"  # what readers open unless they name another
SHORTEST_SPACE = 8  # digits that name a space
UNIT = 1e-3  # how far from 1 the norm of a published row may be


@dataclass(frozen=True, slots=True)
class Draft:
    """A release about to be published: the versions that belong together, and what they are.

    `description` holds at least `dims`, `width`, `views` {name: [roles]} and `default_view`.
    """

    space_id: str
    basis_id: str
    refresh_id: str
    inputs: str
    tables: Mapping[str, int]
    description: Mapping[str, Any]
    quality: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """One row of the log: `channel` shows the release `name` ("r1", "r2", …) from `created_at` on.

    `kind` is "publish", or how a channel came to an earlier release: "promote" or "rollback".
    """

    event: int
    kind: str
    channel: str
    name: str
    space_id: str
    basis_id: str
    refresh_id: str
    created_at: datetime
    inputs: str
    tables: dict[str, int]
    description: dict[str, Any]
    quality: dict[str, Any]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a row of `releases`."""
        parsed = {part: json.loads(row[part]) for part in ("tables", "description", "quality")}
        names = {"name": row["release"], "channel": row.get("channel") or CHANNEL}
        return cls(**{key: row[key] for key in row if key != "release"} | parsed | names)

    def to_row(self) -> dict[str, Any]:
        """Return the row of `releases` that `from_row` reads."""
        row = asdict(self)
        row["release"] = row.pop("name")
        for part in ("tables", "description", "quality"):
            row[part] = json.dumps(row[part], sort_keys=True)
        return row

    @property
    def dims(self) -> tuple[int, ...]:
        """The published granularities, ascending."""
        return tuple(self.description["dims"])

    @property
    def width(self) -> int:
        """How wide the stored vectors are."""
        return self.description["width"]

    @property
    def views(self) -> dict[str, tuple[str, ...]]:
        """The views and their roles; a symmetric view has none."""
        return {name: tuple(roles) for name, roles in self.description["views"].items()}

    @property
    def default_view(self) -> str:
        """The view that reads use unless told otherwise."""
        return self.description["default_view"]

    @property
    def stamp(self) -> str:
        """A name that no other release has, not even the same one of a store made anew."""
        content = json.dumps([self.tables, self.description], sort_keys=True).encode()
        return f"{self.name}-{hashlib.blake2b(content, digest_size=6).hexdigest()}"

    def dim(self, dim: int | None) -> int:
        """Return `dim` if it is published, the largest for None."""
        if dim is None:
            return self.dims[-1]
        if isinstance(dim, bool) or dim not in self.dims:
            raise UnknownDim(f"{self.name} has no dim {dim!r}: choose one of {some(self.dims, 20)}")
        return int(dim)

    def column(self, view: str | None, role: str | None) -> str:
        """Return the column of `item_vectors` that holds a view (None: the default) in a role."""
        name = self.default_view if view is None else view
        if name not in self.views:
            raise UnknownView(
                f"{self.name} has no view {view!r}: choose one of {some(self.views, 20)}"
            )
        if role not in ("context", "target"):
            raise UnknownView(f"there is no role {role!r}: choose 'context' or 'target'")
        return view_column(name, role if self.views[name] else None)

    def columns(self) -> list[str]:
        """Return every column of `item_vectors` that holds a view."""
        return [
            view_column(view, role)
            for view, roles in self.views.items()
            for role in roles or (None,)
        ]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a consumer of `since` must refresh to be at `until`: item ids, each list sorted."""

    since: str
    until: str
    added: list[str]
    changed: list[str]
    removed: list[str]


def history(tables: Tables) -> list[Release]:
    """Return the whole log, oldest first."""
    try:
        rows = tables.read("releases").to_pylist()
    except UnknownTable:
        return []
    return [Release.from_row(row) for row in sorted(rows, key=lambda row: row["event"])]


def current(tables: Tables, channel: str = CHANNEL) -> Release | None:
    """Return the release that a channel shows, None before its first one."""
    log = [release for release in history(tables) if release.channel == channel]
    return log[-1] if log else None


def visible(tables: Tables, channel: str = CHANNEL) -> Release:
    """Return the release that a channel shows; NoRelease before its first one."""
    log = history(tables)
    for release in reversed(log):
        if release.channel == channel:
            return release
    if log:
        known = some({release.channel for release in log}, 20)
        raise NoRelease(f"{tables.uri} has no channel {channel!r}: choose one of {known}")
    raise NoRelease(
        f"{tables.uri} holds no release: run `itemnest materialize`, or "
        "ItemStore.create(…).publish_vectors(…) with your own vectors"
    )


def named(tables: Tables, name: str) -> Release:
    """Return the release called `name`, as it was published."""
    log = [row for row in history(tables) if row.kind == "publish"]
    for release in log:
        if release.name == name:
            return release
    known = [release.name for release in reversed(log)]
    raise UnknownRelease(f"{tables.uri} has no release {name!r}: it has {some(known) or 'none'}")


def as_of(tables: Tables, moment: datetime | str, channel: str = CHANNEL) -> Release:
    """Return the release that a channel showed at a moment; without a time zone it is UTC."""
    try:
        when = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError as error:
        raise UnknownRelease(
            f"as_of={moment!r} is not a date: write 2026-11-01T00:00:00Z"
        ) from error
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    log = [release for release in history(tables) if release.channel == channel]
    seen = [release for release in log if release.created_at <= when]
    if not seen:
        first = f"the first is of {log[0].created_at.isoformat()}" if log else "there is none yet"
        raise UnknownRelease(f"{tables.uri} had no release at {when.isoformat()}: {first}")
    return seen[-1]


def of_space(tables: Tables, space: str, channel: str = CHANNEL) -> Release:
    """Return the release that a channel showed last of a space.

    space: its id, or the first SHORTEST_SPACE digits or more of it. UnknownRelease if no release or
    more than one space is meant.
    """
    log = [release for release in history(tables) if release.channel == channel]
    spaces = list(dict.fromkeys(row.space_id for row in reversed(log)))
    meant = [each for each in spaces if each == space]
    if not meant and len(space) >= SHORTEST_SPACE:
        meant = [each for each in spaces if each.startswith(space)]
    if len(meant) != 1:
        what = f"several spaces {space!r}…" if meant else f"no release of the space {space!r}"
        raise UnknownRelease(f"{tables.uri} has {what}: it has {some(meant or spaces) or 'none'}")
    return next(row for row in reversed(log) if row.space_id == meant[0])


def publish(tables: Tables, draft: Draft, channel: str = CHANNEL) -> Release:
    """Prove the draft's vectors, then have a channel show them by appending one row."""
    with tables.lock():
        prove(tables, draft)
        log = history(tables)
        draft = searchable(tables, draft, log)
        number = 1 + sum(row.kind == "publish" for row in log)
        moment = _next_moment(log)
        release = Release(
            event=log[-1].event + 1 if log else 1,
            kind="publish",
            channel=channel,
            name=f"r{number}",
            space_id=draft.space_id,
            basis_id=draft.basis_id,
            refresh_id=draft.refresh_id,
            created_at=moment,
            inputs=draft.inputs,
            tables=dict(draft.tables),
            description={**draft.description, "published_at": moment.isoformat()},
            quality=dict(draft.quality),
        )
        return _append(tables, release)


def show(tables: Tables, name: str, channel: str = CHANNEL) -> Release:
    """Have a channel show an earlier release, by repeating its row."""
    with tables.lock():
        target = readable(tables, named(tables, name))
        log = history(tables)
        before = [release for release in log if release.channel == channel]
        if before and before[-1].name == name:
            return before[-1]
        kind = "rollback" if any(release.name == name for release in before) else "promote"
        event, moment = log[-1].event + 1, _next_moment(log)
        return _append(
            tables, replace(target, event=event, kind=kind, channel=channel, created_at=moment)
        )


def readable(tables: Tables, release: Release) -> Release:
    """Return the release if all its tables are still there."""
    try:
        for name, version in release.tables.items():
            tables.dataset(name, version=version)
    except UnknownTable as error:
        raise UnknownRelease(f"{release.name} is no longer kept: {error}") from error
    return release


def changes(tables: Tables, since: Release, until: Release) -> Changes:
    """Compare two releases of one space by the digests of their rows."""
    if since.space_id != until.space_id:
        raise SpaceMismatch(
            f"{since.name} and {until.name} are different spaces: "
            f"nothing of {since.name} can be kept, read {until.name} as a whole"
        )
    old, new = (_digests(tables, release) for release in (since, until))
    where = positions(new["item_id"].combine_chunks(), old["item_id"])
    fresh = where.is_null().to_numpy(zero_copy_only=False)
    ids = new["item_id"].to_numpy()
    rows = where.fill_null(0).to_numpy()
    old_ids, old_digests = old["item_id"].to_numpy(), old["digest"].to_numpy()
    same = ~fresh
    same[same] = old_digests[rows[same]] == new["digest"].to_numpy()[same]
    gone = np.ones(len(old_ids), bool)
    gone[rows[~fresh]] = False
    return Changes(
        since.name,
        until.name,
        added=sorted(ids[fresh].tolist()),
        changed=sorted(ids[~fresh & ~same].tolist()),
        removed=sorted(old_ids[gone].tolist()),
    )


def pinned(tables: Tables, *, keep: int) -> dict[str, set[int]]:
    """Return the table versions that upkeep must not remove: `Tables.maintain(pinned(…))`.

    Those are the versions of what each channel shows, of the last `keep` releases, of those that a
    consumer has pinned, and of what the assets last built, from which the next run starts.
    """
    log, held = history(tables), set(pins(tables).values())
    published = [release for release in log if release.kind == "publish"]
    chosen = published[-keep:] if keep else []
    chosen += {release.channel: release for release in log}.values()
    chosen += [release for release in published if release.name in held]
    versions = [release.tables for release in chosen]
    if tables.version("builds") is not None:
        versions += map(json.loads, tables.read("builds", columns=["tables"])["tables"].to_pylist())
    kept: dict[str, set[int]] = {}
    for together in versions:
        for name, version in together.items():
            kept.setdefault(name, set()).add(version)
    return kept


def prove(tables: Tables, draft: Draft) -> None:
    """Refuse a draft whose tables or vectors are not what its description says."""
    names = ("draft", CHANNEL, "the draft", "", "", "")
    shape = Release(0, *names, datetime.now(UTC), "", **_parts(draft))
    if not shape.dims or list(shape.dims) != sorted({*shape.dims} & {*range(1, shape.width + 1)}):
        raise BadVectors(f"dims {list(shape.dims)} must ascend within 1..{shape.width}")
    if odd := [view for view in shape.views if not re.fullmatch(r"\w+", view)]:
        raise BadVectors(f"a view is named by letters, digits and underscores: {some(odd)}")
    if shape.default_view not in shape.views:
        raise BadVectors(f"default_view {shape.default_view!r} is none of {some(shape.views, 20)}")
    for name, version in draft.tables.items():
        tables.dataset(name, version=version)
    version = draft.tables["item_vectors"]
    _prove_columns(tables.schema("item_vectors", version=version), shape)
    ids = tables.read("item_vectors", columns=["item_id"], version=version)["item_id"]
    if not len(ids) or len(ids.unique()) != len(ids):
        raise BadVectors(f"item_vectors: {len(ids)} rows, {len(ids.unique())} different ids")
    columns = ["item_id", *shape.columns()]
    for batch in tables.batches("item_vectors", columns=columns, version=version):
        _prove_rows(batch, shape)


def _prove_columns(schema: pa.Schema, shape: Release) -> None:
    kind = pa.list_(pa.float32(), shape.width)
    for column in shape.columns():
        if column not in schema.names:
            has = some(schema.names, 20)
            raise BadVectors(f"item_vectors has no column {column!r}: it has {has}")
        field = schema.field(column)
        if field.type != kind or field.nullable:
            raise BadVectors(f"item_vectors.{column} is {field}: it must be {kind} not null")


def _prove_rows(batch: pa.RecordBatch, shape: Release) -> None:
    for column in shape.columns():
        vectors = matrix(batch[column])
        head = np.linalg.norm(vectors[:, : shape.dims[0]].astype(np.float64), axis=1)
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        good = (np.abs(norms - 1) <= UNIT) & (head > 0)  # NaN and infinity fail this too
        if not good.all():
            ids = batch["item_id"].filter(pa.array(~good)).to_pylist()
            raise BadVectors(
                f"item_vectors.{column}: {len(ids)} rows are not finite unit vectors with a "
                f"direction in their first {shape.dims[0]} coordinates: {some(ids)}"
            )


def _append(tables: Tables, release: Release) -> Release:
    row = pa.Table.from_pylist([release.to_row()], schema=RELEASES)
    if tables.insert_new("releases", row) != 1:
        raise StoreLocked(f"another writer took event {release.event} of {tables.uri}: try again")
    return release


def _next_moment(log: list[Release]) -> datetime:
    """Return now, but always later than the last event, whatever the clock says."""
    now = datetime.now(UTC)
    return max(now, log[-1].created_at + timedelta(microseconds=1)) if log else now


def _digests(tables: Tables, release: Release) -> pa.Table:
    version = readable(tables, release).tables["item_vectors"]
    return tables.read("item_vectors", columns=["item_id", "digest"], version=version)


def _parts(draft: Draft) -> dict[str, Any]:
    return {
        "tables": dict(draft.tables),
        "description": dict(draft.description),
        "quality": dict(draft.quality),
    }
