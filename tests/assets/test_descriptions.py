"""Items in words: descriptions with their provenance, part of what is encoded, within budget."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets import add
from assets.describe import describe
from assets.encode import encode
from assets.settings import Settings
from encoders import registry
from encoders.encoder import Item
from encoders.engine import LocalEngine
from encoders.feed import encode as encode_items
from encoders.registry import tower
from store.schema import matrix
from tests.assets.small import ingested, item, rows, settings_of, write
from tests.encoders.tiny_mllm import save_tiny

ITEMS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2_vl", tmp_path_factory.mktemp("describer") / "qwen")


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Settings:
    write(tmp_path, [item(n) for n in range(ITEMS)])
    return described(tmp_path, model)


def described(folder: Path, model: Path, **more: int) -> Settings:
    choice = {"tower": f"transformers:{model}", "precision": "float32"}
    said = {"tower": choice, "max_new_tokens": 6, **more}
    return settings_of(folder, descriptions=said)


def test_every_item_is_described_once_with_what_it_was_made_from(settings: Settings) -> None:
    with ingested(settings) as lake:
        build = describe(lake, LocalEngine())
        found = rows(lake, "item_descriptions")
        describer = lake.describer()
        again = describe(lake, LocalEngine())
    assert describer is not None
    assert build.metadata["described"] == ITEMS
    assert set(found["encoder"].to_pylist()) == {describer.digest}
    assert all(text and text.isprintable() for text in found["description"].to_pylist())
    assert min(found["read_tokens"].to_pylist()) > 6
    assert set(found["written_tokens"].to_pylist()) <= set(range(1, 7))
    tokens = sum(found["read_tokens"].to_pylist() + found["written_tokens"].to_pylist())
    assert build.metadata["tokens"] == tokens
    assert again.metadata["described"] == 0


def test_descriptions_are_part_of_the_text_that_is_encoded(settings: Settings) -> None:
    with ingested(settings) as lake:
        describe(lake, LocalEngine())
        encode(lake, LocalEngine(), "text")
        vectors = rows(lake, "text_vectors")
        said = rows(lake, "item_descriptions").sort_by("item_id")["description"].to_pylist()
        texts = lake.tables.read("items", columns=["item_id", "text"]).sort_by("item_id")["text"]
    whole = [f"{t} description: {s}" for t, s in zip(texts.to_pylist(), said, strict=True)]
    expected = encode_items(tower("minilm-l6", "text").load(), [Item(text) for text in whole])
    order = np.argsort(vectors["item_id"].to_pylist())
    np.testing.assert_array_equal(matrix(vectors["vector"])[order], expected.astype(np.float16))


def test_an_added_item_is_encoded_without_the_description_that_it_had(settings: Settings) -> None:
    with ingested(settings) as lake:
        describe(lake, LocalEngine())
        found, _ = add._encoded(lake, "text", pa.array(["I000"]))
        (text,) = lake.tables.take("items", "item_id", ["I000"])["text"].to_pylist()
    expected = encode_items(tower("minilm-l6", "text").load(), [Item(text)])
    np.testing.assert_array_equal(found.vectors, expected.astype(np.float16).astype(np.float32))


def test_an_item_without_text_has_one_once_it_is_described(tmp_path: Path, model: Path) -> None:
    write(tmp_path, [{**item(0), "title": ""}, item(1)])
    with ingested(described(tmp_path, model)) as lake:
        describe(lake, LocalEngine())
        encode(lake, LocalEngine(), "text")
        assert len(rows(lake, "text_vectors")) == 2


def test_a_run_stops_when_its_tokens_are_used_up_and_the_next_one_goes_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BATCH, "multimodal", 2)
    write(tmp_path, [item(n) for n in range(14)])
    settings = described(tmp_path, model, tokens_per_run=10)
    counts, vectors = [], []
    for _ in range(5):
        with ingested(settings) as lake:
            build = describe(lake, LocalEngine())
            counts.append((build.metadata["described"], build.metadata["waiting"]))
            vectors.append(encode(lake, LocalEngine(), "text").metadata["encoded"])
    done = [described for described, _ in counts]
    assert sum(done) == 14
    assert 2 <= done[0] < 14
    assert counts[-1][1] == 0
    assert vectors[0] == 14  # the others are encoded without a description, until they have one
    assert vectors[1] == done[1]


def test_another_prompt_describes_anew(tmp_path: Path, model: Path, settings: Settings) -> None:
    with ingested(settings) as lake:
        describe(lake, LocalEngine())
    choice = {"tower": f"transformers:{model}", "precision": "float32", "prompt": "{text} {image}?"}
    other = settings_of(tmp_path, descriptions={"tower": choice, "max_new_tokens": 6})
    with ingested(other) as lake:
        assert describe(lake, LocalEngine()).metadata["described"] == ITEMS
        assert len(set(rows(lake, "item_descriptions")["encoder"].to_pylist())) == 2


def test_a_tower_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [item(0)])
    with (
        ingested(settings_of(tmp_path, descriptions={"tower": "clip-b32"})) as lake,
        pytest.raises(ValueError, match="clip-b32 writes no texts: name a multimodal language"),
    ):
        describe(lake, LocalEngine())
