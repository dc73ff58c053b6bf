"""What the users of one version of the vectors find among the items of another."""

from typing import NamedTuple

from alignment.consumer import Trial, by_cosine, figures, rank
from alignment.space import ItemSpace, Views
from matryoshka.prefix import Vectors


class Version(NamedTuple):
    """Vectors of all items by role, and how fast the histories that they are read with fade."""

    context: Vectors
    target: Vectors
    recency: float

    @classmethod
    def of(cls, space: ItemSpace, views: Views) -> "Version":
        """Return the fused vectors that a space made, read as it reads."""
        return cls(views.fused_context, views.fused_target, space.recency)


def cross_version(older: Version, newer: Version, cases: Trial, *, dim: int) -> dict[str, float]:
    """R@10 of histories read with one version against candidates of another, same rows in both.

    "ratio" is old users x new items over old x old: 1 when a consumer of the old version loses
    nothing by reading the new one, and where it had nothing to lose.
    """
    versions = {"old": older, "new": newer}

    def recall(user: Version, item: Version) -> float:
        score = by_cosine(user.context, item.target, dim=dim)
        return figures(rank(score, cases.faded(user.recency)).masked)["R@10"]

    recalls = {
        f"{user} x {item}": recall(versions[user], versions[item])
        for user in versions
        for item in versions
    }
    old = recalls["old x old"]
    return recalls | {"ratio": recalls["old x new"] / old if old else 1.0}
