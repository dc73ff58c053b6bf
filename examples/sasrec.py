"""SASRec (Kang and McAuley, 2018) on a store's item vectors: frozen vectors, a linear adapter.

    python examples/sasrec.py data/demo/store

It trains on all but the last event of every user and prints the recall of that last one, as JSON
lines. The view is "aligned": "fused" and "collaborative" hold the whole log, and a recall measured
with them would count what they have already seen. To serve, train on the whole log with "fused".
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from store import ItemMatrix, ItemStore

LENGTH = 50  # events of a history that are read
BATCH = 256  # users
LOG = """
    SELECT user_id, item_id FROM interactions WHERE item_id IN (SELECT item_id FROM item_vectors)
    ORDER BY user_id, timestamp, item_id
"""
History = NDArray[np.int64]  # rows of the matrix, oldest first
Loss = Callable[[Tensor, Tensor], Tensor]  # of histories, and of what followed each event
After = Callable[[Tensor, Tensor], Tensor]  # scores of all items, by histories and their last place


class SASRec(nn.Module):
    """Item vectors through an adapter, then causal self-attention over the history."""

    def __init__(self, vectors: Tensor, width: int = 64, heads: int = 2, blocks: int = 2) -> None:
        super().__init__()
        self.items = nn.Embedding.from_pretrained(vectors, freeze=True, padding_idx=0)
        self.adapter = nn.Linear(vectors.shape[1], width)
        self.places = nn.Embedding(LENGTH, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.2, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        """Return what follows each event, [b, t, width], of histories [b, t] padded on the right.

        Padding comes after the events, where a causal mask hides it from them.
        """
        places = torch.arange(rows.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(rows.shape[1])
        events = self.adapter(self.items(rows)) + self.places(places)
        return self.norm(self.blocks(events, mask=mask, is_causal=True))

    def scores(self, states: Tensor) -> Tensor:
        """Return [..., n + 1]: how well every item, padding too, follows the states."""
        return states @ self.adapter(self.items.weight).T

    def loss(self, heard: Tensor, said: Tensor) -> Tensor:
        """Cross-entropy of what followed, [b, t], by the histories up to it; 0 is padding."""
        there = said > 0
        return cross_entropy(self.scores(self(heard)[there]), said[there])

    def after(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Return [b, n + 1]: how well every item follows event ends[b] of histories [b, t]."""
        return self.eval().scores(self(rows)[torch.arange(len(rows)), ends])


def histories(store: ItemStore, matrix: ItemMatrix) -> list[History]:
    """Return the events of every user who has at least three."""
    log = store.sql(LOG, max_rows=10_000_000)
    rows = matrix.index_of(log["item_id"])
    users = log["user_id"].to_numpy()
    starts = np.flatnonzero(users[1:] != users[:-1]) + 1
    bounds = [0, *starts.tolist(), len(rows)]
    return [rows[start:end] for start, end in pairwise(bounds) if end - start >= 3]


def padded(parts: list[History]) -> Tensor:
    """Return the last LENGTH events of each, int64 [b, t], zeros after them."""
    parts = [part[-LENGTH:] for part in parts]
    rows = np.zeros((len(parts), max(map(len, parts))), np.int64)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(rows)


def train(model: nn.Module, loss_of: Loss, past: list[History], epochs: int) -> None:
    """Predict every event of the past from those before it, by the loss of a model."""
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=2e-3)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(past)).split(BATCH):
            rows = padded([past[user] for user in chosen.tolist()])
            loss = loss_of(rows[:, :-1], rows[:, 1:])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def recall(after: After | None, past: list[History], last: list[int], items: int) -> float:
    """Return how often the last event is among the 20 best items that the user has not had.

    None ranks by popularity.
    """
    popular = torch.bincount(torch.from_numpy(np.concatenate(past)), minlength=items).float()
    hits = 0
    for start in range(0, len(past), BATCH):
        part = past[start : start + BATCH]
        scores = popular.expand(len(part), items).clone()
        if after is not None:
            ends = torch.tensor([min(len(rows), LENGTH) - 1 for rows in part])
            scores = after(padded(part), ends)
        for row, rows in zip(scores, part, strict=True):
            row[rows] = -torch.inf
        scores[:, 0] = -torch.inf
        best = scores.topk(min(20, items)).indices
        hits += int((best == torch.tensor(last[start : start + BATCH])[:, None]).any(1).sum())
    return hits / len(past)


def main() -> None:
    """Train on the store that the command line names, and print what comes out."""
    arguments = argparse.ArgumentParser(description="SASRec on the item vectors of a store")
    arguments.add_argument("store", help="folder or address")
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--view", default="aligned")
    arguments.add_argument("--epochs", type=int, default=15)
    asked = arguments.parse_args()
    torch.manual_seed(0)

    store = ItemStore.open(asked.store)
    matrix = store.item_matrix(dim=asked.dim, view=asked.view, pad_row=True)
    model = SASRec(torch.from_numpy(matrix.vectors))

    users = histories(store, matrix)
    past, last = [rows[:-1] for rows in users], [int(rows[-1]) for rows in users]
    told = {"release": matrix.release, "users": len(users), "items": len(matrix.rows)}
    floor = recall(None, past, last, len(matrix.ids))
    print(json.dumps({"model": "popularity", "recall@20": round(floor, 4), **told}))
    started = monotonic()
    train(model, model.loss, past, asked.epochs)
    found = recall(model.after, past, last, len(matrix.ids))
    told |= {"view": asked.view, "dim": asked.dim, "seconds": round(monotonic() - started, 1)}
    print(json.dumps({"model": "sasrec", "recall@20": round(found, 4), **told}))


if __name__ == "__main__":
    main()
