"""Items into words: descriptions by a multimodal language model, through the cache of `cached`.

A run stops when its tokens are used up, and the next one goes on; what is described is kept with
the model, the prompt and the content that it came from. It does not know who reads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.cached import Ref, complete, fill, refusals
from assets.encode import Contents
from assets.inputs import description_inputs, descriptions_wanted, lacking
from assets.item_text import Cleaner, digest
from assets.lake import Build, Lake, machine
from encoders.describe import Description
from encoders.encoder import Outcome
from encoders.engine import Engine, Work
from encoders.feed import run
from encoders.machine import Machine
from encoders.registry import DescriberTower, describer
from encoders.room import Room
from encoders.spec import Choice
from store.schema import ITEM_DESCRIPTIONS

NAME = "item_descriptions"
MAX_CHARS = 2000


def describe(lake: Lake, engine: Engine) -> Build:
    """Bring `item_descriptions` up to date with the items, as far as the run's tokens go."""
    found = lake.describer()
    inputs = description_inputs(lake)
    if build := complete(lake, NAME, inputs):
        nothing = {"described": 0, "tokens": 0, "describing seconds": 0.0}
        return lake.record(NAME, inputs, build.tables, {**build.metadata, **nothing})
    if found is None:
        metadata = {"rows": 0, "described": 0, "describer": "none", "waiting": 0}
        return lake.record(NAME, inputs, {}, metadata)
    started = monotonic()
    rows = descriptions_wanted(lake)
    maker = Describing(lake, found)
    filled = fill(lake, engine, maker, rows, items=lake.built("items").tables["items"])
    refused, without = len(refusals(lake, maker.modality, found.digest)), waiting(lake)
    metadata = {
        "rows": len(rows) - without - refused,
        "described": filled.made,
        "copied": filled.copied,
        "refused": refused,
        "waiting": without,
        "tokens": maker.spent,
        "describer": found.name,
        "describing seconds": round(monotonic() - started, 2),
    }
    return lake.record(NAME, description_inputs(lake), lake.versions(NAME), metadata)


def waiting(lake: Lake) -> int:
    """Count the items that still wait for a description."""
    found = lake.describer()
    if found is None:
        return 0
    rows = lacking(lake, NAME, descriptions_wanted(lake))
    refused = refusals(lake, Describing.modality, found.digest)["key"]
    return len(rows.filter(pc.invert(pc.is_in(rows["key"], refused))))


class Describing:
    """A describer and the table of its texts: a `Maker` for `assets.cached`."""

    table = NAME
    what = "describing items"
    modality = "description"
    schema = ITEM_DESCRIPTIONS

    def __init__(self, lake: Lake, tower: DescriberTower) -> None:
        self.digest = tower.digest
        self.batch = tower.batch
        self.spent = 0
        self._tower = tower
        self._tables = lake.tables
        self._machine = machine(lake.settings)
        self._memory = lake.settings.encoders.memory_mb << 20
        self._budget = lake.settings.descriptions.tokens_per_run
        self._cleaner = Cleaner(MAX_CHARS)

    def factory(self, items: int) -> Callable[[], Work[Description]]:
        """Return what loads the model and reads items, wherever it is called."""
        contents = Contents(self._tables, items, ["text", "image"])
        tower = self._tower
        return DescribingWork(
            contents,
            tower.choice,
            tower.max_new_tokens,
            self._machine,
            self.digest,
            self._memory or None,
        )

    def refs(self, items: pa.Array, rows: Sequence[int]) -> list[Ref]:
        """Return references to items."""
        return [Ref(row) for row in rows]

    def columns(self, made: Sequence[Outcome[Description]]) -> dict[str, pa.Array]:
        """Return the descriptions, cleaned as a catalogue's texts are, and what they cost."""
        said = [outcome.value for outcome in made if outcome.value is not None]
        texts = [self._cleaner.text(each.text) for each in said]
        return {
            "description": pa.array(texts),
            "description_hash": pa.array([digest(text) for text in texts]),
            "read_tokens": pa.array([each.read for each in said], pa.int32()),
            "written_tokens": pa.array([each.written for each in said], pa.int32()),
        }

    def enough(self, made: Sequence[Outcome[Description]]) -> bool:
        """Add up the tokens; tell whether the run has used up what it may."""
        said = (outcome.value for outcome in made if outcome.value is not None)
        self.spent += sum(each.read + each.written for each in said)
        return 0 < self._budget <= self.spent


@dataclass(frozen=True)
class DescribingWork:
    """Loads a describer where it is called, and returns what describes references there."""

    contents: Contents
    choice: Choice
    max_new_tokens: int
    machine: Machine
    digest: str
    memory: int | None

    def __call__(self) -> Work[Description]:
        """Load the model; RuntimeError if its files here are not those that the run began with."""
        found = describer(self.choice, self.machine, max_new_tokens=self.max_new_tokens)
        if found.digest != self.digest:
            raise RuntimeError(
                f"the files of {found.name} are not the same on all machines: "
                f"digest {found.digest} here, {self.digest} where the run was started"
            )
        model: Any = found.load()
        room = Room(model.room, model.device, memory=self.memory)
        return lambda batches: run(model, self.contents.read(batches), room=room)
