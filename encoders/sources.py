"""Where a tower's numbers come from: which files, and with what they are read.

Imports no model library: what identifies a source is known without building its model.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from encoders import images
from encoders.encoder import Encoder
from encoders.images import Framing
from encoders.weights import Package, WeightsError, package_folder, sha256

Modality = Literal["text", "image"]


class Source(Protocol):
    """Where a tower's numbers come from."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        ...

    def load(self, digest: str) -> Encoder:
        """Check the weights and build the model."""
        ...


@dataclass(frozen=True, slots=True)
class MiniLM:
    """A sentence-transformers BERT in a package."""

    package: Package
    max_tokens: int

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "bert mean pooling 1",  # raise the number when text.py changes its numbers
            "files": [digest for _, digest in self.package.files],
            "max_tokens": self.max_tokens,
        }

    def load(self, digest: str) -> Encoder:
        """Check the weights and build the model."""
        from encoders.text import TextEncoder  # torch and transformers: 5 s

        folder = self.package.folder() / "model"
        return TextEncoder.load(folder, max_tokens=self.max_tokens, digest=digest)


@dataclass(frozen=True, slots=True)
class EfficientNetLite0:
    """EfficientNet-Lite0's pooled features from weights in a package."""

    package: Package
    framing: Framing

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "pooled features 1",  # raise the number when image.py changes its numbers
            "files": [digest for _, digest in self.package.files],
            "framing": asdict(self.framing),
            "images": images.VERSION,
        }

    def load(self, digest: str) -> Encoder:
        """Check the weights and build the model."""
        from encoders.image import load_image_encoder  # torch, torchvision and timm: 5 s

        weights = self.package.folder() / self.package.files[0][0]
        return load_image_encoder(weights, self.framing, digest=digest)


@dataclass(frozen=True)
class OpenClip:
    """One tower of an open_clip model.

    architecture: a name that open_clip knows, or a path to a JSON configuration. weights: a path
    to a checkpoint, beside which open_clip_config.json and tokenizer.json are read where they are;
    or the name of published weights, taken from the local cache or, if allowed, downloaded.
    """

    architecture: str
    weights: str
    modality: Modality
    allow_download: bool

    @cached_property
    def config(self) -> dict[str, Any]:
        """The architecture's configuration."""
        if self.architecture.endswith(".json"):
            file = Path(self.architecture).expanduser()
        else:
            root = package_folder("open_clip")
            if root is None:
                raise WeightsError("open_clip is not installed: pip install 'itemnest[encoders]'")
            file = root / "model_configs" / f"{self.architecture}.json"
        if not file.is_file():
            raise ValueError(
                f"no open_clip architecture {self.architecture!r}: name one of "
                "open_clip.list_models(), or the path of a JSON configuration"
            )
        found = json.loads(file.read_text(encoding="utf-8"))
        return found.get("model_cfg", found)

    @cached_property
    def checkpoint(self) -> Path:
        """The file that holds the weights."""
        file = Path(self.weights).expanduser()
        if file.is_file():
            return file
        if file.suffix or len(file.parts) > 1:
            raise WeightsError(f"no checkpoint {self.weights}: the file does not exist")
        from encoders.published import published_file  # open_clip: 5 s

        return published_file(
            self.architecture,
            self.weights,
            quick_gelu=self.config.get("quick_gelu", False),
            download=self.allow_download,
        )

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "open_clip 1",  # raise the number when clip.py changes its numbers
            "open_clip": version("open_clip_torch"),
            "architecture": Path(self.architecture).name,
            "config": self.config,
            "files": [
                sha256(file) if file is not None else None
                for file in (
                    self.checkpoint,
                    self._beside("open_clip_config.json"),
                    self._beside("tokenizer.json"),
                )
            ],
            "images": images.VERSION,
        }

    def load(self, digest: str) -> Encoder:
        """Check the weights and build the model."""
        from encoders import clip  # torch, torchvision and open_clip: 7 s

        hub = self.config["text_cfg"].get("hf_model_name")
        if hub and not self.allow_download:
            raise WeightsError(
                f"{self.architecture} builds its text half from {hub}'s published configuration: "
                "pass allow_download=True, or take another architecture"
            )
        if self.modality == "text":
            tokenizer = self._tokenizer()
            return clip.ClipTextEncoder.load(
                self.config, self.checkpoint, digest=digest, tokenizer=tokenizer
            )
        return clip.load_image_encoder(self.config, self.checkpoint, self._framing(), digest=digest)

    def _framing(self) -> Framing:
        from encoders.clip import framing_of

        preprocess = None
        if sidecar := self._beside("open_clip_config.json"):
            preprocess = json.loads(sidecar.read_text(encoding="utf-8")).get("preprocess_cfg")
        tag = "" if Path(self.weights).expanduser().is_file() else self.weights
        return framing_of(self.config, preprocess, self.architecture, tag)

    def _beside(self, name: str) -> Path | None:
        file = self.checkpoint.parent / name
        return file if file.is_file() else None

    def _tokenizer(self) -> Path | str | None:
        text = self.config["text_cfg"]
        name = text.get("hf_tokenizer_name")
        if not name:
            return None
        if found := self._beside("tokenizer.json"):
            return found.parent
        if self.allow_download:
            return str(name)
        raise WeightsError(
            f"{self.architecture} needs the tokenizer {name}: put its tokenizer.json and "
            f"tokenizer_config.json beside {self.checkpoint.name}, or pass allow_download=True"
        )


@dataclass(frozen=True, slots=True)
class Nothing:
    """The source of a modality that is switched off."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {"family": "none"}

    def load(self, digest: str) -> Encoder:
        """Refuse: a caller looks at the tower's `dim` first."""
        raise ValueError('the encoder is set to "none": name one to encode with')
