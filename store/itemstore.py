"""The class users hold: item vectors of one release, by id, as a matrix, by likeness, by SQL.

It knows which release it is open at and which policies a read may follow. It does not know how
vectors are made, nor how tables and packs are laid out.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from matryoshka.prefix import Vectors
from store import pins, query, releases
from store.errors import NoRelease, SpaceMismatch, StoreExists, UnknownIds, some
from store.follow import Follower
from store.ids import Ids, id_list
from store.own import draft_of
from store.pack import Packs
from store.releases import CHANNEL, Changes, Release
from store.search import closest, eligible, query_encoder, query_vector
from store.tables import Tables

Missing: TypeAlias = Literal["raise", "zero", "nan"]
Role: TypeAlias = Literal["context", "target"]


DESCRIBED = "content"  # the view that texts and pictures are compared in


class Lookup(NamedTuple):
    """Vectors float32 [n, dim], and for every row whether its id was found, bool [n]."""

    vectors: Vectors
    found: NDArray[np.bool_]


class SequenceVectors(NamedTuple):
    """Vectors float32 [n, length, dim], left-padded, and a mask bool [n, length] of the events."""

    vectors: Vectors
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ItemMatrix:
    """All items of a release: row i of vectors, float32 [n, dim], is ids[i].

    The padding row (the first) and the out-of-vocabulary row (the last) have the id None.
    """

    ids: list[str | None]
    vectors: Vectors
    release: str

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of every item by its id, made when first asked for."""
        return {item: row for row, item in enumerate(self.ids) if item is not None}

    def index_of(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of every id, int64 [n], order and repeats kept.

        An unknown id has the out-of-vocabulary row; UnknownIds where the matrix has none.
        """
        wanted = id_list(ids)
        oov = len(self.ids) - 1 if self.ids[-1] is None else -1
        found = np.fromiter((self.rows.get(item, oov) for item in wanted), np.int64, len(wanted))
        if (found < 0).any():
            unknown = [wanted[place] for place in np.flatnonzero(found < 0)]
            raise UnknownIds(
                f"{len(unknown)} of {len(wanted)} ids are not in {self.release}: {some(unknown)}; "
                "item_matrix(oov_row=True) has a row for them"
            )
        return found


class ItemStore:
    """One store, open at one release: every answer comes from that release alone.

    Reads share nothing that changes, so threads and forked or spawned workers may use one store.
    """

    def __init__(
        self,
        tables: Tables,
        release: Release | None,
        *,
        channel: str = CHANNEL,
        follow: bool = False,
    ) -> None:
        self._tables, self._channel = tables, channel
        self._moving = threading.Lock()
        self._open = Packs(tables, release) if release else None
        self._follower = Follower(tables, channel, self._prepare) if follow else None

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        release: str | None = None,
        channel: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a store at the release that "production" shows, or at the one named.

        With `channel` the store moves with that channel: within a second of a change it begins to
        prepare the new release in the background, and then answers from it. It moves within one
        basis only; vectors of another, which must not meet those it gave out before, need an
        explicit `refresh()`.
        """
        if release is not None and channel is not None:
            raise ValueError("open() takes either release= or channel=")
        tables, follow = Tables(uri, storage_options), channel is not None
        channel = CHANNEL if channel is None else channel
        found = releases.named(tables, release) if release else releases.visible(tables, channel)
        return cls(tables, releases.readable(tables, found), channel=channel, follow=follow)

    @classmethod
    def create(cls, uri: str | Path, *, storage_options: Mapping[str, str] | None = None) -> Self:
        """Make an empty store to publish into."""
        tables = Tables(uri, storage_options)
        if held := releases.history(tables):
            raise StoreExists(f"{tables.uri} already holds {held[-1].name}: use ItemStore.open")
        if tables.folder:
            tables.folder.mkdir(parents=True, exist_ok=True)
        return cls(tables, None)

    def __repr__(self) -> str:
        if self._open is None:
            return f"ItemStore({self._tables.uri!r}, no release)"
        dims = "/".join(map(str, self.dims))
        return f"ItemStore({self._tables.uri!r}, {self.release.name}, dims {dims})"

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as an address and a release, not as maps and handles."""
        release = self._open.release if self._open else None
        remake = partial(type(self), channel=self._channel, follow=self._follower is not None)
        return remake, (self._tables, release)

    @property
    def release(self) -> Release:
        """The release that this store is open at."""
        return self._packs.release

    @property
    def tables(self) -> Tables:
        """The tables underneath; `release.tables` names the version of each that is pinned."""
        return self._tables

    @property
    def dims(self) -> tuple[int, ...]:
        """The published granularities, ascending."""
        return self.release.dims

    @property
    def views(self) -> dict[str, tuple[str, ...]]:
        """The views and their roles; a symmetric view has none."""
        return self.release.views

    def get_item_vectors(
        self,
        ids: Ids,
        dim: int | None = None,
        *,
        view: str | None = None,
        role: Role = "target",
        missing: Missing = "raise",
        out: Vectors | None = None,
    ) -> Vectors:
        """Return float32 [n, dim], unit rows, row i for id i; repeats and order are kept.

        dim: a published granularity, by default the largest. missing: what an unknown id reads,
        an error, a row of zeros or of NaN. out: a C-contiguous float32 [n, dim] to fill.
        """
        return self._read(ids, dim, view, role, missing, out)[0]

    def lookup(
        self,
        ids: Ids,
        dim: int | None = None,
        *,
        view: str | None = None,
        role: Role = "target",
        missing: Missing = "zero",
        out: Vectors | None = None,
    ) -> Lookup:
        """Return what `get_item_vectors` does, and which ids were found."""
        vectors, rows = self._read(ids, dim, view, role, missing, out)
        return Lookup(vectors, rows > 0)

    def get_sequence_vectors(
        self,
        sequences: Sequence[Ids],
        dim: int | None = None,
        *,
        max_len: int | None = None,
        view: str | None = None,
        role: Role = "context",
        missing: Literal["raise", "zero", "nan", "skip"] = "raise",
    ) -> SequenceVectors:
        """Return the vectors of histories, oldest event first, left-padded with zeros.

        Each keeps its last `max_len` events; by default the longest one sets the length. Unknown
        ids raise, read as zeros or NaN with their mask set, or are left out before cutting.
        """
        packs = self._packs
        _refuse_policy(missing, ("raise", "zero", "nan", "skip"))
        column, dim = packs.place(view, role, dim)
        lists = [id_list(sequence) for sequence in sequences]
        known, _ = _rows(packs, list(chain.from_iterable(lists)), missing)
        parts = np.split(known, np.cumsum([len(ids) for ids in lists])[:-1]) if lists else []
        if missing == "skip":
            parts = [rows[rows > 0] for rows in parts]
        length = max(map(len, parts), default=0) if max_len is None else max_len
        rows, mask = _left_padded(parts, length)
        read = np.empty((*rows.shape, dim), np.float32)
        packs.take(column, dim, rows.ravel(), read.reshape(-1, dim))
        if missing == "nan":
            read[mask & (rows == 0)] = np.nan
        return SequenceVectors(read, mask)

    def item_matrix(
        self,
        dim: int | None = None,
        *,
        pad_row: bool = False,
        oov_row: bool = False,
        view: str | None = None,
        role: Role = "target",
    ) -> ItemMatrix:
        """Return all items, memory-mapped; what you change in it stays in your process.

        pad_row puts a row of zeros first, oov_row the unit mean of all items last.
        """
        packs = self._packs
        column, dim = packs.release.column(view, role), packs.release.dim(dim)
        ids = [None] * pad_row + packs.ids.to_pylist() + [None] * oov_row
        vectors = packs.private(column, dim)
        chosen = vectors[0 if pad_row else 1 : len(vectors) if oov_row else -1]
        return ItemMatrix(ids, chosen, packs.release.name)

    def search(
        self,
        query: str | int | ArrayLike | None = None,
        *,
        text: str | None = None,
        image: bytes | None = None,
        k: int = 10,
        dim: int | None = None,
        where: str | None = None,
        exclude: Ids = (),
        view: str | None = None,
    ) -> pa.Table:
        """Return the k most similar items: item_id, score (cosine at dim) and, if any, title.

        query: an id, which is read in the role "context" and never its own answer, or a vector of
        the full width or of `dim` (where the view has roles, a "context" one); else `text` or
        `image`, which the view "content" answers by default: what is described, not what follows.
        Candidates are read in the role "target". where: a SQL filter over `items`. exclude: ids
        that may not be answers.
        """
        packs = self._packs
        if query is None and view is None and DESCRIBED in packs.release.views:
            view = DESCRIBED
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one item")
        column, dim = packs.release.column(view, "target"), packs.release.dim(dim)
        banned = id_list(exclude)
        if (item := _as_id(query)) is not None:
            banned.append(item)
            row = packs.index.rows([item])
            if not row.all():
                name = packs.release.name
                raise UnknownIds(f"{item!r} is not in {name}: search by text, image or a vector")
            history = packs.release.column(view, "context")
            vector = packs.take(history, dim, row, np.empty((1, dim), np.float32))[0]
        else:
            given = query if query is not None else self._encoded(packs, text, image, view)
            vector = query_vector(given, dim=dim, width=packs.release.width)
        among = eligible(packs, where, banned)
        rows, scores = closest(packs, (column, dim), vector, k, among)
        names = packs.names.take(pa.array(rows - 1))
        return names.add_column(1, "score", pa.array(scores))

    def sql(
        self, statement: str, *, timeout_s: float = 30.0, max_rows: int = 1_000_000
    ) -> pa.Table:
        """Return the answer to one SELECT, in DuckDB's dialect, over this release's tables."""
        return query.run(
            self._tables.uri,
            self.release.tables,
            statement,
            timeout_s=timeout_s,
            max_rows=max_rows,
            storage_options=self._tables.storage_options,
        )

    def releases(self) -> list[Release]:
        """Return the log of releases and rollbacks, oldest first; the last one is visible."""
        return releases.history(self._tables)

    def at(
        self,
        *,
        release: str | None = None,
        as_of: datetime | str | None = None,
        space: str | None = None,
    ) -> "ItemStore":
        """Return this store open at a release, a moment of its channel (ISO), or a space.

        space: a `space_id`, or its first eight digits or more; what the channel showed last of it
        is opened, for whoever is not ready for vectors that cannot be compared with those before.
        UnknownRelease if there is none, or if it is no longer kept.
        """
        if sum(given is not None for given in (release, as_of, space)) != 1:
            raise ValueError("at() takes either release= or as_of= or space=")
        if release is not None:
            found = releases.named(self._tables, release)
        elif space is not None:
            found = releases.of_space(self._tables, space, self._channel)
        else:
            assert as_of is not None
            found = releases.as_of(self._tables, as_of, self._channel)
        readable = releases.readable(self._tables, found)
        return ItemStore(self._tables, readable, channel=self._channel)

    def refresh(self) -> Release:
        """Move to what the channel shows and return it; reads under way finish on the old one."""
        found = releases.visible(self._tables, self._channel)
        if self._open is None or self._open.release.stamp != found.stamp:
            self._move(Packs(self._tables, releases.readable(self._tables, found)))
        return found

    def rollback(self, release: str) -> Release:
        """Have the channel show an earlier release, for everybody, and move to it."""
        releases.show(self._tables, release, self._channel)
        return self.refresh()

    def promote(self, release: str, channel: str = CHANNEL) -> Release:
        """Have a channel show a release; this store stays where it is."""
        return releases.show(self._tables, release, channel)

    def pin(self, consumer: str, release: str | None = None) -> Release:
        """Keep a release, by default this one, readable for a consumer until it lets go of it.

        A consumer holds one release: pinning another moves its pin. UnknownRelease if it is gone.
        """
        with self._tables.lock():
            found = releases.named(self._tables, release) if release else self.release
            pins.pin(self._tables, consumer, releases.readable(self._tables, found).name)
            return found

    def unpin(self, consumer: str) -> None:
        """Let go of the release that a consumer has pinned; upkeep may remove it then."""
        pins.unpin(self._tables, consumer)

    def pins(self) -> dict[str, str]:
        """Return the release that each consumer has pinned, by the consumer's name."""
        return pins.pins(self._tables)

    def changes(self, *, since: str) -> Changes:
        """Return the ids added, changed and removed between a release and this one."""
        before = releases.named(self._tables, since)
        return releases.changes(self._tables, before, self.release)

    def publish_vectors(
        self,
        ids: Ids,
        vectors: Vectors,
        *,
        context: Vectors | None = None,
        view: str = "fused",
        dims: Sequence[int] | None = None,
        space: str = "mine",
        channel: str | None = None,
    ) -> Release:
        """Publish your own vectors as a release with one view, and move to it if it is here.

        vectors: [n, width], finite, no zero rows; every row is rescaled to unit length. With
        `context` they are targets and the view has both roles. dims: the granularities at which a
        prefix is meaningful, by default the full width alone. space: vectors published under one
        name may be compared with each other; give those of another model another name. channel:
        the one to show them, by default this store's.
        """
        channel = channel or self._channel
        with self._tables.lock():
            draft = draft_of(
                self._tables,
                releases.current(self._tables, channel) or releases.current(self._tables),
                id_list(ids),
                vectors,
                context=context,
                view=view,
                dims=dims,
                space=space,
            )
            published = releases.publish(self._tables, draft, channel)
            if channel == self._channel:
                self._move(Packs(self._tables, published))
            return published

    def _prepare(self, release: Release) -> None:
        """Move to a release once its packs are there; the reads until then are of the old one."""
        now = self._packs
        if now.release.stamp == release.stamp:
            return
        if now.release.basis_id != release.basis_id:
            raise SpaceMismatch(
                f"{release.name} is another basis than {now.release.name}, which is read on: "
                "refresh() moves to it once the consumer is ready"
            )
        packs = Packs(self._tables, release)
        packs.prepare(now)
        with self._moving:
            if self._open is now:  # else somebody has moved it meanwhile
                self._open = packs

    def _move(self, packs: Packs) -> None:
        with self._moving:
            self._open = packs

    @property
    def _packs(self) -> Packs:
        if self._open is None:
            raise NoRelease(
                f"{self._tables.uri} holds no release: publish_vectors(…) makes one, "
                "and so does `itemnest materialize`"
            )
        return self._open

    def _read(
        self,
        ids: Ids,
        dim: int | None,
        view: str | None,
        role: Role,
        missing: Missing,
        out: Vectors | None,
    ) -> tuple[Vectors, NDArray[np.int64]]:
        packs = self._packs
        _refuse_policy(missing, ("raise", "zero", "nan"))
        column, dim = packs.place(view, role, dim)
        rows, unknown = _rows(packs, ids, missing)
        if out is None:
            out = np.empty((len(rows), dim), np.float32)
        else:
            _refuse_out(out, (len(rows), dim))
        packs.take(column, dim, rows, out)
        if unknown and missing == "nan":
            out[rows == 0] = np.nan
        return out, rows

    def _encoded(
        self, packs: Packs, text: str | None, image: bytes | None, view: str | None
    ) -> Vectors:
        if (text is None) == (image is None):
            raise ValueError("search() takes one of: an id or a vector, text=, image=")
        pinned = ItemStore(self._tables, packs.release)
        view = packs.release.default_view if view is None else view
        return query_encoder()(pinned, text=text, image=image, view=view)[0]


def _rows(packs: Packs, ids: Ids, missing: str) -> tuple[NDArray[np.int64], int]:
    """Return the pack row of every id, 0, a row of zeros, for an unknown one; and how many are."""
    strings = cast(list[str], ids) if isinstance(ids, list) else id_list(ids)
    rows, unknown = packs.index.find(strings)
    if unknown < 0:  # not all are strings
        strings = id_list(ids)
        rows, unknown = packs.index.find(strings)
    if unknown and missing == "raise":
        _refuse_unknown(packs.release, strings, rows > 0)
    return rows, unknown


def _refuse_unknown(release: Release, ids: list[str], found: NDArray[np.bool_]) -> None:
    if not found.all():
        unknown = [ids[row] for row in np.flatnonzero(~found)]
        raise UnknownIds(
            f"{len(unknown)} of {len(ids)} ids are not in {release.name}: {some(unknown)}; "
            "missing='zero' or 'nan' reads them as such"
        )


def _refuse_policy(missing: str, known: tuple[str, ...]) -> None:
    if missing not in known:
        raise ValueError(f"missing={missing!r}: choose one of {some(known)}")


def _refuse_out(out: Vectors, shape: tuple[int, int]) -> None:
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == np.float32
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out must be a writable C-contiguous float32 array of shape {shape}")


def _left_padded(
    parts: list[NDArray[np.int64]], length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the last `length` rows of every part at the right edge, zeros before them."""
    rows = np.zeros((len(parts), length), np.int64)
    mask = np.zeros((len(parts), length), bool)
    for row, part in enumerate(parts):
        kept = min(len(part), length)
        if kept:
            rows[row, -kept:] = part[-kept:]
            mask[row, -kept:] = True
    return rows, mask


def _as_id(query: object) -> str | None:
    """Return the id that a query names, None when it is a vector or nothing."""
    if isinstance(query, str | int | np.integer):
        return id_list([query])[0]
    return None
