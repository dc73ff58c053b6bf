"""The names of towers: the list of known ones, and what a setting may say besides."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.registry import tower
from encoders.spec import MODALITIES, Choice, Known, Modality, described, known_towers, rooted
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError, package_folder

TOWERS = known_towers()
NAMED = [(name, modality) for name, known in TOWERS.items() for modality in known.reads]
FETCHED = [(name, modality) for name, modality in NAMED if not TOWERS[name].package]
ARCHITECTURES = {"CLIP-ViT-B-32-laion2B-s34B-b79K": "ViT-B-32"}  # by repository
NUMBERS = {"max_tokens", "windows", "max_pixels"}


def choices() -> st.SearchStrategy[Choice]:
    """Any choice, of whatever texts and numbers."""
    values = {
        field.name: st.integers(0, 9) if field.name in NUMBERS else st.text(max_size=9)
        for field in fields(Choice)
    }
    return st.builds(Choice, **values)


@given(choices())
def test_what_a_release_remembers_is_the_choice(choice: Choice) -> None:
    assert Choice(**json.loads(json.dumps(choice.as_data()))) == choice


def test_a_choice_reads_as_what_was_chosen() -> None:
    assert str(Choice("minilm-l6")) == "minilm-l6"
    assert str(Choice("e5-base", "int8", windows=2)) == (
        "e5-base (precision = 'int8', windows = 2)"
    )


# The list


@pytest.mark.parametrize("name", TOWERS)
def test_a_known_tower_says_what_it_is_and_costs(name: str) -> None:
    known = TOWERS[name]
    assert set(known.reads) <= set(MODALITIES)
    assert known.reads
    assert known.licence != Known("", "").licence
    assert known.megabytes > 0
    assert known.dim > 0


@pytest.mark.parametrize(("name", "modality"), NAMED)
def test_a_known_tower_may_be_named_for_all_it_reads(name: str, modality: Modality) -> None:
    found = tower(name, modality)
    assert (found.name, found.licence) == (name, TOWERS[name].licence)


@pytest.mark.parametrize(("name", "modality"), FETCHED)
def test_a_known_tower_that_is_absent_says_how_to_fetch_it(name: str, modality: Modality) -> None:
    with pytest.raises(WeightsError, match=r"`hf download \S+/\S+.*download = true under"):
        tower(name, modality).load()


def of_family(family: str) -> list[str]:
    return [name for name, known in TOWERS.items() if known.family == family]


@pytest.mark.parametrize("name", of_family("open_clip"))
def test_the_dim_of_a_known_clip_is_its_configurations(name: str) -> None:
    source = TOWERS[name].source
    root = package_folder("open_clip")
    assert root is not None
    repository = source.rpartition("/")[2]
    architecture = ARCHITECTURES.get(repository, repository.removesuffix("-OpenCLIP"))
    config = json.loads((root / "model_configs" / f"{architecture}.json").read_text())
    assert TOWERS[name].dim == config["embed_dim"]


@pytest.mark.parametrize("name", of_family("timm"))
def test_the_dim_of_a_known_backbone_is_its_architectures(name: str) -> None:
    ensure_torchvision()
    import timm
    import torch

    architecture = TOWERS[name].source.rpartition("/")[2]
    with torch.device("meta"):
        model: Any = timm.create_model(architecture)
    assert TOWERS[name].dim == model.head_hidden_size


# What a setting says


def test_what_a_setting_says_goes_before_what_the_tower_has() -> None:
    _, options = described(Choice("multilingual-e5-small", prefix="item: "), "text")
    assert (options.prefix, options.query_prefix) == ("item: ", "query: ")
    assert (options.pooling, options.max_tokens) == ("mean", 512)


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("bert", "text", "no text encoder is called 'bert': choose minilm-l6, "),
        ("bert", "text", "transformers:ORGANISATION/MODEL or none"),
        ("bert", "image", "timm:ARCHITECTURE@CHECKPOINT or none"),
        ("minilm-l6", "image", "no image encoder is called 'minilm-l6': choose efficientnet-lite0"),
        ("minilm-l6", "sound", "modality 'sound': choose text, image, multimodal"),
        ("timm:some/model", "text", "no text encoder is called 'timm:some/model'"),
        ("keras:some/model", "text", "no text encoder is called 'keras:some/model'"),
        ("transformers:", "text", "no text encoder is called 'transformers:'"),
        ("efficientnet-lite0:x", "image", "no image encoder is called 'efficientnet-lite0:x'"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_does(
    name: str, modality: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tower(name, modality)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("precision", "float64", "choose float32, bfloat16, float16, int8"),
        ("runtime", "onnx", "choose torch, openvino"),
        ("pooling", "max", "choose mean, cls, last"),
    ],
)
def test_an_option_that_means_nothing_is_answered_with_what_does(
    option: str, value: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{option} = '{value}' of e5-base: {message}"):
        tower(Choice("e5-base", **{option: value}), "text")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("transformers:models/e5", "transformers:{}/models/e5"),
        ("transformers:BAAI/bge-m3", "transformers:BAAI/bge-m3"),
        ("open_clip:tiny.json@models/b32.pt", "open_clip:{}/tiny.json@{}/models/b32.pt"),
        ("open_clip:ViT-B-32@models/b32.pt", "open_clip:ViT-B-32@{}/models/b32.pt"),
        ("open_clip:ViT-B-32@laion2b_s34b_b79k", "open_clip:ViT-B-32@laion2b_s34b_b79k"),
        ("minilm-l6", "minilm-l6"),
        ("models", "models"),
    ],
)
def test_a_path_leads_from_where_the_settings_are(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "models" / "e5").mkdir(parents=True)
    (tmp_path / "models" / "b32.pt").touch()
    (tmp_path / "tiny.json").touch()
    choice = rooted(Choice(name, windows=2), tmp_path)
    assert choice == Choice(found.format(tmp_path, tmp_path), windows=2)


@pytest.mark.parametrize(
    ("tower", "modality", "option"),
    [
        ("clip-b32", "image", {"prefix": "a photo of "}),
        ("clip-b32", "text", {"windows": 4}),
        ("dinov2-small", "image", {"pooling": "cls"}),
        ("smolvlm-256m", "multimodal", {"query_prefix": "query: "}),
        ("minilm-l6", "text", {"max_pixels": 4}),
    ],
)
def test_an_option_that_a_tower_does_not_take_is_refused(
    tower: str, modality: Modality, option: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="means nothing to"):
        described(Choice(tower, **option), modality)


@pytest.mark.parametrize("option", ["windows", "max_tokens"])
def test_numbers_are_at_least_one(option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        described(Choice("minilm-l6", **{option: 0}), "text")


def test_what_is_set_to_nothing_is_nothing() -> None:
    _, options = described(Choice("multilingual-e5-small", prefix=""), "text")
    assert options.prefix == ""
    assert options.query_prefix == "query: "
