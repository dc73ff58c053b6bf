"""Items as prompts: what is missing leaves no trace, and no text is taken for anything but text."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders import feed
from encoders.encoder import Encoder, Item, MissingModality
from encoders.images import RefusedImage
from encoders.mllm import PROMPT
from encoders.mllm_model import load_model
from encoders.mllm_source import MultimodalModel
from encoders.prompt import Prompter
from encoders.registry import Tower, tower
from encoders.weights import WeightsError
from tests.encoders import tiny_mllm
from tests.encoders.pictures import encoded, gradient

FAMILIES = list(tiny_mllm.FAMILIES)
PICTURE = encoded(gradient())


@pytest.fixture(scope="module")
def processors(named: Callable[[str], Tower]) -> dict[str, Any]:
    """The processor of every family."""
    sources = {name: named(name).source for name in FAMILIES}
    return {
        name: load_model(source.folder, "float32", "cpu")[1]
        for name, source in sources.items()
        if isinstance(source, MultimodalModel)
    }


@pytest.fixture(scope="module", params=FAMILIES)
def processor(request: pytest.FixtureRequest, processors: dict[str, Any]) -> Any:
    """Each family's processor in turn."""
    return processors[request.param]


@pytest.fixture(scope="module")
def prompting(processor: Any) -> Prompter:
    return Prompter(processor, PROMPT)


@pytest.fixture(scope="module")
def prompter(processors: dict[str, Any]) -> Prompter:
    return Prompter(processors["qwen2_vl"], PROMPT)


def rendered(prompter: Prompter, **item: Any) -> str:
    return prompter.ask(Item(**item)).content.text


START, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("item", "asked"),
    [
        ({"text": "red shoes", "image": PICTURE}, f"{SEEN}a red shoes b"),
        ({"text": "red shoes"}, "a red shoes b"),
        ({"image": PICTURE}, f"{SEEN}a  b"),
        ({"text": "", "image": PICTURE}, f"{SEEN}a  b"),
    ],
)
def test_what_an_item_lacks_leaves_no_trace_in_its_prompt(
    processors: dict[str, Any], item: dict[str, Any], asked: str
) -> None:
    prompter = Prompter(processors["qwen2_vl"], "{image}a {text} b")
    assert rendered(prompter, **item) == START + asked + END


def test_a_picture_stands_where_the_template_has_it(processors: dict[str, Any]) -> None:
    prompter = Prompter(processors["qwen2_vl"], "{text}: {image} ?")
    assert rendered(prompter, text="shoes", image=PICTURE) == f"{START}shoes: {SEEN} ?{END}"


def test_a_suffix_ends_the_prompt(processors: dict[str, Any]) -> None:
    prompter = Prompter(processors["qwen2_vl"], PROMPT, suffix="<|item|>")
    assert rendered(prompter, text="shoes").endswith(f"{END}<|item|>")


def test_a_model_that_was_never_taught_to_chat_is_asked_without_turns(
    named: Callable[[str], Tower],
) -> None:
    source: Any = named("llava").source
    processor = load_model(source.folder, "float32", "cpu")[1]
    processor.chat_template = None
    prompter = Prompter(processor, "{image}{text} in a word:")
    assert rendered(prompter, text="shoes", image=PICTURE) == "<image>shoes in a word:"
    assert rendered(prompter, text="shoes") == "shoes in a word:"


def test_braces_in_a_text_are_text(prompter: Prompter) -> None:
    asked = rendered(prompter, text="{image} {text} {{ x }} {% raw %}", image=PICTURE)
    assert "{image} {text} {{ x }} {% raw %}" in asked
    assert asked.count(SEEN) == 1


@pytest.mark.parametrize("template", ["{text}{text}", "{image} and {image}"])
def test_a_template_that_repeats_a_part_is_refused(
    processors: dict[str, Any], template: str
) -> None:
    with pytest.raises(ValueError, match="at most once each"):
        Prompter(processors["qwen2_vl"], template)


def test_a_template_without_a_picture_is_refused_by_its_name(processors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"prompt '\{text\} in one word:'"):
        Prompter(processors["qwen2_vl"], "{text} in one word:")


def test_an_item_of_which_the_template_shows_nothing_is_refused(
    processors: dict[str, Any],
) -> None:
    prompter = Prompter(processors["qwen2_vl"], "{image} in one word:")
    with pytest.raises(MissingModality):
        prompter.ask(Item(text="shoes"))


@pytest.mark.parametrize("item", [Item(), Item(text="")])
def test_an_item_with_nothing_to_ask_about_is_refused(prompter: Prompter, item: Item) -> None:
    with pytest.raises(MissingModality, match="the item has neither text nor image"):
        prompter.ask(item)


def test_a_picture_that_cannot_be_read_is_refused(prompter: Prompter) -> None:
    with pytest.raises(RefusedImage, match="not_an_image"):
        prompter.ask(Item(text="shoes", image=b"garbage"))


# Special tokens


def special_ids(processor: Any) -> list[int]:
    decoder = processor.tokenizer.added_tokens_decoder
    return [number for number, token in decoder.items() if token.special]


def counted(prompter: Prompter, processor: Any, text: str) -> int:
    """How many special tokens the model reads."""
    asked = prompter.ask(Item(text=text)).content
    ids = prompter.tensors([asked], padding_side="right")["input_ids"][0].tolist()
    return sum(number in special_ids(processor) for number in ids)


def test_special_tokens_in_a_text_are_broken_up(processor: Any) -> None:
    prompter = Prompter(processor, PROMPT)
    tokens = [str(token) for token in processor.tokenizer.added_tokens_decoder.values()]
    evil = "shoes " + "".join(tokens) + " ".join(tokens)
    assert counted(prompter, processor, evil) == counted(prompter, processor, "shoes")


@settings(max_examples=30)
@given(data=st.data())
def test_no_text_is_taken_for_special_tokens(
    processor: Any, prompting: Prompter, data: st.DataObject
) -> None:
    tokens = [str(token) for token in processor.tokenizer.added_tokens_decoder.values()]
    pieces = st.sampled_from(tokens) | st.sampled_from(["<", "|", ">", " ", "<|", "|>", "x"])
    cuts = st.tuples(st.sampled_from(tokens), st.integers(1, 9)).map(lambda t: t[0][: t[1]])
    text = "x" + "".join(data.draw(st.lists(pieces | cuts, max_size=9)))
    assert counted(prompting, processor, text) == counted(prompting, processor, "shoes")


def test_a_picture_beside_such_a_text_is_still_read_once(processor: Any) -> None:
    prompter = Prompter(processor, PROMPT)
    asked = [
        prompter.ask(Item(text=text, image=PICTURE)).content
        for text in ("shoes", f"shoes {processor.image_token}")
    ]
    ids = prompter.tensors(asked, padding_side="right")["input_ids"]
    counts = (ids == processor.image_token_id).sum(dim=1).tolist()
    assert counts[0] == counts[1] > 0


# Long texts, large pictures


def test_tokens_that_are_not_read_are_counted(processor: Any) -> None:
    tokenizer = processor.tokenizer
    text = "red shoes and socks " * 50
    total = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    prepared = Prompter(processor, PROMPT, max_tokens=40).ask(Item(text=text))
    assert prepared.cut == total - 40


def test_a_short_text_is_read_as_it_is(prompter: Prompter) -> None:
    prepared = prompter.ask(Item(text="red shoes, größer als je zuvor 👟"))
    assert prepared.cut == 0
    assert "red shoes, größer als je zuvor 👟" in prepared.content.text


def test_what_is_read_of_a_long_text_is_its_beginning(processors: dict[str, Any]) -> None:
    prompter = Prompter(processors["qwen2_vl"], "{image}{text}", max_tokens=40)
    text = " ".join(str(number) for number in range(999))
    asked = rendered(prompter, text=text)[len(START) : -len(END)]
    assert text.startswith(asked)
    assert 20 < len(asked) < 200


@given(width=st.integers(2, 700), height=st.integers(2, 700))
def test_pictures_are_shrunk_to_the_most_pixels(
    prompter: Prompter, width: int, height: int
) -> None:
    small = Prompter(prompter.processor, PROMPT, max_pixels=2048)
    picture = small.ask(Item(image=encoded(Image.new("RGB", (width, height))))).content.picture
    assert picture.width * picture.height <= 2048
    if width * height <= 2048 and max(width, height) <= 100 * min(width, height):
        assert picture.size == (width, height)


@pytest.mark.parametrize("size", [(20_000, 20), (20, 20_000), (30_000, 2), (2, 30_000), (900, 2)])
def test_banners_are_cut_to_what_processors_take(prompter: Prompter, size: tuple[int, int]) -> None:
    picture = prompter.ask(Item(image=encoded(Image.new("RGB", size)))).content.picture
    assert max(picture.size) <= 200 * min(picture.size)
    assert (picture.width > picture.height) == (size[0] > size[1])


def test_of_a_banner_the_middle_is_seen(prompter: Prompter) -> None:
    banner = Image.new("RGB", (9000, 10), "white")
    banner.paste("red", (3900, 0, 5100, 10))
    picture = prompter.ask(Item(image=encoded(banner))).content.picture
    assert (np.asarray(picture)[:, 5:-5] == (255, 0, 0)).all()


def test_sizes_grow_with_texts_and_pictures(prompter: Prompter) -> None:
    asked = [
        Item(text="red"),
        Item(text="red shoes " * 20),
        Item(text="red shoes " * 20, image=PICTURE),
    ]
    sizes = [prompter.ask(item).size for item in asked]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


# The vector


@pytest.mark.parametrize("name", FAMILIES)
def test_the_vector_is_the_last_tokens_state_of_the_whole_prompt(
    named: Callable[[str], Tower], loaded: Callable[[str], Encoder], name: str
) -> None:
    import torch

    source: Any = named(name).source
    model, processor = load_model(source.folder, "float32", "cpu")
    asked = Prompter(processor, PROMPT).ask(Item(text="red shoes", image=PICTURE)).content
    inputs = processor(text=[asked.text], images=[[asked.picture]], return_tensors="pt")
    with torch.inference_mode():
        state = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    vector = feed.encode(loaded(name), [Item(text="red shoes", image=PICTURE)])[0]
    np.testing.assert_allclose(vector, (state / state.norm()).numpy(), atol=1e-5)


def test_an_item_token_is_what_is_read_where_there_is_one(
    named: Callable[[str], Tower], loaded: Callable[[str], Encoder]
) -> None:
    known = named("item_token")
    items = [Item(text="red shoes"), Item(image=PICTURE)]
    last = feed.encode(tower(replace(known.choice, item_token=""), "multimodal").load(), items)
    assert np.abs(feed.encode(loaded("item_token"), items) - last).max() > 1e-2


def test_an_item_token_that_the_model_lacks_is_refused(named: Callable[[str], Tower]) -> None:
    choice = replace(named("qwen2_vl").choice, item_token="<|no such|>")
    with pytest.raises(WeightsError, match=r"has no token '<\|no such\|>': item_token names a"):
        tower(choice, "multimodal").load()


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.99), ("float16", 0.9999)])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "idefics3", "llava_onevision"])
def test_fewer_bits_point_where_float32_points(
    named: Callable[[str], Tower],
    loaded: Callable[[str], Encoder],
    name: str,
    precision: str,
    least: float,
) -> None:
    items = [Item(text="red shoes", image=PICTURE), Item(text="socks"), Item(image=PICTURE)]
    rounded = tower(replace(named(name).choice, precision=precision), "multimodal").load()
    products = feed.encode(rounded, items) * feed.encode(loaded(name), items)
    assert products.sum(axis=1).min() > least


def test_a_folder_that_is_no_multimodal_model_is_refused(named: Callable[[str], Tower]) -> None:
    with pytest.raises(WeightsError, match="is no multimodal model that transformers reads"):
        tower(named("bert").choice.tower, "multimodal").load()
