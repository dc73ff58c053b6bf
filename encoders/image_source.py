"""Where image towers come from: timm's folders and checkpoints, and the one that a package brings.

What is known without building the network is told without importing it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from encoders import framing, images
from encoders.encoder import Encoder
from encoders.framing import Framing
from encoders.image import ImageEncoder
from encoders.machine import Machine
from encoders.spec import Choice
from encoders.weights import Package, Place, WeightsError, files_of, sha256

PREPARED = {"images": images.VERSION, "framing": framing.VERSION}
LITE0 = Framing.keeping(224 / 256, 224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True)
class EfficientNetLite0:
    """EfficientNet-Lite0's pooled features from weights in a package."""

    package: Package
    options: Choice
    machine: Machine
    dim: int = 1280
    framing: Framing = LITE0

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "pooled features 2",  # raise the number when image.py changes its numbers
            "files": [digest for _, digest in self.package.files],
            "framing": asdict(self.framing),
            "prepared": PREPARED,
        }

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Check the weights and build the encoder."""
        weights = self.package.folder() / self.package.files[0][0]

        def network() -> Any:
            from encoders.pixels import efficientnet_lite0  # torch, torchvision and timm: 5 s

            return efficientnet_lite0(weights)

        return _encoder(self, network, self.identity()["files"], self.framing, digest)


@dataclass(frozen=True)
class Timm:
    """A backbone of timm, from a folder or as ARCHITECTURE@CHECKPOINT, with its own data config.

    said_dim: the length of its vectors, where that is known beforehand.
    """

    place: Place | None
    architecture: str
    checkpoint: str
    options: Choice
    machine: Machine
    said_dim: int = 0

    @cached_property
    def folder(self) -> Path | None:
        """The folder of its files, unless it is an architecture and a checkpoint."""
        return self.place.folder(download=self.machine.download) if self.place else None

    @cached_property
    def file(self) -> Path | None:
        """The checkpoint, unless it is a folder."""
        if self.place:
            return None
        file = Path(self.checkpoint).expanduser()
        if not file.is_file():
            raise WeightsError(f"no checkpoint {self.checkpoint}: the file does not exist")
        return file

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return self.said_dim or self._found_dim

    @cached_property
    def _found_dim(self) -> int:
        from encoders.pixels import timm_dim  # torch, torchvision and timm: 5 s

        return timm_dim(self._name)

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "timm 1",  # raise the number when image.py changes its numbers
            "architecture": self.architecture,
            "files": files_of(self.folder) if self.folder else sha256(self.file or Path()),
            # a checkpoint alone does not say how its pictures are framed: timm does
            "timm": None if self.folder else version("timm"),
            "prepared": PREPARED,
        }

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Read the weights and build the encoder."""
        model, framing = self._built
        name = [self.architecture, self.identity()["files"]]
        return _encoder(self, lambda: model, name, framing, digest)

    @cached_property
    def _built(self) -> tuple[Any, Framing]:
        from encoders.pixels import timm_model  # torch, torchvision and timm: 5 s

        return timm_model(self._name, self.file)

    @property
    def _name(self) -> str:
        return f"local-dir:{self.folder}" if self.folder else self.architecture


def _encoder(
    source: EfficientNetLite0 | Timm,
    network: Callable[[], Any],
    name: Any,
    framing: Framing,
    digest: str,
) -> Encoder:
    def build() -> Any:
        from encoders.pixels import Pixels, example

        return Pixels(network(), framing.mean, framing.std), example(framing.size)

    runs = source.machine.network(
        build,
        name=json.dumps(["image", name, asdict(framing)], sort_keys=True),
        options=source.options,
    )
    import torch  # noqa: F401  1.6 s: pictures are scaled by it, and its threads are set by `feed`

    device = source.machine.device
    return ImageEncoder(runs, framing, dim=source.dim, digest=digest, device=device)
