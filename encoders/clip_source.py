"""Where CLIP towers come from: open_clip's architectures, checkpoints and published weights.

What is known without building the model is told without importing it.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from encoders.clip import ClipJointEncoder, ClipTextEncoder
from encoders.encoder import Encoder
from encoders.framing import Framing
from encoders.image import ImageEncoder
from encoders.image_source import PREPARED
from encoders.machine import Machine
from encoders.network import Network
from encoders.published import published_file
from encoders.spec import Choice, Modality
from encoders.weights import (
    Hub,
    WeightsError,
    describing_files,
    package_folder,
    place,
    sha256,
    tensor_files,
)

CONFIG, TOKENIZER = "open_clip_config.json", "tokenizer.json"
PREFERRED = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")


@dataclass(frozen=True)
class OpenClip:
    """One half of an open_clip model, or both.

    source: a folder or hub repository with an open_clip_config.json; or MODEL@WEIGHTS, where MODEL
    is a name that open_clip knows or a path to a JSON configuration, and WEIGHTS a path to a
    checkpoint, beside which open_clip_config.json and tokenizer.json are read where they are, or
    the name of published weights.
    """

    source: str
    modality: Modality
    options: Choice
    machine: Machine

    @property
    def architecture(self) -> str:
        """The name or the path of the configuration; empty where a folder holds it."""
        return "" if self._folder else self.source.partition("@")[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The architecture's configuration."""
        if self._folder:
            return json.loads((self._folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
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

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return int(self.config["embed_dim"])

    @cached_property
    def checkpoint(self) -> Path:
        """The file that holds the weights."""
        if self._folder:
            files = {file.stem: file for file in tensor_files(self._folder)}
            return next((files[name] for name in PREFERRED if name in files), *files.values())
        weights = self.source.partition("@")[2]
        if not self.architecture or not weights:
            raise ValueError(
                f"open_clip:{self.source}: write open_clip:MODEL@CHECKPOINT, e.g. "
                "open_clip:ViT-B-32@b32.pt, or open_clip:FOLDER"
            )
        file = Path(weights).expanduser()
        if file.is_file():
            return file
        if file.suffix or len(file.parts) > 1:
            raise WeightsError(f"no checkpoint {weights}: the file does not exist")
        return published_file(
            self.architecture,
            weights,
            quick_gelu=self.config.get("quick_gelu", False),
            download=self.machine.download,
        )

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        beside = (self.checkpoint, self._beside(CONFIG))
        return {
            "family": "open_clip 2",  # raise the number when clip.py changes its numbers
            "open_clip": version("open_clip_torch"),
            "architecture": Path(self.architecture).name,
            "config": self.config,
            "files": [sha256(file) if file is not None else None for file in beside],
            "text half": self._text_files if self.modality != "image" else None,
            "prepared": PREPARED,
        }

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Read the weights and build the encoder of what is read: text, image or both."""
        self._settle_text_half()
        common: dict[str, Any] = {
            "dim": self.dim,
            "digest": digest,
            "device": self.machine.device,
        }
        if self.modality == "image":
            return ImageEncoder(self._image(), self._framing(), **common)
        if self.modality == "text":
            return ClipTextEncoder(self._text(), self._tokenizer(), **common)
        return ClipJointEncoder(
            self._text(), self._image(), self._tokenizer(), self._framing(), **common
        )

    def _text(self) -> Network:
        def build() -> Any:
            from encoders.clip_model import Features, token_example

            return Features(self._model, "text"), token_example(self.config["text_cfg"])

        return self._network("text", build)

    def _image(self) -> Network:
        framing = self._framing()

        def build() -> Any:
            from encoders.clip_model import Features
            from encoders.pixels import Pixels, example

            half = Features(self._model, "image")
            return Pixels(half, framing.mean, framing.std), example(framing.size)

        return self._network("image", build)

    def _network(self, half: str, build: Callable[[], Any]) -> Network:
        name = json.dumps([half, self.identity()], sort_keys=True)
        return self.machine.network(build, name=name, options=self.options)

    @cached_property
    def _model(self) -> Any:
        from encoders.clip_model import load_model  # torch, torchvision and open_clip: 7 s

        return load_model(self._built_config, self.checkpoint)

    @cached_property
    def _built_config(self) -> dict[str, Any]:
        """The configuration, changed to be built from on this machine."""
        return deepcopy(self.config)

    @cached_property
    def _folder(self) -> Path | None:
        """The folder that holds configuration and weights, if that is what was named."""
        if "@" in self.source and not self.source.startswith("hf-hub:"):
            return None
        folder = place(self.source).folder(download=self.machine.download)
        if not (folder / CONFIG).is_file():
            raise WeightsError(f"{folder.name} holds no {CONFIG}: write open_clip:MODEL@CHECKPOINT")
        return folder

    def _framing(self) -> Framing:
        from encoders.clip_model import framing_of

        preprocess = None
        if sidecar := self._beside(CONFIG):
            preprocess = json.loads(sidecar.read_text(encoding="utf-8")).get("preprocess_cfg")
        weights = self.source.partition("@")[2]
        tag = "" if self._folder or Path(weights).expanduser().is_file() else weights
        return framing_of(self.config, preprocess, self.architecture, tag)

    @cached_property
    def _text_files(self) -> list[dict[str, str]]:
        """Tokenizer and configuration of a text half that is not open_clip's own."""
        text = self.config["text_cfg"]
        folders = [self._tokenizer_folder]
        if repository := text.get("hf_model_name"):
            folders.append(Hub(repository).folder(download=self.machine.download))
        return [describing_files(folder) for folder in folders if folder]

    @cached_property
    def _tokenizer_folder(self) -> Path | None:
        """Where the tokenizer's files are; None for the one that open_clip brings."""
        repository = self.config["text_cfg"].get("hf_tokenizer_name")
        if not repository:
            return None
        if found := self._beside(TOKENIZER):
            return found.parent
        try:
            return Hub(repository).folder(download=self.machine.download)
        except WeightsError as error:
            raise WeightsError(
                f"{self.source} needs the tokenizer of {repository}: put its tokenizer.json and "
                f"tokenizer_config.json beside {self.checkpoint.name}; {error}"
            ) from error

    def _beside(self, name: str) -> Path | None:
        file = self.checkpoint.parent / name
        return file if file.is_file() else None

    def _settle_text_half(self) -> None:
        """Let a text half of transformers be built from a configuration on this machine."""
        text = self._built_config["text_cfg"]
        if repository := text.get("hf_model_name"):
            folder = Hub(repository).folder(download=self.machine.download)
            text["hf_model_name"] = str(folder)

    def _tokenizer(self) -> Any:
        from encoders.clip_model import ClipTokenizer

        return ClipTokenizer(self.config["text_cfg"], self._tokenizer_folder)
