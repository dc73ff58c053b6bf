"""What an ingest refuses: collected while it runs, saved as `rejected_items`, counted for people.

It does not know why something is refused.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.rules import Column, Faults, as_text, sound
from store.schema import REJECTED_ITEMS
from store.tables import Tables

MAX_DETAIL_CHARS = 200
KEPT_ROW = ("image", "attributes")  # parts whose refusal leaves the rest of the row in
ORDER = [(name, "ascending") for name in ("source", "row", "part", "reason")]


class Rejects:
    """The refusals of one source."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._tables = [REJECTED_ITEMS.empty_table()]
        self._rows: list[dict[str, Any]] = []

    def add(self, row: int, item_id: str | None, part: str, reason: str, detail: str = "") -> None:
        """Refuse a row, or a part of it."""
        self._rows.append(
            {
                "source": self.source,
                "row": row,
                "item_id": item_id,
                "part": part,
                "reason": str(reason),
                "detail": detail[:MAX_DETAIL_CHARS],
            }
        )

    def add_faults(
        self, rows: Sequence[int], item_ids: pa.Array, part: str, faults: Faults, values: Column
    ) -> NDArray[np.bool_]:
        """Refuse every row that has a fault, `values` being what stood there; return which."""
        refused = ~sound(faults)
        at = np.flatnonzero(refused)
        if len(at):
            found = (
                [values[i] for i in at] if isinstance(values, list) else values.take(pa.array(at))
            )
            detail = pc.utf8_slice_codeunits(as_text(found), 0, MAX_DETAIL_CHARS)
            columns = [
                pa.array([self.source] * len(at)),
                pa.array(np.asarray(rows)[at]),
                item_ids.take(pa.array(at)),
                pa.array([part] * len(at)),
                pa.array(faults[at].astype(str)),
                pc.fill_null(detail, ""),
            ]
            self._tables.append(pa.Table.from_arrays(columns, schema=REJECTED_ITEMS))
        return refused

    def table(self) -> pa.Table:
        """Return all refusals, in order of their rows."""
        rows = pa.Table.from_pylist(self._rows, schema=REJECTED_ITEMS)
        return pa.concat_tables([*self._tables, rows]).sort_by(ORDER)

    def save(self, tables: Tables) -> None:
        """Replace this source's rows of `rejected_items`, if they are others than before."""
        parts = [self.table()]
        before = None
        if tables.version("rejected_items") is not None:
            before = tables.read("rejected_items")
            parts.append(before.filter(pc.not_equal(before["source"], self.source)))
        whole = pa.concat_tables(parts).sort_by(ORDER)
        if before is None or not before.equals(whole):
            tables.replace("rejected_items", whole)

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how many refusals there are by part and reason."""
        grouped = self.table().group_by(["part", "reason"]).aggregate([([], "count_all")])
        return Counter(
            {(row["part"], row["reason"]): row["count_all"] for row in grouped.to_pylist()}
        )
