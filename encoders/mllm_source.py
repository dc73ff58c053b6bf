"""Where multimodal language models come from: a folder as transformers writes it.

What the folder's small files say is read here, without torch; the weights are read last.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders import images
from encoders.encoder import Encoder
from encoders.machine import Machine
from encoders.prompt import MAX_PIXELS, MAX_TOKENS, Prompter
from encoders.spec import Choice
from encoders.weights import Place, WeightsError, files_of

if TYPE_CHECKING:
    from encoders.describe import Describer


@dataclass(frozen=True)
class MultimodalModel:
    """A model that transformers' AutoModelForImageTextToText reads, and its processor."""

    place: Place
    options: Choice
    machine: Machine

    @cached_property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.place.folder(download=self.machine.download)

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        file = self.folder / "config.json"
        if not file.is_file():
            raise WeightsError(f"{self.folder.name} holds no config.json, so no transformer")
        config = json.loads(file.read_text(encoding="utf-8"))
        said = (config.get("text_config") or config).get("hidden_size")
        return int(said or self._default_width)

    @cached_property
    def _default_width(self) -> int:
        """What the configuration's class has where the file is silent, as LLaVA's is."""
        from transformers import AutoConfig  # 1 s

        config: Any = AutoConfig.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        return config.get_text_config().hidden_size

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        return {
            "family": "multimodal 1",  # raise the number when prompt.py or mllm.py change them
            "files": files_of(self.folder),
            "prompt": self.options.prompt,
            "item_token": self.options.item_token,
            "max_tokens": self.options.max_tokens or MAX_TOKENS,
            "max_pixels": self.options.max_pixels or MAX_PIXELS,
            "images": images.VERSION,
        }

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Read the weights and build the encoder."""
        from encoders.mllm import PROMPT, MultimodalEncoder  # torch: 1.6 s

        model, processor = self._loaded()
        prompter = self._prompter(processor, PROMPT, suffix=self._item_token(processor))
        device = self.machine.device
        return MultimodalEncoder(model, prompter, dim=self.dim, digest=digest, device=device)

    def load_describer(self, digest: str, *, max_new_tokens: int) -> "Describer":
        """Read the weights and build what writes descriptions."""
        from encoders.describe import PROMPT, Describer  # torch: 1.6 s

        model, processor = self._loaded()
        prompter = self._prompter(processor, PROMPT)
        return Describer(
            model,
            prompter,
            max_new_tokens=max_new_tokens,
            digest=digest,
            device=self.machine.device,
        )

    def _prompter(self, processor: Any, prompt: str, *, suffix: str = "") -> Prompter:
        return Prompter(
            processor,
            self.options.prompt or prompt,
            suffix=suffix,
            max_tokens=self.options.max_tokens or MAX_TOKENS,
            max_pixels=self.options.max_pixels or MAX_PIXELS,
        )

    def _item_token(self, processor: Any) -> str:
        token = self.options.item_token or ""
        if token and token not in processor.tokenizer.get_vocab():
            raise WeightsError(
                f"{self.folder.name} has no token {token!r}: item_token names a token that the "
                "model was trained to end an item with; without it the last token is read"
            )
        return token

    def _loaded(self) -> tuple[Any, Any]:
        from encoders.mllm_model import load_model  # torch and transformers: 5 s

        return load_model(self.folder, self.options.precision or "float32", self.machine.device)
