"""Items into raw encoder outputs, through the cache of `assets.cached`.

It knows how items are read where the work is done, and what of a vector is kept. What the vectors
mean is the encoder's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.cached import Filled, Maker, Ref, complete, fill, refusals
from assets.inputs import encoding_inputs, lacking, load_said, vectors_wanted
from assets.lake import Build, Lake, machine
from encoders.encoder import Item, Outcome, Vectors
from encoders.engine import Engine, Work
from encoders.feed import run
from encoders.machine import Machine
from encoders.registry import Tower, tower
from encoders.room import Room
from encoders.spec import Choice, Modality
from store.schema import positions, vector_array, vectors_schema
from store.tables import Tables

READ = 32  # items read at once: each may bring a picture of megabytes
COLUMNS: dict[Modality, list[str]] = {
    "text": ["text"],
    "image": ["image"],
    "multimodal": ["text", "image"],
}


def encode(lake: Lake, engine: Engine, modality: Modality) -> Build:
    """Bring `<modality>_vectors` up to date with the items; encode only what is missing."""
    name, tower = f"{modality}_vectors", lake.tower(modality)
    inputs = encoding_inputs(lake, modality)
    if build := complete(lake, name, inputs):
        nothing = {"encoded": 0, "copied": 0, "encoding seconds": 0.0}
        return lake.record(name, inputs, build.tables, {**build.metadata, **nothing})
    if tower is None:
        return lake.record(name, inputs, {}, {"rows": 0, "encoded": 0, "encoder": "none"})
    started = monotonic()
    rows = vectors_wanted(lake, modality)
    said = load_said(lake, columns=("description",)) if modality == "text" else None
    filled = encode_missing(lake, engine, modality, tower, rows, items=_items(lake), said=said)
    refused, without = (
        len(found) for found in (refusals(lake, modality, tower.digest), lacking(lake, name, rows))
    )
    metadata = {
        "rows": len(rows) - without,
        "encoded": filled.made,
        "copied": filled.copied,
        **cut(lake, name, rows),
        "refused": refused,
        "waiting": without - refused,
        "encoder": tower.name,
        "dim": tower.dim,
        "encoding seconds": round(monotonic() - started, 2),
    }
    return lake.record(name, encoding_inputs(lake, modality), lake.versions(name), metadata)


def encode_missing(
    lake: Lake,
    engine: Engine,
    modality: Modality,
    tower: Tower,
    rows: pa.Table,
    *,
    items: int,
    said: pa.Table | None = None,
    whole: bool = True,
) -> Filled:
    """Encode what the cache lacks of the wanted rows; see `assets.cached.fill`.

    said: the descriptions that the rows' hashes are of, if they are of any.
    """
    maker: Maker[Vectors] = Encoding(lake, modality, tower, said)
    return fill(lake, engine, maker, rows, items=items, whole=whole)


def cut(lake: Lake, name: str, rows: pa.Table) -> dict[str, int]:
    """Count the texts that did not fit their model, and the tokens left out."""
    found = lake.tables.read(name, columns=["key", "cut_tokens"])
    found = found.filter(pc.greater(found["cut_tokens"], 0))
    tokens = found.filter(pc.is_in(found["key"], rows["key"]))["cut_tokens"]
    return {"texts cut": len(tokens), "tokens cut": pc.sum(tokens).as_py() or 0}


def _items(lake: Lake) -> int:
    return lake.built("items").tables["items"]


class Encoding:
    """A tower and the table of its vectors: a `Maker` for `assets.cached`."""

    def __init__(
        self, lake: Lake, modality: Modality, tower: Tower, said: pa.Table | None = None
    ) -> None:
        self.table = f"{modality}_vectors"
        self.what = f"encoding {modality}"
        self.digest = tower.digest
        self.modality: Modality = modality
        self.batch = tower.batch
        self.schema = vectors_schema(tower.dim)
        self._tower = tower
        self._tables = lake.tables
        self._machine = machine(lake.settings)
        self._memory = lake.settings.encoders.memory_mb << 20
        self._said = said if said is not None and len(said) else None

    def factory(self, items: int) -> Callable[[], Work[Vectors]]:
        """Return what loads the tower and reads items, wherever it is called."""
        contents = Contents(self._tables, items, COLUMNS[self.modality])
        return EncodingWork(
            contents,
            self._tower.choice,
            self.modality,
            self._machine,
            self.digest,
            self._memory or None,
        )

    def refs(self, items: pa.Array, rows: Sequence[int]) -> list[Ref]:
        """Return references to items, with what was said about them."""
        if self._said is None:
            return [Ref(row) for row in rows]
        at = positions(items, self._said["item_id"])
        said = self._said["description"].combine_chunks().take(at).fill_null("").to_pylist()
        return [Ref(row, addition) for row, addition in zip(rows, said, strict=True)]

    def columns(self, made: Sequence[Outcome[Vectors]]) -> dict[str, pa.Array]:
        """Return the vectors as float16, and how many tokens of their texts did not fit."""
        vectors = np.stack([outcome.value for outcome in made if outcome.value is not None])
        cut = [outcome.cut for outcome in made]
        return {
            "vector": vector_array(vectors.astype(np.float16)),
            "cut_tokens": pa.array(cut, pa.int32()),
        }

    def enough(self, made: Sequence[Outcome[Vectors]]) -> bool:
        """All of it is wanted."""
        return False


@dataclass(frozen=True)
class Contents:
    """Reads items by their rows at one version of the table. Travels as an address."""

    tables: Tables
    version: int
    columns: list[str]

    def read(self, batches: Any) -> Iterator[Iterator[Item]]:
        """Yield the items of each batch, read as they are taken."""
        data = self.tables.dataset("items", version=self.version)
        for refs in batches:
            yield self._items(data, refs)

    def _items(self, data: Any, refs: Sequence[Ref]) -> Iterator[Item]:
        for start in range(0, len(refs), READ):
            part = refs[start : start + READ]
            rows = data.take([ref.row for ref in part], columns=self.columns)
            for ref, values in zip(part, rows.to_pylist(), strict=True):
                if ref.addition:
                    text = values["text"] or ""
                    values["text"] = f"{text} description: {ref.addition}".strip()
                yield Item(text=values.get("text") or None, image=values.get("image"))


@dataclass(frozen=True)
class EncodingWork:
    """Loads a tower where it is called, and returns what encodes references there."""

    contents: Contents
    choice: Choice
    modality: Modality
    machine: Machine
    digest: str
    memory: int | None

    def __call__(self) -> Work[Vectors]:
        """Load the tower; RuntimeError if its files here are not those that the run began with."""
        found = tower(self.choice, self.modality, self.machine)
        if found.digest != self.digest:
            raise RuntimeError(
                f"the files of {found.name} are not the same on all machines: "
                f"digest {found.digest} here, {self.digest} where the run was started"
            )
        encoder = found.load()
        room = Room(encoder.room, encoder.device, memory=self.memory)
        return lambda batches: run(encoder, self.contents.read(batches), room=room)
