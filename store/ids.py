"""What may stand for an item id: strings, and integers, which mean their decimal string.

It knows types. It does not know which items exist.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa

from store.errors import BadIds

Ids: TypeAlias = Iterable[str] | Iterable[int] | np.ndarray | pa.Array | pa.ChunkedArray


def id_list(ids: Ids) -> list[str]:
    """Return ids as strings, order and repeats kept; BadIds names the first that is none."""
    if isinstance(ids, str | bytes):
        raise BadIds(f"ids is the single value {ids!r}: pass a list, [{ids!r}]")
    values: Iterable[object] = ids
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        values = cast(Any, ids).to_pylist()
    elif isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise BadIds(f"ids is an array of shape {ids.shape}: pass one dimension")
        values = ids.tolist()
    return [item if type(item) is str else _as_string(item, row) for row, item in enumerate(values)]


def _as_string(item: object, row: int) -> str:
    if isinstance(item, str):
        return str(item)
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return str(int(item))
    raise BadIds(f"ids[{row}] is {item!r} ({type(item).__name__}): an id is a string or an integer")
