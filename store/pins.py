"""Pins: the word of a consumer that it still reads a release, which retention keeps until then.

It knows the names of consumers and of releases. It does not know what a release is, nor what is
kept besides.
"""

from datetime import UTC, datetime

import pyarrow as pa

from store.errors import UnknownPin, UnknownTable, some
from store.schema import PINS
from store.tables import Tables


def pins(tables: Tables) -> dict[str, str]:
    """Return the release that each consumer has pinned, by the consumer's name."""
    try:
        rows = tables.read("pins", columns=["consumer", "release"]).to_pylist()
    except UnknownTable:
        return {}
    return dict(sorted((row["consumer"], row["release"]) for row in rows))


def pin(tables: Tables, consumer: str, release: str) -> None:
    """Have a consumer hold a release, and no longer the one that it held before."""
    if not consumer.strip():
        raise ValueError("a pin carries the name of its consumer: pin('ranker')")
    row = {"consumer": consumer, "release": release, "since": datetime.now(UTC)}
    tables.upsert("pins", pa.Table.from_pylist([row], schema=PINS))


def unpin(tables: Tables, consumer: str) -> None:
    """Have a consumer hold nothing any more; UnknownPin if it holds nothing."""
    with tables.lock():
        held = pins(tables)
        if consumer not in held:
            known = some(held, 20) or "nobody"
            raise UnknownPin(f"{consumer!r} pins no release of {tables.uri}: {known} does")
        tables.delete("pins", "consumer", [consumer])
