"""Filters over the items of a release: from a SQL condition to rows of the pack.

It knows Lance's row ids and what a filter may not be. It does not know what the rows are for.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from store.errors import QueryRefused

if TYPE_CHECKING:
    import lance


class RowIds:
    """Which place each of the rows has that Lance names by id."""

    def __init__(self, ids: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        order = np.argsort(ids, kind="stable")
        self._sorted, self._places = ids[order], places[order]

    def places(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of every id; all must be of this table."""
        return self._places[np.searchsorted(self._sorted, ids)]


class Filter:
    """The pinned `items`, and the row of the pack of each: 0 for one that has no vector."""

    def __init__(self, items: "lance.LanceDataset", rows: RowIds) -> None:
        self._items, self._rows = items, rows

    def rows(self, where: str) -> NDArray[np.int64]:
        """Return the rows of the pack whose items pass a SQL condition, ascending."""
        # The brackets refuse what Lance would ignore behind a filter: `; DROP …`, ORDER BY, LIMIT.
        try:
            passed = self._items.scanner(columns=["_rowid"], filter=f"({where})").to_table()
        except (ValueError, OSError) as error:
            # What follows ", /" is a path in Lance's sources.
            reason = str(error).split(", /")[0].removeprefix("Invalid user input: ")
            raise QueryRefused(
                f"where={where!r} is not a filter over items: {' '.join(reason.split())}"
            ) from error
        rows = np.sort(self._rows.places(passed["_rowid"].to_numpy()))
        return rows[np.searchsorted(rows, 1) :]
