"""Items to vectors through the cache: once per content, named refusals, kills, bounded memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets import cached
from assets.encode import encode
from assets.settings import Settings
from encoders.encoder import Item, ItemError, Outcome
from encoders.engine import LocalEngine, Work
from encoders.feed import encode as encode_items
from encoders.registry import tower
from store.schema import matrix
from store.tables import Tables
from tests.assets.small import ingested, item, rows, settings_of, without, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, [item(n) for n in range(20)])
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> Settings:
    return settings_of(folder)


def counted(settings: Settings) -> dict[str, int]:
    """How many contents each modality encodes of the catalogue as it is now."""
    with ingested(settings) as lake:
        return {
            modality: encode(lake, LocalEngine(), modality).metadata["encoded"]
            for modality in ("text", "image")
        }


def test_vectors_are_the_encoders_own_in_half_precision(settings: Settings) -> None:
    with ingested(settings) as lake:
        encode(lake, LocalEngine(), "text")
        found = rows(lake, "text_vectors")
        texts = lake.tables.read("items", columns=["item_id", "text"]).sort_by("item_id")
    expected = encode_items(
        tower("minilm-l6", "text").load(), [Item(text) for text in texts["text"].to_pylist()]
    )
    assert found["item_id"].to_pylist() == texts["item_id"].to_pylist()
    np.testing.assert_array_equal(matrix(found["vector"]), expected.astype(np.float16))


def test_nothing_is_encoded_twice(settings: Settings) -> None:
    assert counted(settings) == {"text": 20, "image": 20}
    assert counted(settings) == {"text": 0, "image": 0}


def test_a_changed_title_encodes_one_text_and_no_picture(folder: Path, settings: Settings) -> None:
    counted(settings)
    write(folder, [item(0, title="A blue teapot"), *(item(n) for n in range(1, 20))])
    assert counted(settings) == {"text": 1, "image": 0}


def test_a_changed_picture_encodes_one_picture_and_no_text(
    folder: Path, settings: Settings
) -> None:
    counted(settings)
    write(folder, [item(0, shift=99), *(item(n) for n in range(1, 20))])
    assert counted(settings) == {"text": 0, "image": 1}


def test_equal_contents_are_encoded_once_and_stored_for_every_item(
    folder: Path, settings: Settings
) -> None:
    write(folder, [item(n, title=f"Lamp {n % 3}", shift=n % 2) for n in range(12)])
    assert counted(settings) == {"text": 3, "image": 2}
    with ingested(settings) as lake:
        found = rows(lake, "image_vectors")
    assert len(found) == 12
    vectors = matrix(found["vector"])
    assert len(np.unique(vectors, axis=0)) == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_a_content_that_another_item_had_before_is_copied(folder: Path, settings: Settings) -> None:
    counted(settings)
    twins = [item(n + 100, title=f"Lamp number {n}", shift=n) for n in range(5)]
    write(folder, [*(item(n) for n in range(20)), *twins])
    with ingested(settings) as lake:
        build = encode(lake, LocalEngine(), "image")
        assert (build.metadata["encoded"], build.metadata["copied"]) == (0, 5)
        found = rows(lake, "image_vectors")
    by_item = dict(zip(found["item_id"].to_pylist(), matrix(found["vector"]), strict=True))
    np.testing.assert_array_equal(by_item["I103"], by_item["I003"])


def test_an_item_that_is_gone_has_no_vector_any_more(folder: Path, settings: Settings) -> None:
    counted(settings)
    write(folder, [item(n) for n in range(11)])
    counted(settings)
    with ingested(settings) as lake:
        assert len(rows(lake, "text_vectors")) == len(rows(lake, "image_vectors")) == 11


def test_long_texts_are_counted(folder: Path, settings: Settings) -> None:
    write(folder, [item(0), item(1, title="word " * 3000)])
    with ingested(settings) as lake:
        metadata = encode(lake, LocalEngine(), "text").metadata
    assert metadata["texts cut"] == 1
    assert metadata["tokens cut"] > 1500


class Refusing(LocalEngine):
    """Encodes here, and refuses some of the references as a broken decoder would."""

    def __init__(self, refused: Callable[[cached.Ref], bool], *, lasting: bool = True) -> None:
        self.refused, self.lasting, self.tried = refused, lasting, 0

    def map(
        self, factory: Callable[[], Work], batches: Iterable[Sequence[cached.Ref]], /
    ) -> Generator[list[Outcome], None, None]:
        read: list[Sequence[cached.Ref]] = []

        def noted() -> Iterable[Sequence[cached.Ref]]:
            for batch in batches:
                read.append(batch)
                yield batch

        for number, outcomes in enumerate(super().map(factory, noted())):
            self.tried += len(outcomes)
            yield [
                Outcome(None, self._error()) if self.refused(ref) else outcome
                for ref, outcome in zip(read[number], outcomes, strict=True)
            ]

    def _error(self) -> ItemError:
        error = ItemError("the decoder fell over")
        error.lasting = self.lasting
        return error


def test_a_refused_item_is_named_and_not_tried_again(settings: Settings) -> None:
    engine = Refusing(lambda ref: ref.row == 4)
    with ingested(settings) as lake:
        build = encode(lake, engine, "image")
        assert (build.metadata["encoded"], build.metadata["refused"]) == (19, 1)
        refused = lake.tables.read("refused_vectors").to_pylist()
        assert [(row["item_id"], row["reason"]) for row in refused] == [("I004", "not_encodable")]
        assert refused[0]["detail"] == "the decoder fell over"
        lake.tables.delete("builds", "asset", ["image_vectors"])  # as if the run had been killed
        again = Refusing(lambda ref: False)
        encode(lake, again, "image")
        assert again.tried == 0
        assert len(rows(lake, "image_vectors")) == 19


def test_refusals_are_forgotten_when_asked(settings: Settings) -> None:
    with ingested(settings) as lake:
        encode(lake, Refusing(lambda ref: ref.row == 4), "image")
        build = encode(replace(lake, retry=True), LocalEngine(), "image")
    assert (build.metadata["encoded"], build.metadata["refused"]) == (1, 0)


def test_a_changed_picture_of_a_refused_item_is_tried(folder: Path, settings: Settings) -> None:
    with ingested(settings) as lake:
        encode(lake, Refusing(lambda ref: ref.row == 4), "image")
    write(folder, [item(n, shift=77 if n == 4 else n) for n in range(20)])
    with ingested(settings) as lake:
        build = encode(lake, LocalEngine(), "image")
        assert (build.metadata["encoded"], build.metadata["refused"]) == (1, 0)
        assert len(lake.tables.read("refused_vectors")) == 0


def test_what_did_not_fit_into_memory_is_tried_again_the_next_time(settings: Settings) -> None:
    with ingested(settings) as lake:
        encode(lake, Refusing(lambda ref: ref.row == 4, lasting=False), "image")
        assert len(rows(lake, "image_vectors")) == 19
        assert encode(lake, LocalEngine(), "image").metadata["encoded"] == 1


def test_a_model_that_refuses_everything_is_an_error_and_not_a_catalogue_of_refusals(
    settings: Settings,
) -> None:
    with ingested(settings) as lake:
        with pytest.raises(RuntimeError, match="encoding image: none of 20 items could be read"):
            encode(lake, Refusing(lambda ref: True), "image")
        assert lake.tables.version("refused_vectors") is None


def test_a_night_of_new_items_that_are_all_refused_is_no_error(
    folder: Path, settings: Settings
) -> None:
    counted(settings)
    write(folder, [item(n) for n in range(32)])
    with ingested(settings) as lake:
        build = encode(lake, Refusing(lambda ref: True), "image")
        assert (build.metadata["encoded"], build.metadata["refused"]) == (0, 12)


def test_copies_are_appended_without_reading_all_keys(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "COPIED", 2)
    counted(settings)
    twins = [{**item(n), "item_id": f"J{n}"} for n in range(6)]
    write(folder, [*(item(n) for n in range(20)), *twins])
    with ingested(settings) as lake:
        append, told = Tables.append, []

        def noted(tables: Tables, name: str, table: pa.Table, **more: Any) -> int:
            told.append((name, more.get("absent_at") == tables.dataset(name).version))
            return append(tables, name, table, **more)

        monkeypatch.setattr(Tables, "append", noted)
        build = encode(lake, LocalEngine(), "text")
    assert build.metadata["copied"] == 6
    assert [proven for name, proven in told if name == "text_vectors"] == [True] * 3


def test_a_corrupt_picture_in_the_middle_of_a_batch_takes_nobody_with_it(
    settings: Settings,
) -> None:
    with ingested(settings) as lake:
        whole = encode(lake, LocalEngine(), "image") and rows(lake, "image_vectors")
        items = lake.tables.read("items").to_pylist()
        items[9]["image"] = items[9]["image"][:80]  # damaged since it was ingested
        items[9]["image_hash"] = "0" * 32
        table = lake.tables.read("items").schema
        version = lake.tables.upsert("items", cached.pa.Table.from_pylist(items, schema=table))
        lake.record("items", "damaged", {"items": version, "rejected_items": 1}, {"rows": 20})
        build = encode(lake, LocalEngine(), "image")
        refused = lake.tables.read("refused_vectors").to_pylist()
        left = rows(lake, "image_vectors")
    assert (build.metadata["encoded"], build.metadata["refused"]) == (0, 1)
    assert [(row["item_id"], row["reason"]) for row in refused] == [("I009", "truncated")]
    others = whole.filter(pc.not_equal(whole["item_id"], "I009"))
    assert left.equals(others)


RUN = """
import sys
from pathlib import Path
from assets import cached
from assets.encode import encode
from assets.settings import parse
from encoders import registry
from encoders.engine import LocalEngine
from tests.assets.small import ingested, settings_of

cached.COMMIT_SECONDS = 0.0
registry.BATCH["text"] = 8


class Telling(LocalEngine):
    def map(self, factory, batches):
        for outcomes in super().map(factory, batches):
            print("delivered", len(outcomes), flush=True)
            yield outcomes


with ingested(settings_of(Path(sys.argv[1]))) as lake:
    print(encode(lake, Telling(), "text").metadata["encoded"])
"""


def test_a_killed_run_loses_one_batch_at_most(folder: Path) -> None:
    write(folder, [item(n, title=f"Lamp {n} " + "of glass and brass " * 40) for n in range(400)])
    table = folder / "store" / "text_vectors.lance" / "_versions"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE)
    while process.poll() is None and len(list(table.glob("*.manifest"))) < 12:
        time.sleep(0.002)  # the moment of the kill is what is waited for
    os.kill(process.pid, signal.SIGKILL)
    told, _ = process.communicate()
    delivered = sum(int(line.split()[1]) for line in told.decode().splitlines())
    with ingested(settings_of(folder)) as lake:
        have = len(rows(lake, "text_vectors"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], capture_output=True, text=True, check=True
    )
    assert 80 <= have < 400
    assert 0 <= delivered - have <= 8  # the batch that was about to be committed
    assert int(done.stdout.splitlines()[-1]) == 400 - have


def test_a_full_disk_loses_nothing_that_was_committed(folder: Path, settings: Settings) -> None:
    code = RUN.replace("cached.COMMIT_SECONDS", "import resource\ncached.COMMIT_SECONDS") + "\n"
    write(folder, [item(n) for n in range(60)])
    limited = code.replace(
        "    print(encode",
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))\n"
        "    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n    print(encode",
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(folder)], capture_output=True, text=True
    )
    assert done.returncode
    assert "File too large" in done.stderr
    assert counted(settings)["text"] == 60


def test_a_modality_that_is_switched_off_has_no_vectors(settings: Settings) -> None:
    with ingested(without(settings, "image")) as lake:
        build = encode(lake, LocalEngine(), "image")
        assert build.metadata["encoder"] == "none"
        assert lake.tables.version("image_vectors") is None
