"""What must hold before a release is visible: the arithmetic of the checks.

Each check returns a verdict with the sentence a person reads; Dagster makes it a gate or a warning.
Limits are constants here, since a gate that a setting can open is not a gate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.encoder import Vectors

SHRINKAGE = 0.5  # a feed that lost half of its items is taken for a broken feed
UNIT = 1e-3  # how far a row's norm may be from 1
LOSS = 0.9  # of the last release's recall; less than this, beyond noise, is a regression
FLOORS = ("popularity", "transitions", "transitions_svd", "item_knn")
USERS = 100  # fewer evaluated users than this say nothing about recall


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a check passed, why in one sentence, and the numbers behind it."""

    passed: bool
    reason: str
    numbers: dict[str, float]


def catalogue_is_whole(now: int, before: int | None) -> Verdict:
    """Refuse an empty catalogue, or one that lost more than half of its items overnight."""
    numbers = {"items": float(now), "items_before": float(before or 0)}
    if now == 0:
        return Verdict(False, "the catalogue has no usable item", numbers)
    if before and now < SHRINKAGE * before:
        reason = f"{now} items where there were {before}: is the feed complete?"
        return Verdict(False, reason, numbers)
    return Verdict(True, f"{now} items", numbers)


def rows_are_unit(views: Mapping[str, Vectors]) -> Verdict:
    """Every vector of every view is finite and of length 1."""
    worst = {
        name: float(np.abs(np.linalg.norm(rows, axis=1) - 1).max(initial=0.0))
        for name, rows in views.items()
    }
    bad = [name for name, off in worst.items() if not off < UNIT]  # NaN is not < anything
    reason = f"not finite unit rows: {', '.join(bad)}" if bad else "all rows finite, length 1"
    return Verdict(not bad, reason, {f"{name}_off_by": off for name, off in worst.items()})


def every_item_has_one_vector(items: pa.ChunkedArray, vectors: pa.ChunkedArray) -> Verdict:
    """The ids of the vectors are exactly the ids of the items, each once."""
    missing = len(items) - int(pc.sum(pc.is_in(items, vectors)).as_py() or 0)
    repeated = len(vectors) - pc.count_distinct(vectors).as_py()
    extra = len(vectors) - int(pc.sum(pc.is_in(vectors, items)).as_py() or 0)
    numbers = {"missing": missing, "repeated": repeated, "extra": extra}
    passed = not any(numbers.values())
    reason = f"{len(vectors)} vectors for {len(items)} items"
    if not passed:
        reason += f": {missing} missing, {repeated} repeated, {extra} of no item"
    return Verdict(passed, reason, {name: float(value) for name, value in numbers.items()})


def beats_popularity(rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """The widest fused vector finds more of what users did next than the popular items do."""
    return _beats(rows, FLOORS[:1])


def beats_every_floor(rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """The widest fused vector finds no less than any floor, each at its widest."""
    return _beats(rows, FLOORS)


def _beats(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Verdict:
    """Fused finds no less than the best of some floors, beyond twice its noise."""
    fused = _warm(rows, "fused")
    floors = [found for name in names if (found := _warm(rows, name))]
    if fused is None or not floors or fused["users"] < USERS:
        users = fused["users"] if fused else 0
        return Verdict(True, f"{users} users with a history: too few to measure", {})
    best = max(floors, key=lambda row: row["R@20"])
    passed = fused["R@20"] + 2 * _error(fused) >= best["R@20"]
    reason = f"recall@20 {fused['R@20']:.4f}, {best['vectors']} {best['R@20']:.4f}"
    return Verdict(passed, reason, {row["vectors"]: row["R@20"] for row in (fused, *floors)})


def holds_against(
    rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] | None
) -> Verdict:
    """No published granularity of `fused` lost a tenth of its recall, beyond twice its noise."""
    if not before:
        return Verdict(True, "no earlier release to compare with", {})
    numbers: dict[str, float] = {}
    lost: list[str] = []
    for row in rows:
        old = _warm(before, "fused", row["dim"]) if _is_warm(row, "fused") else None
        if old is None or min(row["users"], old["users"]) < USERS:
            continue
        numbers[f"recall_at_{row['dim']}"] = row["R@20"]
        numbers[f"recall_at_{row['dim']}_before"] = old["R@20"]
        if row["R@20"] + 2 * (_error(row) + _error(old)) < LOSS * old["R@20"]:
            lost.append(f"{row['dim']}-d {old['R@20']:.4f} -> {row['R@20']:.4f}")
    reason = f"recall@20 fell: {'; '.join(lost)}" if lost else "no granularity lost recall"
    if not numbers:
        reason = "nothing to compare: no granularity in common, or too few users with a history"
    return Verdict(not lost, reason, numbers)


def _error(row: Mapping[str, Any]) -> float:
    """Standard error of a recall@20 over its users."""
    return float(np.sqrt(row["R@20"] * (1 - row["R@20"]) / max(row["users"], 1)))


def _is_warm(row: Mapping[str, Any], vectors: str) -> bool:
    return (
        row["vectors"] == vectors
        and row["slice"] == "warm"
        and row["split"] == "test"
        and bool(row["masked"])
    )


def _warm(
    rows: Sequence[Mapping[str, Any]], vectors: str, dim: int | None = None
) -> Mapping[str, Any] | None:
    """The row of these vectors at `dim`, or at their widest."""
    found = [row for row in rows if _is_warm(row, vectors) and dim in (None, row["dim"])]
    return max(found, key=lambda row: row["dim"] or 0, default=None)
