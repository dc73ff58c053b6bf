"""Upkeep of one table: few fragments, every row in every index, no version that nobody needs.

It knows what Lance's own upkeep leaves undone. It does not know who needs a version, nor who may
write: its callers hold the writer lock.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from store.errors import StoreLocked, no_panic

if TYPE_CHECKING:
    import lance

Result = TypeVar("Result")
KEEP_TAG = "itemnest-keep-"
CONFLICT = "commit conflict"
ATTEMPTS = 5
LOG = logging.getLogger("itemnest")


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What `tend` did to one table."""

    version: int
    fragments_before: int
    fragments_after: int
    versions_removed: int
    bytes_removed: int


def tend(newest: Callable[[], "lance.LanceDataset"], keep: set[int], grace: timedelta) -> Upkeep:
    """Compact a table, complete its indices and remove its old versions, but never one of `keep`.

    Not LanceDB's optimize(): once a tagged version is old enough to go, it stops before it comes
    to the indices.
    """
    before = len(newest().get_fragments())
    _mark(newest(), keep)
    retried(newest, lambda data: data.optimize.compact_files())
    cover(newest)
    data = newest()
    stats = data.cleanup_old_versions(older_than=grace, error_if_tagged_old_versions=False)
    after = len(data.get_fragments())
    return Upkeep(data.version, before, after, stats.old_versions, stats.bytes_removed)


def cover(newest: Callable[[], "lance.LanceDataset"]) -> int | None:
    """Add to every index the rows that it lacks; return the version made, None if none lacks any.

    Lance leaves rows that were written after an index was built out of it: look-ups read them
    one by one, slower with every upsert. What cannot be completed, as its files are damaged, is
    dropped with a warning, lest it refuse every write: who needs an index makes it anew.
    """
    lacking = [name for name, rows in unindexed(newest()).items() if rows]
    if not lacking:
        return None
    try:
        with no_panic():
            retried(newest, lambda data: data.optimize.optimize_indices())
    except StoreLocked:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        for name in lacking:
            retried(newest, lambda data, name=name: data.drop_index(name))
        LOG.warning("%s: dropped %s, which cannot be completed: %s", newest().uri, lacking, error)
    return newest().version


def unindexed(data: "lance.LanceDataset") -> dict[str, int]:
    """Return for every index of a table how many rows it lacks."""
    # Not by Lance's statistics, which read the index: a damaged one panics.
    rows = data.count_rows()
    return {index.name: rows - index.num_rows_indexed for index in data.describe_indices()}


def retried(
    newest: Callable[[], "lance.LanceDataset"],
    step: Callable[["lance.LanceDataset"], Result],
    attempts: int = ATTEMPTS,
) -> Result:
    """Return the step's result on the newest version, taken again if another commit preempts it.

    StoreLocked after so many attempts: only a writer that passes the lock by can preempt so often.
    """
    data = newest()
    try:
        return step(data)
    except (OSError, RuntimeError) as error:
        if CONFLICT not in str(error):
            raise
        if attempts == 1:
            raise StoreLocked(
                f"{data.uri}: other writers preempted upkeep again and again: "
                "run one writer per store"
            ) from error
    return retried(newest, step, attempts - 1)


def _mark(data: "lance.LanceDataset", keep: set[int]) -> None:
    """Tag the versions to keep, and no others: what carries a tag survives clean-up."""
    there = {row["version"] for row in data.versions()}  # a longer `keep` revives nothing
    kept = {f"{KEEP_TAG}{version}": version for version in keep & there}
    tagged = {tag for tag in data.tags.list() if tag.startswith(KEEP_TAG)}
    for tag in kept.keys() - tagged:
        data.tags.create(tag, kept[tag])
    for tag in tagged - kept.keys():
        data.tags.delete(tag)
