"""A caller's own vectors as a release: checked, rescaled, written, drafted.

It knows matrices and ids. It does not know how a draft becomes visible.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matryoshka.prefix import Vectors, prefix
from store.errors import BadIds, BadVectors, some
from store.releases import Draft, Release
from store.schema import ROLES, item_vectors_table, view_column
from store.tables import Tables

BLOCK = 8192  # rows rescaled at once, so that float64 copies stay small


def draft_of(
    tables: Tables,
    beside: Release | None,
    ids: Sequence[str],
    target: Vectors,
    *,
    context: Vectors | None,
    view: str,
    dims: Sequence[int] | None,
    space: str,
) -> Draft:
    """Write `item_vectors` and return the draft that pins it beside a release's other tables."""
    if not ids or len(set(ids)) != len(ids):
        raise BadIds(
            f"{len(ids)} ids, {len(set(ids))} different ones: one row per item, at least one"
        )
    given = {None: target} if context is None else dict(zip(ROLES, (context, target), strict=True))
    width = np.shape(target)[-1] if np.ndim(target) else 0
    ladder = sorted(dims) if dims else [width]
    unit = {view_column(view, role): _unit(ids, m, width, ladder) for role, m in given.items()}
    rows = item_vectors_table(ids, unit)
    content = hashlib.blake2b("\0".join(ids).encode(), digest_size=16)
    content.update(rows["digest"].to_numpy().tobytes())
    space_id, refresh_id = _digest(space, view, width), content.hexdigest()
    description: dict[str, object] = {
        "dims": ladder,
        "width": width,
        "views": {view: [role for role in given if role]},
        "default_view": view,
        "space": space,
    }
    version = tables.replace("item_vectors", rows)
    return Draft(
        space_id=space_id,
        basis_id=_digest(space_id, ladder),
        refresh_id=refresh_id,
        inputs=refresh_id,
        tables={**(beside.tables if beside else {}), "item_vectors": version},
        description=description,
        quality={},
    )


def _unit(
    ids: Sequence[str], matrix: Vectors, width: int, ladder: Sequence[int]
) -> NDArray[np.float32]:
    """Return the rows rescaled to unit length; BadVectors where one has no direction."""
    vectors = np.asarray(matrix)
    if vectors.shape != (len(ids), width) or vectors.dtype.kind not in "fiu" or not width:
        raise BadVectors(
            f"vectors are {vectors.dtype} {vectors.shape}: pass numbers ({len(ids)}, width)"
        )
    if not 1 <= ladder[0] <= ladder[-1] <= width:
        raise BadVectors(f"dims {list(ladder)} do not fit {width}-wide vectors")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        vectors = vectors.astype(np.float32, copy=False)
    good = np.isfinite(vectors).all(axis=1) & (vectors[:, : ladder[0]] != 0).any(axis=1)
    if not good.all():
        bad = [item for item, fine in zip(ids, good, strict=True) if not fine]
        raise BadVectors(
            f"{len(bad)} rows are not finite or are zero in their first {ladder[0]} coordinates, "
            f"so that they have no direction: {some(bad)}"
        )
    unit = np.empty(vectors.shape, np.float32)
    for start in range(0, len(unit), BLOCK):
        block = slice(start, start + BLOCK)
        unit[block] = prefix(vectors[block], width)
    return unit


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
