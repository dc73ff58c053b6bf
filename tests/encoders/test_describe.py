"""Descriptions: the same item gets the same text, within a budget of tokens."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from encoders import feed
from encoders.describe import Describer, Description, NothingSaid
from encoders.encoder import Item, MissingModality, Outcome
from encoders.images import RefusedImage
from encoders.mllm_source import MultimodalModel
from encoders.registry import DescriberTower, Tower, describer
from tests.encoders import tiny_mllm
from tests.encoders.pictures import encoded, gradient

BUDGET = 8
ITEMS = [
    Item(text="red shoes", image=encoded(gradient())),
    Item(text="a wool jacket for cold days in the hills, " * 3),
    Item(image=encoded(gradient(80, 200))),
    Item(text="socks"),
]


@pytest.fixture(scope="module", params=list(tiny_mllm.FAMILIES))
def written(
    request: pytest.FixtureRequest, named: Callable[[str], Tower]
) -> tuple[Describer, list[Description]]:
    """A describer of each family, and what it says of the items."""
    loaded = describer(named(request.param).choice, max_new_tokens=BUDGET).load()
    return loaded, values(run(loaded, ITEMS))


def run(model: Describer, items: list[Item]) -> list[Outcome[Description]]:
    (outcomes,) = feed.run(model, [items])
    return outcomes


def values(outcomes: list[Outcome[Description]]) -> list[Description]:
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def test_every_item_is_described_within_the_budget(
    written: tuple[Describer, list[Description]],
) -> None:
    _, found = written
    assert len(found) == len(ITEMS)
    assert all(each.text and 0 < each.written <= BUDGET for each in found)


def test_the_same_items_are_described_in_the_same_words(
    written: tuple[Describer, list[Description]],
) -> None:
    model, found = written
    assert values(run(model, ITEMS)) == found


def test_a_description_depends_on_its_own_item_only(
    written: tuple[Describer, list[Description]],
) -> None:
    model, found = written
    assert [values(run(model, [item]))[0] for item in ITEMS] == found


def test_a_forward_of_unlike_items_describes_each_as_it_does_alone(
    written: tuple[Describer, list[Description]],
) -> None:
    """As on a GPU, where prompts are padded to fill a forward."""
    model, found = written
    contents = [model.prepare(item).content for item in ITEMS]
    assert model.forward(model.collate(contents)) == found


def test_different_items_are_described_in_different_words(
    written: tuple[Describer, list[Description]],
) -> None:
    assert len({each.text for each in written[1]}) > 1


def test_the_tokens_that_are_read_are_counted_without_padding(
    written: tuple[Describer, list[Description]],
) -> None:
    model, found = written
    together = model.collate([model.prepare(item).content for item in ITEMS])
    lengths = [model.collate([model.prepare(item).content])["input_ids"].shape[1] for item in ITEMS]
    assert [each.read for each in found] == lengths
    assert len(set(lengths)) > 1
    assert together["input_ids"].shape[1] == max(lengths)


def test_an_item_that_cannot_be_asked_about_leaves_the_others_as_they_are(
    written: tuple[Describer, list[Description]],
) -> None:
    model, found = written
    outcomes = run(model, [ITEMS[0], Item(), ITEMS[1], Item(image=b"garbage"), *ITEMS[2:]])
    assert isinstance(outcomes[1].refusal, MissingModality)
    assert isinstance(outcomes[3].refusal, RefusedImage)
    assert values(outcomes) == found


@pytest.fixture
def saying(named: Callable[[str], Tower], tmp_path: Path) -> Callable[..., DescriberTower]:
    """A copy of the Qwen2-VL model whose folder says how it generates."""

    def configured(tokens: int = BUDGET, **settings: Any) -> DescriberTower:
        source = named("qwen2_vl").source
        assert isinstance(source, MultimodalModel)
        folder = Path(shutil.copytree(source.folder, tmp_path / "copy", dirs_exist_ok=True))
        file = folder / "generation_config.json"
        said = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**said, **settings}))
        choice = replace(named("qwen2_vl").choice, tower=f"transformers:{folder}")
        return describer(choice, max_new_tokens=tokens)

    return configured


def generated(found: DescriberTower, item: Item) -> list[int]:
    """The tokens of an item's description, from transformers' own generation."""
    model: Any = found.load()
    inputs = model.collate([model.prepare(item).content])
    with torch.inference_mode():
        tokens = model._model.generate(**inputs, max_new_tokens=BUDGET, do_sample=False)
    return tokens[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_description_ends_where_the_model_ends_it(
    saying: Callable[..., DescriberTower],
) -> None:
    tokens = generated(saying(), ITEMS[0])
    end = next(token for token in tokens[2:] if token not in tokens[:2])
    place = tokens.index(end)
    (found,) = values(run(saying(eos_token_id=end).load(), ITEMS[:1]))
    assert found.written == place + 1 < BUDGET


def test_descriptions_of_one_forward_end_where_each_of_them_ends(
    saying: Callable[..., DescriberTower],
) -> None:
    tokens = generated(saying(), ITEMS[0])
    end = next(token for token in tokens[2:] if token not in tokens[:2])
    model = saying(eos_token_id=end).load()
    found = model.forward(model.collate([model.prepare(item).content for item in ITEMS]))
    assert found == [values(run(model, [item]))[0] for item in ITEMS]
    assert len({each.written for each in found if isinstance(each, Description)}) > 1


def test_an_empty_description_is_refused(saying: Callable[..., DescriberTower]) -> None:
    model: Any = saying().load()
    vocabulary = len(model._prompter.processor.tokenizer)
    end = model._prompter.processor.tokenizer.eos_token_id
    others = [token for token in range(vocabulary) if token != end]
    outcomes = run(saying(suppress_tokens=others).load(), ITEMS)
    assert {type(outcome.refusal) for outcome in outcomes} == {NothingSaid}


def test_sampling_that_a_folder_prescribes_is_not_done(
    saying: Callable[..., DescriberTower],
) -> None:
    """Qwen2-VL's folders prescribe it."""
    plain = values(run(saying().load(), ITEMS))
    sampled = saying(do_sample=True, temperature=9.0, top_k=50, top_p=0.9).load()
    assert values(run(sampled, ITEMS)) == plain


def test_white_space_is_put_in_order(written: tuple[Describer, list[Description]]) -> None:
    assert all(each.text == " ".join(each.text.split()) for each in written[1])


def test_a_smaller_budget_gives_the_beginning_of_the_same_tokens(
    saying: Callable[..., DescriberTower],
) -> None:
    few, more = (values(run(saying(tokens).load(), ITEMS)) for tokens in (3, BUDGET))
    assert [each.written for each in few] == [3] * len(ITEMS)
    assert [each.read for each in few] == [each.read for each in more]
