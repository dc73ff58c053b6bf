"""What the vectors must reach, beside what the rows of benchmarks/quality.py say: a line per limit.

It knows the rows' fields, not how they were measured.
"""

from typing import Any

from benchmarks.figures import Report
from benchmarks.lab import Rows

MUST = (  # consumer, dim, slice, figure, least: the issue that asked for these vectors
    ("A", 32, "warm", "R@10", 0.065),
    ("A", 64, "warm", "R@10", 0.076),
    ("A", 128, "warm", "R@10", 0.085),
    ("A", 256, "warm", "R@10", 0.090),
    ("A", 256, "warm", "N@10", 0.043),
    ("B", 64, "warm", "R@10", 0.080),
    ("B", 64, "warm", "N@10", 0.045),
    ("B", 256, "warm", "R@10", 0.083),
    ("B", 256, "warm", "N@10", 0.047),
    ("A", 256, "cold", "R@10", 0.050),
    ("A", 256, "warm beside cold", "R@10", 0.088),
)
EARLIER = ("night before", "first night")
RATIO = 0.97  # of yesterday's users among today's items to those among yesterday's
BEHIND = 1.0  # standard errors below vectors fitted anew
RETAINED = {64: 0.85, 128: 0.94}  # of R@10 at 256


def find(rows: Rows, figure: str, **wanted: Any) -> float | None:
    """Return one figure of the row that is as wanted; None without one."""
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()) and figure in row:
            return row[figure]
    return None


def report_beauty(report: Report, rows: Rows) -> None:
    """Print what the fused view must reach on amazon_beauty, unmasked."""

    def fused(figure: str, consumer: str, dim: int, slice: str) -> float | None:
        wanted = {"vectors": "fused", "consumer": consumer, "dim": dim, "slice": slice}
        return find(rows, figure, masked=False, **wanted)

    for consumer, dim, slice, figure, least in MUST:
        value = fused(figure, consumer, dim, slice)
        if value is not None:
            name = f"consumer {consumer}, {dim}-d, {slice}: {figure}"
            report.line(name, round(value, 4), least, least=True)
    for slice in ("warm", "cold"):
        whole = fused("R@10", "A", 256, slice)
        for dim, least in RETAINED.items():
            part = fused("R@10", "A", dim, slice)
            if part is not None and whole:
                name = f"{slice}: R@10 at {dim}-d, of that at 256-d"
                limit = least if slice == "warm" else None
                report.line(name, round(part / whole, 4), limit, least=True)


def report_gains(report: Report, rows: Rows, dim: int) -> None:
    """Print fused at one dim beside the best floor in consumer A, and beside learned ids in B."""
    warm = [
        row
        for row in rows
        if row["slice"] == "warm" and row["split"] == "leave-last-out" and row["masked"]
    ]
    rivals = {
        f"best floor, {row['vectors']}": row
        for row in sorted(warm, key=lambda row: row["R@20"])
        if row["part"] == "floors" and (row["dim"] in (None, dim) or "_raw" in row["vectors"])
    }
    best = list(rivals.items())[-1:]
    best += [(row["vectors"], row) for row in warm if row["vectors"] == "learned_ids"]
    for name, row in best:
        ours = find(warm, "R@20", vectors="fused", dim=dim, consumer=row["consumer"])
        if ours is not None:
            what = f"consumer {row['consumer']}, {dim}-d, masked R@20: fused less {name}"
            report.line(what, round(ours - row["R@20"], 4), 0.0, least=True)
            if row["R@20"]:
                report.line(f"{what}, relative", round(ours / row["R@20"] - 1, 4))


def report_nights(report: Report, rows: Rows) -> None:
    """Print how comparable nights stay, the worst of all nights and dims."""
    every = [row for row in rows if row["part"] == "night_after_night"]
    if not every:
        return
    ratios = [row[f"ratio to the {which}"] for row in every for which in EARLIER]
    behind = max((row["retrained"] - row["R@10"]) / max(row["se"], 1e-9) for row in every)
    report.line("least ratio of nights, R@10", round(min(ratios), 3), RATIO, least=True)
    report.line("standard errors behind a space fitted anew", round(behind, 2), BEHIND)
