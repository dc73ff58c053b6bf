"""Loaded encoders: the default towers, and both halves of a small real open_clip model."""

import json
from pathlib import Path

import pytest
import torch

from encoders.encoder import Encoder
from encoders.registry import tower
from encoders.vision_ops import ensure_torchvision

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration and the checkpoints of a small real open_clip model."""
    ensure_torchvision()
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    torch.manual_seed(3)
    weights = open_clip.CLIP(**TINY).state_dict()
    save_file(weights, folder / "tiny.safetensors")
    torch.save({"epoch": 1, "state_dict": weights}, folder / "tiny.pt")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    return tower("minilm-l6", "text").load()


@pytest.fixture(scope="session")
def efficientnet() -> Encoder:
    return tower("efficientnet-lite0", "image").load()


@pytest.fixture(scope="session")
def clip_text(tiny_clip: Path) -> Encoder:
    return tower(f"open_clip:{tiny_clip}/tiny.json@{tiny_clip}/tiny.safetensors", "text").load()


@pytest.fixture(scope="session")
def clip_image(tiny_clip: Path) -> Encoder:
    return tower(f"open_clip:{tiny_clip}/tiny.json@{tiny_clip}/tiny.pt", "image").load()


@pytest.fixture(params=["minilm", "efficientnet", "clip_text", "clip_image"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each encoder in turn."""
    return request.getfixturevalue(request.param)
