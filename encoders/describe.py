"""Descriptions of items, written by a multimodal language model that sees text and picture.

As a text feature beside what a catalogue says: MLLM-MSR (arXiv:2408.09698). Imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from encoders.encoder import Item, ItemError, Prepared
from encoders.prompt import Asked, Prompter

PROMPT = (
    "{image}{text}\nDescribe this item in one or two sentences for somebody who cannot see it: "
    "what it is, what it looks like, for whom and what it is for."
)
ROOM = {"cpu": 2048, "cuda": 16_384}  # padded tokens of prompts per forward


@dataclass(frozen=True, slots=True)
class Description:
    """What the model wrote, and the tokens that it read and wrote for that."""

    text: str
    read: int
    written: int


class Describer:
    """Maps items to descriptions: greedy decoding, so that the same item gets the same text."""

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        *,
        max_new_tokens: int,
        digest: str,
        device: str = "cpu",
    ) -> None:
        self.digest = digest
        self.device = device
        self.room = ROOM.get(device.partition(":")[0], ROOM["cpu"])
        self._model = model
        self._prompter = prompter
        self._max_new_tokens = max_new_tokens
        self._generating = Lock()  # some models keep their place in a text between steps

    def prepare(self, item: Item, /) -> Prepared:
        """Render the prompt and decode the picture, whichever there are."""
        return self._prompter.ask(item)

    def collate(self, contents: Sequence[Asked], /) -> Any:
        """Tokenise the prompts, padded on the left, where generation expects it."""
        return self._prompter.tensors(contents, padding_side="left")

    def forward(self, batch: Any, /) -> list[Description | ItemError]:
        """Generate the descriptions of a batch."""
        inputs = batch.to(self.device, self._model.dtype)
        prompt = inputs["input_ids"].shape[1]
        pad = self._prompter.processor.tokenizer.pad_token_id
        with torch.inference_mode(), self._generating:
            tokens = self._model.generate(
                **inputs,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )[:, prompt:]
        ended = tokens == pad
        read = inputs["attention_mask"].sum(1).tolist()
        written = (~ended).sum(1).tolist()
        texts = [" ".join(text.split()) for text in self._prompter.decode(tokens)]
        found = zip(texts, read, written, strict=True)
        return [Description(*each) if each[0] else NothingSaid() for each in found]


class NothingSaid(ItemError):
    """An item of which the model said nothing."""

    def __init__(self, why: str = "the model wrote an empty description") -> None:
        super().__init__(why)
