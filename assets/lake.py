"""The lake: the one resource of every asset; its settings, its tables, what was built from what.

It holds the store's writer lock for the length of a run, reads each table at the version that its
own asset recorded, and answers one question: was this asset already built from these inputs? It
does not know what any asset computes.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from assets.settings import Settings
from encoders.machine import Machine
from encoders.registry import DescriberTower, Tower, describer, tower
from encoders.spec import Choice, Modality
from store import releases
from store.releases import Release
from store.schema import BUILDS
from store.tables import Tables


@dataclass(frozen=True, slots=True)
class Build:
    """One asset as it was last built: from which inputs, into which table versions."""

    asset: str
    inputs: str
    tables: dict[str, int]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Lake:
    """Settings, tables and builds of one store."""

    settings: Settings
    tables: Tables
    accepted: frozenset[str] = frozenset()  # checks whose failure this run was told to accept
    retry: bool = False  # whether this run tries again what models have refused
    progress: "Progress" = field(default_factory=lambda: Progress())
    _towers: dict[str, Tower] = field(default_factory=dict)

    def tower(self, modality: Modality) -> Tower | None:
        """Return the tower that the settings name for a modality, None for "none"."""
        choice: Choice = getattr(self.settings.encoders, modality)
        if choice.tower == "none":
            return None
        if modality not in self._towers:
            self._towers[modality] = tower(choice, modality, machine(self.settings))
        return self._towers[modality]

    def describer(self) -> DescriberTower | None:
        """Return the model that describes items, None for "none"."""
        said = self.settings.descriptions
        if said.tower.tower == "none":
            return None
        return describer(said.tower, machine(self.settings), max_new_tokens=said.max_new_tokens)

    def shown(self) -> Release | None:
        """Return what the channel of the settings shows; "production", while it shows nothing."""
        channel = self.settings.release.channel
        return releases.current(self.tables, channel) or releases.current(self.tables)

    def build(self, asset: str) -> Build | None:
        """Return the asset's last build, or None."""
        if self.tables.version("builds") is None:
            return None
        rows = self.tables.read("builds", where=f"asset = '{asset}'").to_pylist()
        if not rows:
            return None
        row = rows[0]
        return Build(asset, row["inputs"], json.loads(row["tables"]), json.loads(row["metadata"]))

    def built(self, asset: str) -> Build:
        """Return the asset's last build; RuntimeError when it was never built."""
        build = self.build(asset)
        if build is None:
            raise RuntimeError(f"{asset} was never built in this store: materialize it first")
        return build

    def unchanged(self, asset: str, inputs: str) -> Build | None:
        """Return the last build if it came from exactly these inputs and its tables still exist."""
        build = self.build(asset)
        if build is None or build.inputs != inputs:
            return None
        if any(self.tables.version(name) is None for name in build.tables):
            return None
        return build

    def record(
        self, asset: str, inputs: str, tables: dict[str, int], metadata: dict[str, Any]
    ) -> Build:
        """Remember a finished build. Called last: a killed asset is simply built again."""
        row = {
            "asset": asset,
            "inputs": inputs,
            "tables": json.dumps(tables, sort_keys=True),
            "metadata": json.dumps(metadata, sort_keys=True),
            "finished_at": datetime.now(UTC),
        }
        self.tables.upsert("builds", pa.Table.from_pylist([row], schema=BUILDS), key="asset")
        return Build(asset, inputs, tables, metadata)

    def versions(self, *tables: str) -> dict[str, int]:
        """Return the newest version of each of these tables that exists."""
        found = {name: self.tables.version(name) for name in tables}
        return {name: version for name, version in found.items() if version is not None}

    def read(
        self, table: str, *, asset: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """Read a table at the version that its asset recorded (the asset named like it)."""
        version = self.built(asset or table).tables[table]
        return self.tables.read(table, columns=columns, version=version)


def machine(settings: Settings) -> Machine:
    """Return where and how the settings let towers run."""
    encoders = settings.encoders
    return Machine(encoders.device, encoders.compile, encoders.download)


class Progress:
    """A bar on the terminal for whatever takes more than two seconds; silent elsewhere."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._what = ""

    def __call__(self, done: int, total: int | None, what: str) -> None:
        """Report that `done` of `total` (None: unknown) steps of `what` are finished."""
        bar = self._bar
        if bar is None or self._what != what:
            self.close()
            bar = self._bar = tqdm(total=total, desc=what, delay=2, disable=None, leave=False)
            self._what = what
        bar.total = total
        bar.update(done - bar.n)
        if total is not None and done >= total:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def digest(*parts: object) -> str:
    """Return a hex digest of the parts; Arrow tables count by their values, in row order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = _arrow_bytes(part) if isinstance(part, pa.Table) else repr(part).encode()
        total.update(hashlib.blake2b(data, digest_size=16).digest())
    return total.hexdigest()


def _arrow_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    return sink.getvalue()


@contextmanager
def open_lake(
    settings: Settings, *, accepted: frozenset[str] = frozenset(), retry: bool = False
) -> Iterator[Lake]:
    """Open the settings' store for writing and hold its writer lock until the block ends."""
    tables = Tables(settings.store)
    # One thread per decomposition: the space comes out the same on any number of cores, and a
    # second thread on two busy ones made a 1007 x 1007 SVD take 9.4 s instead of 2.1 s.
    with tables.lock(), threadpool_limits(1, user_api="blas"):
        lake = Lake(settings, tables, accepted, retry)
        try:
            yield lake
        finally:
            lake.progress.close()
