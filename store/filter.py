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
        ids = self._passed(where, "")
        # Of `true) LIMIT 1` Lance ignores all from LIMIT on: our bracket, and what is added here.
        if len(ids) and len(self._passed(where, " AND false")):
            raise QueryRefused(
                f"where={where!r} is not a filter over items: it closes a bracket that it has not "
                "opened"
            )
        rows = np.sort(self._rows.places(ids))
        return rows[np.searchsorted(rows, 1) :]

    def _passed(self, where: str, more: str) -> NDArray[np.uint64]:
        """Return the row ids of the items that pass a condition and what is added to it."""
        # The brackets refuse what Lance would ignore behind a filter: `; DROP …`, ORDER BY, LIMIT.
        # The new line ends a comment, which would hide the second one.
        condition = f"({where}\n){more}"
        try:
            return (
                self._items.scanner(columns=["_rowid"], filter=condition).to_table()[0].to_numpy()
            )
        except (ValueError, OSError) as error:
            # What follows ", /" is a path in Lance's sources.
            reason = str(error).split(", /")[0].removeprefix("Invalid user input: ")
            raise QueryRefused(
                f"where={where!r} is not a filter over items: {' '.join(reason.split())}"
            ) from error
