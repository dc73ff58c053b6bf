"""Whether a release is whole: its tables, keys, vectors, space, index and packs.

It knows what to look at. What sound vectors or a fit index are, their own modules say; nothing is
repaired here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import ann, releases, sealed
from store.errors import no_panic, some
from store.index import Index
from store.paths import cache_folder
from store.releases import Draft, Release
from store.schema import KEYS, matrix, row_digests, vector_columns
from store.tables import Tables


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `detail` is what it holds, or what is wrong with it."""

    check: str
    ok: bool
    detail: str


def examine(tables: Tables, *, release: str | None = None) -> Iterator[Finding]:
    """Look at everything that a release, by default the visible one, is made of."""
    pinned = releases.named(tables, release) if release else releases.visible(tables)
    yield Finding("release", True, f"{pinned.name} of {pinned.created_at:%Y-%m-%d %H:%M} UTC")
    for name in sorted(pinned.tables):
        yield _finding(f"table {name}", lambda name=name: _read_whole(tables, name, pinned))
    yield _finding("vectors", lambda: _prove(tables, pinned))
    yield _finding("digests", lambda: _compare_digests(tables, pinned))
    if "makings" in pinned.description:  # made by the graph, which promises both
        yield _finding("items", lambda: _match_items(tables, pinned))
        yield _finding("space", lambda: _read_space(tables, pinned))
    plan = pinned.description.get("search", {})
    if "index" in plan:
        yield _finding("index", lambda: _prove_index(tables, pinned, plan))
    for path in _pack_files(tables, pinned):
        yield _finding(f"pack {path.name}", lambda path=path: _read_pack(path))


def _finding(check: str, look: Callable[[], str]) -> Finding:
    try:
        with no_panic():
            return Finding(check, True, look())
    except Exception as error:  # whatever is wrong with one thing, the others are still looked at
        return Finding(check, False, " ".join(str(error).split()) or repr(error))


def _read_whole(tables: Tables, name: str, release: Release) -> str:
    version = release.tables[name]
    rows = sum(batch.num_rows for batch in tables.batches(name, version=version))
    if (counted := tables.count(name, version=version)) != rows:
        raise ValueError(f"{name} says that it has {counted:,} rows and holds {rows:,}")
    said = f"{rows:,} rows at version {version}"
    if (key := KEYS.get(name)) is None:
        return said
    keys = tables.read(name, columns=[key], version=version)[key]
    if keys.null_count or len(keys.unique()) != len(keys):
        counts = keys.value_counts().to_pylist()
        repeated = [entry["values"] for entry in counts if entry["counts"] > 1]
        raise ValueError(
            f"{name}: {len(repeated)} values of {key!r} occur more than once ({some(repeated)}), "
            f"{keys.null_count} are null: open or roll back to an earlier release"
        )
    return f"{said}, no {key} twice"


def _prove(tables: Tables, release: Release) -> str:
    """Prove what was proven at publishing: unique ids, finite unit rows, a direction at any dim."""
    draft = Draft(
        release.space_id,
        release.basis_id,
        release.refresh_id,
        release.inputs,
        release.tables,
        release.description,
        release.quality,
    )
    releases.prove(tables, draft)
    dims = "/".join(map(str, release.dims))
    return f"unique ids; {len(release.columns())} columns of unit rows at {dims}"


def _compare_digests(tables: Tables, release: Release) -> str:
    """Compare every row's vectors with the digest that was written beside them."""
    version, rows, other = release.tables["item_vectors"], 0, []
    names = vector_columns(tables.schema("item_vectors", version=version))
    columns = ["item_id", "digest", *names]
    for batch in tables.batches("item_vectors", columns=columns, version=version):
        found = row_digests([matrix(batch[name]) for name in names])
        differ = pa.array(found != batch["digest"].to_numpy())
        other += batch["item_id"].filter(differ).to_pylist()
        rows += batch.num_rows
    if other:
        raise ValueError(
            f"the vectors of {len(other):,} items are not those that were written "
            f"({some(other)}): open or roll back to an earlier release"
        )
    return f"{rows:,} rows are as written"


def _match_items(tables: Tables, release: Release) -> str:
    items, vectors = (
        tables.read(name, columns=["item_id"], version=release.tables[name])["item_id"]
        for name in ("items", "item_vectors")
    )
    bare = items.filter(pc.invert(pc.is_in(items, vectors.combine_chunks())))
    stray = vectors.filter(pc.invert(pc.is_in(vectors, items.combine_chunks())))
    if len(bare) or len(stray):
        raise ValueError(
            f"{len(bare)} items have no vector ({some(bare.to_pylist())}), {len(stray)} vectors "
            f"have no item ({some(stray.to_pylist())}): `itemnest materialize` makes both anew"
        )
    return f"{len(items):,} items, each with its vectors"


def _read_space(tables: Tables, release: Release) -> str:
    """Read the space's description and the shape of its weights, which are safetensors."""
    version = release.tables["spaces"]
    rows = tables.take("spaces", "space_id", [release.space_id], version=version).to_pylist()
    if len(rows) != 1:
        raise ValueError(f"`spaces` has no row {release.space_id}: texts cannot be searched for")
    described, weights = json.loads(rows[0]["description"]), rows[0]["weights"]
    end = 8 + int.from_bytes(weights[:8], "little")
    arrays = json.loads(weights[8:end])
    arrays.pop("__metadata__", None)
    whole = end + max(array["data_offsets"][1] for array in arrays.values())
    if len(weights) != whole:
        raise ValueError(f"the space has {len(weights):,} bytes of weights, not {whole:,}")
    return f"{len(described['space'])} settings, {len(arrays)} arrays, {whole:,} bytes"


def _prove_index(tables: Tables, release: Release, plan: dict[str, Any]) -> str:
    ann.prove(tables, release.tables["item_vectors"], plan)
    return ", ".join(f"{name} {value}" for name, value in plan["index"].items())


def _pack_files(tables: Tables, release: Release) -> list[Path]:
    homes = [tables.folder, cache_folder(tables.uri)]
    folders = [home / "packs" / release.stamp for home in homes if home]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [path for path in files if path.suffix in (".f32", ".index") or path.name == "names"]


def _read_pack(path: Path) -> str:
    remedy = f"delete {path}, the next read builds it anew"
    file = sealed.read(path)
    if file is None:
        raise ValueError(f"it is cut short or not sealed: {remedy}")
    try:
        file.check()
    except sealed.Damaged as error:
        raise ValueError(f"a block of it fails its checksum: {remedy}") from error
    if path.suffix == ".f32":
        rows = file.data.view(np.float32).reshape(-1, int(path.suffixes[-2][1:]))[1:-1]
        squares = np.einsum("ij,ij->i", rows, rows)
        if not (np.abs(np.sqrt(squares) - 1) <= releases.UNIT).all():  # nor is NaN
            raise ValueError(f"it holds rows that are not unit vectors: {remedy}")
    if path.suffix == ".index":
        return f"{len(file.data):,} bytes, {Index(file.data).size:,} ids"
    return f"{len(file.data):,} bytes"
