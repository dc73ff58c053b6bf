"""Multimodal language models as towers: an item's text and picture in one prompt, one vector out.

The vector is the last layer's state of the prompt's last token, or of a token of its own that ends
the prompt. Imports torch.
"""

from collections.abc import Sequence
from typing import Any

import torch

from encoders.encoder import Item, ItemError, Prepared, Vectors, unit_rows
from encoders.prompt import Asked, Prompter

# What the prompt should say in one word is what its last token stands for: PromptEOL
# (arXiv:2307.16645), for pictures too in E5-V (arXiv:2407.12580).
PROMPT = "{image}{text}\nSummarise the item above in one word:"
ROOM = {"cpu": 1, "cuda": 16_384}  # padded tokens per forward; on a CPU every item has its own


class MultimodalEncoder:
    """Maps items to states of a transformers model that reads images and texts."""

    def __init__(
        self, model: Any, prompter: Prompter, *, dim: int, digest: str, device: str = "cpu"
    ) -> None:
        self.dim = dim
        self.digest = digest
        self.device = device
        self.room = ROOM.get(device.partition(":")[0], ROOM["cpu"])
        self._model = model
        self._prompter = prompter

    def prepare(self, item: Item, /) -> Prepared:
        """Render the prompt and decode the picture, whichever there are."""
        return self._prompter.ask(item)

    def collate(self, contents: Sequence[Asked], /) -> Any:
        """Tokenise the prompts and cut the pictures into patches, padded on the right."""
        return self._prompter.tensors(contents, padding_side="right")

    def forward(self, batch: Any, /) -> list[Vectors | ItemError]:
        """Run the model without its head; take each prompt's last token."""
        with torch.inference_mode():
            inputs = batch.to(self.device, self._model.dtype)  # floats alone change their type
            hidden = self._model.model(**inputs, use_cache=False).last_hidden_state
            last = inputs["attention_mask"].sum(1) - 1
            states = hidden[torch.arange(len(hidden), device=hidden.device), last]
            return unit_rows(states.float().cpu().numpy())
