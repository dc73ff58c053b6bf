"""A view of a release as files that other programs read: vectors, ids and a manifest.

It knows file formats. What a release is made of it leaves to the store.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.itemstore import ItemMatrix, ItemStore
from store.schema import vector_array

MANIFEST = "manifest.json"
KIND = "itemnest export"


def export(
    store: ItemStore,
    folder: str | Path,
    *,
    dim: int | None = None,
    view: str | None = None,
    role: Literal["context", "target"] = "target",
    form: Literal["npy", "parquet"] = "npy",
    force: bool = False,
) -> dict[str, Any]:
    """Write all vectors of a view to a new folder and return its manifest.

    npy: vectors.npy (float32 [n, dim]) and ids.json (n strings); parquet: vectors.parquet. The
    folder appears when it is complete. `force` replaces an earlier export, and nothing else.
    """
    target = Path(folder).absolute()
    _refuse_occupied(target, force=force)
    matrix = store.item_matrix(dim, view=view, role=role)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    try:
        WRITERS[form](draft, matrix)
        files = {path.name: _description(path) for path in sorted(draft.iterdir())}
        manifest = _identity(store, matrix, view, role) | {"format": form, "files": files}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _swap(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _write_npy(folder: Path, matrix: ItemMatrix) -> None:
    np.save(folder / "vectors.npy", matrix.vectors, allow_pickle=False)
    ids = json.dumps(matrix.ids, ensure_ascii=False)
    (folder / "ids.json").write_text(ids, encoding="utf-8")


def _write_parquet(folder: Path, matrix: ItemMatrix) -> None:
    columns = {"item_id": pa.array(matrix.ids, pa.string()), "vector": vector_array(matrix.vectors)}
    pq.write_table(pa.table(columns), folder / "vectors.parquet")


WRITERS: dict[str, Callable[[Path, ItemMatrix], None]] = {
    "npy": _write_npy,
    "parquet": _write_parquet,
}


def _identity(
    store: ItemStore, matrix: ItemMatrix, view: str | None, role: str
) -> dict[str, object]:
    release = store.release
    name = release.default_view if view is None else view
    return {
        "kind": KIND,
        "release": release.name,
        "created_at": release.created_at.isoformat(),
        "space_id": release.space_id,
        "basis_id": release.basis_id,
        "refresh_id": release.refresh_id,
        "view": name,
        "role": role if store.views[name] else None,
        "items": len(matrix.ids),
        "dim": matrix.vectors.shape[1],
    }


def _description(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum}


def _refuse_occupied(target: Path, *, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_export(target):
        raise FileExistsError(f"{target} exists and is no earlier export: choose another folder")
    if not force:
        raise FileExistsError(f"{target} holds an earlier export: --force replaces it")


def _is_export(target: Path) -> bool:
    try:
        return json.loads((target / MANIFEST).read_bytes())["kind"] == KIND
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _swap(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; folders cannot be exchanged in one step everywhere."""
    old = draft.with_suffix(".old")
    if _is_export(target):
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
