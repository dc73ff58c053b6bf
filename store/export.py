"""A view of a release as files that other programs read: vectors, ids and a manifest.

It knows file formats, and how to tell later whether files are still what their release holds. What
a release is made of it leaves to the store.
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.errors import BadIds, UnknownRelease, some
from store.itemstore import ItemMatrix, ItemStore
from store.schema import vector_array

MANIFEST = "manifest.json"
KIND = "itemnest export"
RECBOLE_HEAD = "iid:token\titem_emb:float_seq\n"
BATCH = 8192  # rows turned into text at once
# RecBole reads with pandas.read_csv, for which these words, in any column, are absent values.
ABSENT = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"} | {
    *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
}


def export(
    store: ItemStore,
    folder: str | Path,
    *,
    dim: int | None = None,
    view: str | None = None,
    role: Literal["context", "target"] = "target",
    form: Literal["npy", "parquet", "recbole"] = "npy",
    pad_row: bool = False,
    oov_row: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write all vectors of a view to a new folder and return its manifest.

    npy: vectors.npy (float32 [n, dim]) and ids.json (n strings); parquet: vectors.parquet; recbole:
    <name of the folder>.itememb. pad_row and oov_row as in `ItemStore.item_matrix`, with the id
    null. The folder appears when it is complete. `force` replaces an earlier export, nothing else.
    """
    target = Path(folder).absolute()
    _refuse_occupied(target, force=force)
    if form == "recbole" and (pad_row or oov_row):
        raise ValueError("RecBole makes its padding row itself: leave out pad_row and oov_row")
    matrix = store.item_matrix(dim, pad_row=pad_row, oov_row=oov_row, view=view, role=role)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    try:
        WRITERS[form](draft, matrix, target.name)
        files = {path.name: _description(path) for path in sorted(draft.iterdir())}
        made = {"created_at": store.release.created_at.isoformat(), "format": form, "files": files}
        manifest = _identity(store, matrix, view, role) | made
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _swap(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def check(store: ItemStore, folder: str | Path) -> dict[str, Any]:
    """Return the manifest of an export if its files are as written, and what its release holds.

    ValueError names everything that is not; UnknownRelease if the release is no longer kept.
    """
    target = Path(folder)
    manifest = _manifest(target)
    if manifest is None:
        raise ValueError(f"{target} holds no export: {MANIFEST} is absent or another program's")
    wrong = [
        f"{name} is not as it was written"
        for name, told in manifest["files"].items()
        if not (target / name).is_file() or _description(target / name) != told
    ]
    wrong += [f"the release has another {name}" for name in _differences(store, manifest)]
    if wrong:
        raise ValueError(f"{target}: {'; '.join(wrong)}: export it anew")
    return manifest


def _differences(store: ItemStore, manifest: dict[str, Any]) -> list[str]:
    """Return what the manifest says of the release that is otherwise in this store."""
    try:
        pinned = store.at(release=manifest["release"])
    except UnknownRelease as error:
        raise UnknownRelease(f"what it was exported from cannot be read: {error}") from error
    if pinned.release.basis_id != manifest["basis_id"]:
        return ["basis_id"]
    view, role, dim = manifest["view"], manifest["role"] or "target", manifest["dim"]
    pad, oov = manifest["pad_row"], manifest["oov_row"]
    matrix = pinned.item_matrix(dim, pad_row=pad, oov_row=oov, view=view, role=role)
    now = _identity(pinned, matrix, view, role)
    return [name for name, value in now.items() if manifest.get(name) != value]


def _write_npy(folder: Path, matrix: ItemMatrix, name: str) -> None:
    np.save(folder / "vectors.npy", matrix.vectors, allow_pickle=False)
    ids = json.dumps(matrix.ids, ensure_ascii=False)
    (folder / "ids.json").write_text(ids, encoding="utf-8")


def _write_parquet(folder: Path, matrix: ItemMatrix, name: str) -> None:
    columns = {"item_id": pa.array(matrix.ids, pa.string()), "vector": vector_array(matrix.vectors)}
    pq.write_table(pa.table(columns), folder / "vectors.parquet")


def _write_recbole(folder: Path, matrix: ItemMatrix, name: str) -> None:
    """Write RecBole's atomic file of item embeddings: a token and floats, blanks between them."""
    unfit = [item for item in matrix.ids if item is None or _not_a_token(item)]
    if unfit:
        raise BadIds(
            f"{len(unfit)} ids cannot stand in RecBole's files (white space, a double quote, or a "
            f"word for an absent value): {some(unfit)}; export npy or parquet"
        )
    with (folder / f"{name}.itememb").open("w", encoding="utf-8", newline="") as file:
        file.write(RECBOLE_HEAD)
        for start in range(0, len(matrix.ids), BATCH):
            rows = vector_array(matrix.vectors[start : start + BATCH])
            words = rows.cast(pa.list_(pa.float32())).cast(pa.list_(pa.string()))
            texts = pc.call_function("binary_join", [words, pa.scalar(" ")]).to_pylist()
            ids = matrix.ids[start : start + BATCH]
            file.writelines(f"{item}\t{text}\n" for item, text in zip(ids, texts, strict=True))


def _not_a_token(item: str) -> bool:
    return item in ABSENT or '"' in item or any(character.isspace() for character in item)


WRITERS: dict[str, Callable[[Path, ItemMatrix, str], None]] = {
    "npy": _write_npy,
    "parquet": _write_parquet,
    "recbole": _write_recbole,
}


def _identity(
    store: ItemStore, matrix: ItemMatrix, view: str | None, role: str
) -> dict[str, object]:
    release = store.release
    name = release.default_view if view is None else view
    return {
        "kind": KIND,
        "release": release.name,
        "space_id": release.space_id,
        "basis_id": release.basis_id,
        "refresh_id": release.refresh_id,
        "view": name,
        "role": role if store.views[name] else None,
        "items": len(matrix.rows),
        "dim": matrix.vectors.shape[1],
        "pad_row": matrix.ids[0] is None,
        "oov_row": matrix.ids[-1] is None,
        "content": _content(matrix),
    }


def _content(matrix: ItemMatrix) -> str:
    """Return a checksum of ids and vectors: the same in every format, and from the store."""
    total = hashlib.sha256(json.dumps(matrix.ids).encode())
    total.update(np.ascontiguousarray(matrix.vectors).data)
    return total.hexdigest()


def _description(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum}


def _refuse_occupied(target: Path, *, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if _manifest(target) is None:
        raise FileExistsError(f"{target} exists and is no earlier export: choose another folder")
    if not force:
        raise FileExistsError(f"{target} holds an earlier export: --force replaces it")


def _manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest of an export, None where there is none."""
    try:
        found = json.loads((target / MANIFEST).read_bytes())
        return found if found["kind"] == KIND else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _swap(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; folders cannot be exchanged in one step everywhere."""
    old = draft.with_suffix(".old")
    if _manifest(target) is not None:
        target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
