"""Text towers: a transformer whose token outputs are pooled into one vector.

Texts longer than the model reads are cut into windows, whose vectors are averaged by their tokens;
what is beyond the last window is counted. Knows no item id, no network and no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from encoders.encoder import Item, ItemError, Prepared, Vectors, text_of, unit_rows
from encoders.network import Network

ROOM = {"cpu": 512, "cuda": 65_536}  # padded tokens per forward; more made none faster on a CPU
OVERLAP = 16  # tokens that a window shares with the one before

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts become tokens.

    prefix: what the model was trained to see before a text. max_tokens: of one window, special
    ones and prefix included. windows: how many of a text are read.
    """

    max_tokens: int
    windows: int = 1
    prefix: str = ""
    pad_id: int = 0


class TextEncoder:
    """Maps texts to features, by a network from ids and mask, int64 [n, t], to [n, dim]."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        reading: Reading,
        *,
        dim: int,
        digest: str,
        device: str = "cpu",
    ) -> None:
        self.dim = dim
        self.digest = digest
        self.device = device
        self.room = ROOM.get(device.partition(":")[0], ROOM["cpu"])
        self._network = network
        self._reading = reading
        self._tokenizer = plain(tokenizer)
        taken = len(self._tokenizer.encode(reading.prefix).ids)
        length = reading.max_tokens - taken
        if length <= 2 * OVERLAP:
            raise ValueError(
                f"max_tokens = {reading.max_tokens} leaves {length} beside the prefix of {taken}: "
                f"give at least {taken + 2 * OVERLAP + 1}"
            )
        self._tokenizer.enable_truncation(reading.max_tokens)

    def prepare(self, item: Item, /) -> Prepared:
        """Tokenise a text, in as many windows as it takes and as are read."""
        windows, cut = self._windows(text_of(item))
        size = max(map(len, windows))
        if not size:
            raise ItemError("the tokenizer makes no token of this text")
        return Prepared(windows, size=size, rows=len(windows), cut=cut)

    def _windows(self, text: str) -> tuple[list[list[int]], int]:
        """Return the ids of the windows that are read, and how many tokens are not.

        Each is what the model's tokenizer makes of the prefix and the text from somewhere on, cut.
        """
        prefix, windows, start = self._reading.prefix, [], 0
        while True:
            found = self._tokenizer.encode(prefix + text[start:])
            windows.append(found.ids)
            rest = sum(part.special_tokens_mask.count(0) for part in found.overflowing)
            if not rest or len(windows) == self._reading.windows:
                return windows, rest
            own = [at for at, special in enumerate(found.special_tokens_mask) if not special]
            ahead = found.offsets[own[-OVERLAP]][0] - len(prefix)
            start += max(ahead, 1)

    def collate(self, contents: Sequence[list[list[int]]], /) -> tuple[Tokens, Tokens, list[int]]:
        """Pad all windows of all texts to one length; also say how many each text has."""
        windows = [window for text in contents for window in text]
        ids = np.full((len(windows), max(map(len, windows))), self._reading.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
            mask[row, : len(window)] = 1
        return ids, mask, [len(text) for text in contents]

    def forward(self, batch: tuple[Tokens, Tokens, list[int]], /) -> list[Vectors | ItemError]:
        """Run the network; a text's vector is the mean of its windows', weighted by tokens."""
        ids, mask, counts = batch
        features = self._network(ids, mask)
        if len(features) > len(counts):
            features = _averaged(features, mask.sum(axis=1), counts)
        return unit_rows(features)


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither pads nor truncates, whatever its file says."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _averaged(features: NDArray[Any], tokens: Tokens, counts: list[int]) -> NDArray[Any]:
    """Return the mean of each text's unit window vectors; texts of one window stay as they are."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    weighted = features / np.maximum(lengths, 1e-30) * tokens[:, None]
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(weighted, starts, axis=0)
    single = np.asarray(counts) == 1
    sums[single] = features[starts[single]]
    return sums
