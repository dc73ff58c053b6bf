"""The class users hold: item vectors of one release, by id, as a matrix, by likeness, by SQL.

It knows which release it is open at and which policies a read may follow. It does not know how
vectors are made, nor how tables and packs are laid out.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from matryoshka.prefix import Vectors
from store import query, releases
from store.errors import NoRelease, StoreExists, UnknownIds, some
from store.ids import Ids, id_list
from store.own import draft_of
from store.pack import Packs
from store.releases import Changes, Release
from store.search import allowed_rows, nearest, query_encoder, query_vector
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


class ItemMatrix(NamedTuple):
    """All items of a release: row i of vectors, float32 [n, dim], is ids[i].

    The padding and the out-of-vocabulary row have the id None.
    """

    ids: list[str | None]
    vectors: Vectors
    release: str


class ItemStore:
    """One store, open at one release: every answer comes from that release alone.

    Reads share nothing that changes, so threads and forked or spawned workers may use one store.
    """

    def __init__(self, tables: Tables, release: Release | None) -> None:
        self._tables = tables
        self._open = Packs(tables, release) if release else None

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        release: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a store at the visible release, or at the one named."""
        tables = Tables(uri, storage_options)
        found = releases.visible(tables) if release is None else releases.named(tables, release)
        return cls(tables, releases.readable(tables, found))

    @classmethod
    def create(cls, uri: str | Path, *, storage_options: Mapping[str, str] | None = None) -> Self:
        """Make an empty store to publish into."""
        tables = Tables(uri, storage_options)
        if (held := releases.current(tables)) is not None:
            raise StoreExists(f"{tables.uri} already holds {held.name}: use ItemStore.open")
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
        return type(self), (self._tables, release)

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
        return self._read(ids, dim, view, role, missing, out).vectors

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
        return self._read(ids, dim, view, role, missing, out)

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
        vectors = packs.vectors(packs.release.column(view, role), packs.release.dim(dim))
        lists = [id_list(sequence) for sequence in sequences]
        known = _rows(packs, list(chain.from_iterable(lists)), missing)
        parts = np.split(known, np.cumsum([len(ids) for ids in lists])[:-1]) if lists else []
        if missing == "skip":
            parts = [rows[rows > 0] for rows in parts]
        length = max(map(len, parts), default=0) if max_len is None else max_len
        rows, mask = _left_padded(parts, length)
        read = np.take(vectors, rows, axis=0)
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
            history = packs.vectors(packs.release.column(view, "context"), dim)
            row = packs.index.rows([item])[0]
            if not row:
                name = packs.release.name
                raise UnknownIds(f"{item!r} is not in {name}: search by text, image or a vector")
            vector = history[row]
        else:
            given = query if query is not None else self._encoded(packs, text, image, view)
            vector = query_vector(given, dim=dim, width=packs.release.width)
        allowed = allowed_rows(self._tables, packs, where)
        allowed[packs.index.rows(banned)] = False
        rows, scores = nearest(packs.vectors(column, dim), vector, k, allowed=allowed)
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

    def at(self, *, release: str | None = None, as_of: datetime | str | None = None) -> "ItemStore":
        """Return this store open at a release, or at what was visible at a moment (ISO, UTC)."""
        if (release is None) == (as_of is None):
            raise ValueError("at() takes either release= or as_of=")
        if release is not None:
            found = releases.named(self._tables, release)
        else:
            assert as_of is not None
            found = releases.as_of(self._tables, as_of)
        return ItemStore(self._tables, releases.readable(self._tables, found))

    def refresh(self) -> Release:
        """Move to the visible release and return it; reads under way finish on the old one."""
        found = releases.visible(self._tables)
        if self._open is None or self._open.release.stamp != found.stamp:
            self._open = Packs(self._tables, releases.readable(self._tables, found))
        return found

    def rollback(self, release: str) -> Release:
        """Make an earlier release the visible one, for everybody, and move to it."""
        releases.rollback(self._tables, release)
        return self.refresh()

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
    ) -> Release:
        """Publish your own vectors as a release with one view, and move to it.

        vectors: [n, width], finite, no zero rows; every row is rescaled to unit length. With
        `context` they are targets and the view has both roles. dims: the granularities at which a
        prefix is meaningful, by default the full width alone. space: vectors published under one
        name may be compared with each other; give those of another model another name.
        """
        with self._tables.lock():
            draft = draft_of(
                self._tables,
                id_list(ids),
                vectors,
                context=context,
                view=view,
                dims=dims,
                space=space,
            )
            releases.publish(self._tables, draft)
            return self.refresh()

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
    ) -> Lookup:
        packs = self._packs
        _refuse_policy(missing, ("raise", "zero", "nan"))
        vectors = packs.vectors(packs.release.column(view, role), packs.release.dim(dim))
        rows = _rows(packs, ids, missing)
        if out is not None:
            _refuse_out(out, (len(rows), vectors.shape[1]))
        # Every row is in range; "clip" spares the copy that "raise" makes to keep `out` whole.
        read = np.take(vectors, rows, axis=0, out=out, mode="clip")
        found = rows > 0
        if missing == "nan":
            read[~found] = np.nan
        return Lookup(read, found)

    def _encoded(
        self, packs: Packs, text: str | None, image: bytes | None, view: str | None
    ) -> Vectors:
        if (text is None) == (image is None):
            raise ValueError("search() takes one of: an id or a vector, text=, image=")
        pinned = ItemStore(self._tables, packs.release)
        view = packs.release.default_view if view is None else view
        return query_encoder()(pinned, text=text, image=image, view=view)[0]


def _rows(packs: Packs, ids: Ids, missing: str) -> NDArray[np.int64]:
    """Return the pack row of every id; 0, a row of zeros, for an unknown one."""
    if isinstance(ids, list):
        try:
            rows = packs.index.rows(cast(list[str], ids))
        except TypeError:  # unhashable: id_list says which
            rows = np.zeros(1, np.int64)
        if rows.all():
            return rows  # only strings are in the index: nothing to convert or to refuse
    strings = id_list(ids)
    rows = packs.index.rows(strings)
    if missing == "raise":
        _refuse_unknown(packs.release, strings, rows > 0)
    return rows


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
