"""Post-alignment of users, as in Molar (Luo et al., 2024): two recommenders of the same users.

    python examples/post_alignment.py data/demo/store

One SASRec reads the store's vectors, another learns a vector per item by itself, and a contrastive
loss brings both readings of a user together. The store gives the first of them, the second belongs
to whoever trains. It prints the recall of every user's last event by each alone, by the sum of
both, and by the sum of both aligned, as JSON lines.
"""

import argparse
import json
from time import monotonic

import torch
from sasrec import SASRec, histories, recall, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from store import ItemStore

TEMPERATURE = 0.1


class Both(nn.Module):
    """Two recommenders of the same items, side by side: [..., 2 * width], scores are added up.

    alpha: how much it weighs in training that their readings of a user find each other.
    """

    def __init__(self, reader: SASRec, ids: SASRec, alpha: float) -> None:
        super().__init__()
        self.reader, self.ids, self.alpha = reader, ids, alpha

    def forward(self, rows: Tensor) -> Tensor:
        """Return what follows each event of histories [b, t], by both."""
        return torch.cat([self.reader(rows), self.ids(rows)], dim=-1)

    def scores(self, states: Tensor) -> Tensor:
        """Return [..., n + 1]: how well every item follows the states."""
        read, own = states.chunk(2, dim=-1)
        return self.reader.scores(read) + self.ids.scores(own)

    def loss(self, heard: Tensor, said: Tensor) -> Tensor:
        """Cross-entropy of what followed, [b, t], by each alone, and how far users are apart."""
        there = said > 0
        read, own = self.reader(heard), self.ids(heard)
        ends = torch.arange(len(said)), there.sum(dim=1) - 1
        return (
            cross_entropy(self.reader.scores(read[there]), said[there])
            + cross_entropy(self.ids.scores(own[there]), said[there])
            + self.alpha * apart(read[ends], own[ends])
        )

    def after(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Return [b, n + 1]: how well every item follows event ends[b] of histories [b, t]."""
        return self.eval().scores(self(rows)[torch.arange(len(rows)), ends])


def learned(items: int, width: int = 64) -> SASRec:
    """Return a SASRec that learns the vectors of its items."""
    model = SASRec(0.1 * torch.randn(items, width))
    model.items.weight.requires_grad_(True)
    return model


def apart(read: Tensor, own: Tensor) -> Tensor:
    """Tell how badly the two readings [b, width] of a user find each other among all users."""
    likeness = normalize(read, dim=1) @ normalize(own, dim=1).T / TEMPERATURE
    users = torch.arange(len(read))
    return (cross_entropy(likeness, users) + cross_entropy(likeness.T, users)) / 2


def main() -> None:
    """Train on the store that the command line names, and print what comes out."""
    arguments = argparse.ArgumentParser(description="Molar's post-alignment on a store's vectors")
    arguments.add_argument("store", help="folder or address")
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--view", default="aligned")
    arguments.add_argument("--epochs", type=int, default=15)
    arguments.add_argument("--alpha", type=float, default=0.1, help="how much the alignment weighs")
    asked = arguments.parse_args()

    store = ItemStore.open(asked.store)
    matrix = store.item_matrix(dim=asked.dim, view=asked.view, pad_row=True)
    users = histories(store, matrix)
    past, last = [rows[:-1] for rows in users], [int(rows[-1]) for rows in users]
    for name, alpha in (("reader", None), ("ids", None), ("both", 0.0), ("aligned", asked.alpha)):
        torch.manual_seed(0)
        reader, ids = SASRec(torch.from_numpy(matrix.vectors)), learned(len(matrix.ids))
        started = monotonic()
        alone = {"reader": reader, "ids": ids}
        model = alone[name] if alpha is None else Both(reader, ids, alpha)
        train(model, model.loss, past, asked.epochs)
        found = recall(model.after, past, last, len(matrix.ids))
        told = {"model": name, "alpha": alpha, "recall@20": round(found, 4)}
        print(json.dumps({**told, "seconds": round(monotonic() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
