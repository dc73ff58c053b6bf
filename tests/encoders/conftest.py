"""Loaded encoders: the default towers, and a small real model of every kind, saved and loaded.

Converted networks and hub snapshots of this run are in folders of its own, and no test in this
folder opens a connection.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from encoders.encoder import Encoder
from encoders.registry import Tower, tower
from encoders.spec import Choice, Modality
from tests.encoders import tiny_mllm, tiny_text, tiny_vision

CLIP = partial(tiny_vision.save_clip, tiny_vision.CLIP)
TORCH = {"runtime": "torch", "precision": "float32"}


@dataclass(frozen=True)
class Kind:
    """A tower of the contract: what it reads, and how its files come about.

    save: writes them into a folder and returns what follows `family`; none for the default towers.
    """

    modality: Modality
    family: str
    save: Callable[[Path], Path | str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _clip(save: Callable[[Path], Path], folder: Path) -> str:
    saved = save(folder)
    return f"{saved}/tiny.json@{saved}/tiny.safetensors"


def _checkpoint(folder: Path) -> str:
    saved = tiny_vision.save_timm("test_vit", {}, folder)
    return f"test_vit@{saved}/model.safetensors"


KINDS: dict[str, Kind] = {
    "minilm": Kind("text", "minilm-l6"),
    "minilm_torch": Kind("text", "minilm-l6", options=TORCH),
    "efficientnet": Kind("image", "efficientnet-lite0"),
    "efficientnet_torch": Kind("image", "efficientnet-lite0", options=TORCH),
    **{name: Kind("text", "transformers", save) for name, save in tiny_text.KINDS.items()},
    "bert_openvino": Kind(
        "text", "transformers", tiny_text.save_bert, {"runtime": "openvino", "prefix": "item: "}
    ),
    "bert_windows": Kind(
        "text", "transformers", tiny_text.save_bert, {"windows": 3, "max_tokens": 64}
    ),
    "timm_vit": Kind(
        "image", "timm", partial(tiny_vision.save_timm, "vit_tiny_patch16_224", tiny_vision.VIT)
    ),
    "timm_convnext": Kind(
        "image", "timm", partial(tiny_vision.save_timm, "convnext_atto", tiny_vision.CONVNEXT)
    ),
    "timm_mobilenet": Kind(
        "image", "timm", partial(tiny_vision.save_timm, "mobilenetv4_conv_small_035", {})
    ),
    "timm_checkpoint": Kind("image", "timm", _checkpoint),
    **{
        f"{name}_{modality}": Kind(modality, "open_clip", save)
        for name, save in (
            ("clip", partial(_clip, CLIP)),
            ("coca", partial(_clip, partial(tiny_vision.save_clip, tiny_vision.COCA))),
            ("siglip", tiny_vision.save_siglip),
        )
        for modality in ("text", "image", "multimodal")
    },
    "clip_openvino": Kind("multimodal", "open_clip", partial(_clip, CLIP), {"runtime": "openvino"}),
    "clip_xlm_roberta": Kind("multimodal", "open_clip", partial(_clip, tiny_vision.save_hf_clip)),
    **{
        name: Kind("multimodal", "transformers", partial(tiny_mllm.save_tiny, name))
        for name in tiny_mllm.FAMILIES
    },
    "item_token": Kind(
        "multimodal",
        "transformers",
        partial(tiny_mllm.save_tiny, "qwen2_5_vl", item_token=True),
        {"item_token": tiny_mllm.ITEM_TOKEN},
    ),
}
READING = {
    modality: [name for name, kind in KINDS.items() if kind.modality in (modality, "multimodal")]
    for modality in ("text", "image")
}


def folder_of(known: Tower) -> Path:
    """The folder that a tower of FAMILY:FOLDER is read from."""
    return Path(known.choice.tower.partition(":")[2])


@pytest.fixture(scope="session", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The hub's cache, empty at first. Caches are this run's own, and connections are refused."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("hub")
    sys.addaudithook(_refuse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder))
        yield folder


_tried: list[str] = []  # connections that somebody tried to open


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what leaves this machine; the store's own tests talk to servers on it.

    Those of assets ask for it by other names too, and may come after these in one process.
    """
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    if os.environ.get("PYTEST_CURRENT_TEST", "").startswith("tests/assets/"):
        return
    host = arguments[1] if event == "socket.connect" else arguments
    if isinstance(host, tuple) and host[0] not in ("127.0.0.1", "::1", "localhost", None):
        _tried.append(f"{event} {host}")
        raise ConnectionRefusedError(_tried[-1])


@pytest.fixture(autouse=True)
def no_connection() -> Iterator[None]:
    """Fail a test during which somebody tried to open a connection."""
    yield
    tried = _tried.copy()
    _tried.clear()
    assert not tried


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tower]:
    """The tower of a kind; its files are made when it is first asked for."""

    @cache
    def tower_of(name: str) -> Tower:
        kind = KINDS[name]
        source = f":{kind.save(tmp_path_factory.mktemp(name))}" if kind.save else ""
        return tower(Choice(kind.family + source, **kind.options), kind.modality)

    return tower_of


@pytest.fixture(scope="session")
def loaded(named: Callable[[str], Tower]) -> Callable[[str], Encoder]:
    """The encoder of a kind, loaded when it is first asked for."""
    return cache(lambda name: named(name).load())


@pytest.fixture(scope="session", params=KINDS)
def encoder(request: pytest.FixtureRequest, loaded: Callable[[str], Encoder]) -> Encoder:
    """Each encoder in turn."""
    return loaded(request.param)


@pytest.fixture(scope="session", params=READING["text"])
def reader(request: pytest.FixtureRequest, loaded: Callable[[str], Encoder]) -> Encoder:
    """Each encoder that reads texts."""
    return loaded(request.param)


@pytest.fixture(scope="session", params=READING["image"])
def viewer(request: pytest.FixtureRequest, loaded: Callable[[str], Encoder]) -> Encoder:
    """Each encoder that looks at pictures."""
    return loaded(request.param)


@pytest.fixture(scope="session", params=[n for n, k in KINDS.items() if k.modality == "multimodal"])
def joint(request: pytest.FixtureRequest, loaded: Callable[[str], Encoder]) -> Encoder:
    """Each encoder that reads texts and looks at pictures."""
    return loaded(request.param)


@pytest.fixture(scope="session")
def minilm(loaded: Callable[[str], Encoder]) -> Encoder:
    return loaded("minilm")


@pytest.fixture(scope="session")
def efficientnet(loaded: Callable[[str], Encoder]) -> Encoder:
    return loaded("efficientnet")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration and the checkpoints of a small real open_clip model."""
    return tiny_vision.save_clip(tiny_vision.CLIP, tmp_path_factory.mktemp("tiny"))
