"""Whether a release is whole: its tables readable, its vectors sound, its packs undamaged.

It knows what to look at. What sound vectors are, `store.releases` says; nothing is repaired here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store import releases, sealed
from store.paths import cache_folder
from store.releases import Draft, Release
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
    for path in _pack_files(tables, pinned):
        yield _finding(f"pack {path.name}", lambda path=path: _read_pack(path))


def _finding(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, look())
    except Exception as error:  # whatever is wrong with one thing, the others are still looked at
        return Finding(check, False, " ".join(str(error).split()) or repr(error))


def _read_whole(tables: Tables, name: str, release: Release) -> str:
    version = release.tables[name]
    rows = sum(batch.num_rows for batch in tables.batches(name, version=version))
    return f"{rows:,} rows at version {version}"


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


def _pack_files(tables: Tables, release: Release) -> list[Path]:
    homes = [tables.folder, cache_folder(tables.uri)]
    folders = [home / "packs" / release.stamp for home in homes if home]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [path for path in files if path.suffix == ".f32" or path.name == "names"]


def _read_pack(path: Path) -> str:
    data = sealed.read(path)
    if data is None:
        raise ValueError(f"{path} fails its checksum: delete it, the next read builds it anew")
    if path.suffix == ".f32":
        rows = data.view(np.float32).reshape(-1, int(path.suffixes[-2][1:]))[1:-1]
        squares = np.einsum("ij,ij->i", rows, rows)
        if not (np.abs(np.sqrt(squares) - 1) <= releases.UNIT).all():  # nor is NaN
            raise ValueError(f"{path} holds rows that are not unit vectors: delete it")
    return f"{len(data):,} bytes"
