"""Where text towers come from: a folder as transformers or sentence-transformers writes it.

What the folder's small files say is read here, without torch; the weights are read last.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from encoders.encoder import Encoder
from encoders.machine import Machine
from encoders.spec import Choice
from encoders.text import Reading, TextEncoder
from encoders.weights import Place, WeightsError, files_of, modules_of

POSITIONS_KEPT = ("roberta", "camembert", "mpnet")  # families whose positions start behind padding
_POOLINGS = {
    "cls_token": "cls",
    "cls": "cls",
    "mean_tokens": "mean",
    "mean": "mean",
    "lasttoken": "last",
}
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "word_embed_proj_dim")


@dataclass(frozen=True)
class TransformersText:
    """A transformer with pooling."""

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
        if self._dense:
            return int(self._json(f"{self._dense[-1]}/config.json")["out_features"])
        config = self._config
        return next(int(config[key]) for key in _WIDTHS if key in config)

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        reading = self.reading(query=False)
        return {
            "family": "transformers text 1",  # raise the number when text.py changes its numbers
            "files": files_of(self.folder),
            "pooling": self._pooling,
            "prefix": reading.prefix,
            "max_tokens": reading.max_tokens,
            "windows": reading.windows,
        }

    def reading(self, *, query: bool) -> Reading:
        """Return how it reads the texts of items, or of queries."""
        options, said = self.options, self._json("config_sentence_transformers.json")
        prompts: dict[str, str] = said.get("prompts", {})
        document = prompts.get("document") or prompts.get("passage") or ""
        prefix = document if options.prefix is None else options.prefix
        if query:
            said_query = prompts.get("query") or prefix
            prefix = said_query if options.query_prefix is None else options.query_prefix
        if options.max_tokens and options.max_tokens > self._positions:
            raise ValueError(
                f"max_tokens = {options.max_tokens} of {options.tower}: the model has "
                f"{self._positions} positions"
            )
        return Reading(
            max_tokens=options.max_tokens or self._longest,
            windows=options.windows or 1,
            prefix=prefix,
            pad_id=self._config.get("pad_token_id") or 0,
        )

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Read the weights and build the encoder."""
        tokenizer = self._tokenizer()
        files, dense = self.identity()["files"], self._dense

        def build() -> Any:
            from encoders.pooled import example, load_pooled  # torch and transformers: 5 s

            return load_pooled(self.folder, self._pooling, dense), example()

        network = self.machine.network(
            build,
            name=json.dumps(["text", files, self._pooling, dense], sort_keys=True),
            options=self.options,
        )
        return TextEncoder(
            network,
            tokenizer,
            self.reading(query=query),
            dim=self.dim,
            digest=digest,
            device=self.machine.device,
        )

    @property
    def _config(self) -> dict[str, Any]:
        config = self._json("config.json")
        if not config:
            raise WeightsError(f"{self.folder.name} holds no config.json, so no transformer")
        return config.get("text_config") or config

    @property
    def _positions(self) -> int:
        """The most tokens that the model can read."""
        config = self._config
        positions = int(config.get("max_position_embeddings", 512))
        kept = str(config.get("model_type", "")).endswith(POSITIONS_KEPT)
        return positions - 2 if kept else positions

    @property
    def _longest(self) -> int:
        """The most tokens that its files say it reads."""
        said = (
            self._json("sentence_bert_config.json").get("max_seq_length"),
            self._json("tokenizer_config.json").get("model_max_length"),
        )
        return int(min([self._positions, *(each for each in said if each)]))

    @property
    def _parts(self) -> list[tuple[str, str]]:
        """Kind and subfolder of the modules that sentence-transformers lists."""
        listed = modules_of(self.folder)
        parts = [(part["type"].rpartition(".")[2], part["path"]) for part in listed]
        unknown = {kind for kind, _ in parts} - {"Transformer", "Pooling", "Dense", "Normalize"}
        if unknown:
            raise WeightsError(
                f"{self.folder.name} has a module {unknown.pop()}, which is not read here"
            )
        return parts

    @property
    def _dense(self) -> list[str]:
        return [path for kind, path in self._parts if kind == "Dense"]

    @property
    def _pooling(self) -> str:
        if self.options.pooling:
            return self.options.pooling
        path = next((path for kind, path in self._parts if kind == "Pooling"), "1_Pooling")
        said = self._json(f"{path}/config.json")
        if not said:
            return "mean"
        modes = [key for key, value in said.items() if key.startswith("pooling_mode_") and value]
        names = [_POOLINGS.get(key.removeprefix("pooling_mode_")) for key in modes]
        if len(names) == 1 and names[0]:
            return names[0]
        if said.get("pooling_mode") in _POOLINGS:  # as it is written since sentence-transformers 6
            return _POOLINGS[said["pooling_mode"]]
        raise WeightsError(
            f"{self.folder.name} pools by {modes or said.get('pooling_mode')}: choose pooling = "
            "mean, cls or last"
        )

    def _tokenizer(self) -> Tokenizer:
        file = self.folder / "tokenizer.json"
        if file.is_file():
            return Tokenizer.from_file(str(file))
        from transformers import AutoTokenizer  # 3 s, and few models lack that file

        loaded: Any = AutoTokenizer.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        return loaded.backend_tokenizer

    def _json(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
