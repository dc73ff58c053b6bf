"""Text towers: a BERT with mean pooling, from a folder of safetensors and a tokenizer file.

Knows no item id and no network: everything is read from the folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from encoders.encoder import Item, Vectors, prepare_rows, text_of, unit_rows
from encoders.vision_ops import ensure_torchvision

_PADDED_TOKENS = 512  # per run of the model: few tokens are padding then
_UNUSED = ("pooler.", "embeddings.position_ids")  # stored, but no part of a mean of tokens


class TextEncoder:
    """Mean of a transformer's token outputs."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, dim: int, digest: str) -> None:
        self.dim = dim
        self.digest = digest
        self._model = model.eval()
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, *, max_tokens: int, digest: str) -> Self:
        """Load config.json, model.safetensors and tokenizer.json from a folder."""
        ensure_torchvision()
        from transformers import BertConfig, BertModel  # they import torchvision where they can

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(max_tokens)
        tokenizer.no_padding()
        config = BertConfig.from_json_file(folder / "config.json")
        model = BertModel(config, add_pooling_layer=False)
        stored = load_file(folder / "model.safetensors")
        model.load_state_dict({k: t for k, t in stored.items() if not k.startswith(_UNUSED)})
        return cls(model, tokenizer, dim=model.config.hidden_size, digest=digest)

    def encode(self, items: Sequence[Item], /) -> Vectors:
        """Return float32 [len(items), dim]; row i is items[i]; every row has norm 1."""
        texts = prepare_rows(self._tokens, items)
        pooled = np.empty((len(items), self.dim), np.float32)
        with torch.inference_mode():
            for rows in _by_length(texts):
                pooled[rows] = self._pool([texts[row] for row in rows]).numpy()
        return unit_rows(pooled)

    def _tokens(self, item: Item) -> list[int]:
        return self._tokenizer.encode(text_of(item)).ids

    def _pool(self, texts: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def _by_length(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Yield rows, shortest texts first, in groups of at most _PADDED_TOKENS padded tokens."""
    group: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        if group and (len(group) + 1) * len(texts[row]) > _PADDED_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
