"""Items added and removed without the graph: the released space applied to them alone.

It starts from what the visible release shows, whatever a killed run or a rollback has left behind,
and ends in a refresh of the same space. Where the graph's last builds are what is visible, what is
done here is recorded among them, so that the next run finds it done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alignment.whiten import Content, Encoded
from assets.cached import REFUSED
from assets.catalogue import ingest_items
from assets.describe import waiting
from assets.encode import encode_missing
from assets.inputs import (
    CACHES,
    HASHES,
    collaborative_inputs,
    description_inputs,
    encoding_inputs,
    item_hashes,
    makings,
    no_descriptions,
    quality_inputs,
    release_inputs,
    space_inputs,
    vectors_inputs,
    vectors_wanted,
    wanted,
)
from assets.intake import ADDED, STORED
from assets.lake import Lake, digest, open_lake
from assets.settings import Settings
from assets.stored import encoded, evidence_of, space_of, vector_rows
from encoders.engine import LocalEngine
from encoders.spec import MODALITIES, Modality
from store import UnknownIds, releases
from store.errors import some
from store.releases import Draft, Release

CACHED = (*CACHES, "item_descriptions", REFUSED)
TRUTH = {  # tables that must be as they were released, and the columns that tell
    "items": STORED,
    "rejected_items": None,
    "item_vectors": ["item_id", "support", "digest"],
}


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of items that were added or removed: `release` is the one that shows it."""

    release: str
    what: str
    items: int
    encoded: dict[str, int]
    refused: list[dict[str, Any]]
    seconds: float


def add(settings: Settings, file: Path) -> Refreshed:
    """Add the items of a file, or change ones added before, and release them in the same space.

    ValueError if no row of the file can be taken, or if a space of other makings is released.
    """
    started = monotonic()
    with open_lake(settings) as lake:
        base = _base(lake)
        _begin(lake, base)
        report = ingest_items(lake.tables, settings, lake.progress, file=file, origin=ADDED)
        if report.written:
            rows, encodings = _vectors(lake, base, pa.array(sorted(report.written)))
            lake.tables.upsert("item_vectors", rows)
            release = _published(lake, base)
        else:
            _begin(lake, base)  # lest the next run make a release of the refusals alone
            release, encodings = base, _nothing_encoded()
    if not report.kept:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in report.rejected.most_common())
        raise ValueError(f"{file}: none of {report.rows} rows can be added: {reasons or 'no rows'}")
    return Refreshed(
        release=release.name,
        what=report.sentence(),
        items=len(report.written),
        encoded=encodings,
        refused=[row for row in report.refusals() if row["what"] != "note"],
        seconds=monotonic() - started,
    )


def remove(settings: Settings, ids: Sequence[str]) -> Refreshed:
    """Delete items that were added, and release what is left in the same space.

    Those that a rollback has hidden are deleted without a release. UnknownIds if one is nowhere,
    ValueError if the catalogue has one: then nothing is done.
    """
    started = monotonic()
    ids = list(dict.fromkeys(ids))
    with open_lake(settings) as lake:
        release = base = _base(lake)
        shown = _removable(lake, base, ids)
        _begin(lake, base)  # which deletes the hidden ones
        if shown:
            for name in ("items", *CACHED, "item_vectors"):
                if name in base.tables:
                    lake.tables.delete(name, "item_id", shown)
            release = _published(lake, base)
    return Refreshed(
        release=release.name,
        what=f"{len(ids):,} removed",
        items=len(ids),
        encoded=_nothing_encoded(),
        refused=[],
        seconds=monotonic() - started,
    )


def _nothing_encoded() -> dict[str, int]:
    return dict.fromkeys(MODALITIES, 0)


def _removable(lake: Lake, base: Release, ids: Sequence[str]) -> list[str]:
    """Return those of the ids that the release shows; refuse all if one cannot be removed."""
    released = _origins(lake, ids, base.tables["items"])
    found = _origins(lake, ids) | released
    unknown = set(ids) - set(found)
    if unknown:
        raise UnknownIds(
            f"{len(unknown)} of {len(ids)} ids are not in {base.name}: {some(unknown)}"
        )
    theirs = [item for item, origin in found.items() if origin != ADDED]
    if theirs:
        raise ValueError(
            f"{len(theirs)} of {len(ids)} items are the catalogue's: {some(theirs)}; take them "
            "out of its items file, and the next `itemnest materialize` deletes them"
        )
    return list(released)


def _origins(lake: Lake, ids: Sequence[str], version: int | None = None) -> dict[str, str]:
    columns = ["item_id", "origin"]
    found = lake.tables.take("items", "item_id", ids, columns=columns, version=version)
    return dict(zip(*(found[name].to_pylist() for name in columns), strict=True))


def _base(lake: Lake) -> Release:
    """Return the visible release; ValueError if a space of other makings is released."""
    base = lake.shown() or releases.visible(lake.tables)
    if base.description.get("makings") != makings(lake):
        raise ValueError(
            f"{base.name} was not made with the encoders, dims and seed of these settings and "
            "this version of Itemnest: `itemnest materialize` first, then add"
        )
    return base


def _begin(lake: Lake, base: Release) -> None:
    """Let the newest version of every table be what the visible release shows."""
    for name, columns in TRUTH.items():
        _put_back(lake, name, base.tables[name], columns)
    for name in CACHED:
        if name in base.tables:
            _complete(lake, name, base.tables[name])


def _put_back(lake: Lake, name: str, version: int, columns: list[str] | None) -> None:
    """Make a released version the newest one, unless that has the same rows (compacted, say)."""
    tables = lake.tables
    if tables.version(name) == version:
        return
    released = tables.read(name, columns=columns, version=version)
    if tables.schema(name) != tables.schema(name, version=version) or (
        not tables.read(name, columns=columns).equals(released)
    ):
        tables.dataset(name, version=version).restore()


def _complete(lake: Lake, name: str, version: int) -> None:
    """Let the newest version of a cache hold what the release's does; later vectors stay."""
    tables = lake.tables
    if tables.version(name) == version:
        return
    if tables.schema(name) != tables.schema(name, version=version):  # of another width
        tables.dataset(name, version=version).restore()
        return
    released = tables.read(name, columns=["key"], version=version)["key"]
    have = tables.read(name, columns=["key"])["key"]
    lost = released.filter(pc.invert(pc.is_in(released, have))).to_pylist()
    if lost:
        tables.insert_new(name, tables.take(name, "key", lost, version=version))


def _vectors(lake: Lake, base: Release, ids: pa.Array) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of `item_vectors` of the newest items of these ids, and what was encoded."""
    found = {modality: _encoded(lake, modality, ids) for modality in MODALITIES}
    stored = space_of(lake, base)
    evidence = evidence_of(lake, stored, ids, at=base.tables)
    content = Content(*(found[modality][0] for modality in MODALITIES))
    return vector_rows(stored, ids, content, *evidence), {m: found[m][1] for m in MODALITIES}


def _encoded(lake: Lake, modality: Modality, ids: pa.Array) -> tuple[Encoded, int]:
    """Return the raw vectors of items, and how many of them the cache did not have."""
    tower, name, tables = lake.tower(modality), f"{modality}_vectors", lake.tables
    if tower is None:
        return encoded(None, ids, 0), 0
    version = tables.dataset("items").version
    items = tables.take("items", "item_id", ids.to_pylist(), columns=HASHES)
    # What a describer would say of them waits for the next run of the graph.
    rows = wanted(items, modality, tower.digest, no_descriptions())
    filled = encode_missing(lake, LocalEngine(), modality, tower, rows, items=version, whole=False)
    table = tables.take(name, "key", rows["key"].to_pylist(), columns=["item_id", "vector"])
    return encoded(table, ids, tower.dim), filled.made


def _published(lake: Lake, base: Release) -> Release:
    """Publish the newest versions of what is written here beside all else that the base shows."""
    written = lake.versions(*(name for name in (*TRUTH, *CACHED) if name in base.tables))
    carried = base.quality.get("carried_from", base.name)
    if release_inputs(lake) == base.inputs:
        _record(lake, carried)
        inputs, refresh = release_inputs(lake), lake.built("item_vectors").inputs
    else:  # the graph has built something else since, which its next run publishes
        inputs = refresh = digest(base.inputs, written)
    draft = Draft(
        space_id=base.space_id,
        basis_id=base.basis_id,
        refresh_id=refresh,
        inputs=inputs,
        tables={**base.tables, **written},
        description=base.description,
        # How it is searched is measured anew, on its own vectors.
        quality={k: v for k, v in base.quality.items() if k != "search"}
        | {"carried_from": carried},
    )
    return releases.publish(lake.tables, draft, lake.settings.release.channel)


def _record(lake: Lake, carried: str) -> None:
    """Record the newest tables as the graph's builds, with the evidence that there was.

    Events of these items are in the catalogue's log, which the graph reads anew at every run.
    """
    hashes = item_hashes(lake.tables)
    rejected = lake.versions("rejected_items")
    lake.record("items", digest(hashes), rejected | lake.versions("items"), {"rows": len(hashes)})
    log = lake.built("interactions")
    lake.record("interactions", log.inputs, log.tables | rejected, log.metadata)
    _rerecord(lake, "item_descriptions", description_inputs(lake), {"waiting": waiting(lake)})
    for modality in MODALITIES:
        counted = {"rows": len(vectors_wanted(lake, modality))}
        _rerecord(lake, f"{modality}_vectors", encoding_inputs(lake, modality), counted)
    _rerecord(lake, "collaborative_vectors", collaborative_inputs(lake))
    _rerecord(lake, "item_space", space_inputs(lake))
    _rerecord(lake, "item_vectors", vectors_inputs(lake), {"rows": len(hashes)})
    _rerecord(lake, "quality", quality_inputs(lake), {"carried_from": carried})


def _rerecord(lake: Lake, asset: str, inputs: str, news: Mapping[str, Any] | None = None) -> None:
    build = lake.built(asset)
    tables = lake.versions(*build.tables) if asset in (*CACHED, "item_vectors") else build.tables
    lake.record(asset, inputs, tables, {**build.metadata, **(news or {})})
