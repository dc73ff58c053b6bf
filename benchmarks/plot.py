"""What a figure costs as items grow, drawn from the JSON lines of the other programs.

    python -m benchmarks.plot LINES.jsonl [LINES.jsonl …] PICTURE.svg

A line is drawn if a panel of the table below asks for its `figure` and it says of how many items
it is; a panel without lines is left out. It knows names of figures, not how they were measured.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Line: TypeAlias = Mapping[str, Any]


class Panel(NamedTuple):
    """One picture of several.

    series: by the name that a series is drawn under, the pattern of the figure that it shows; the
    number of items is its first group if it has one, else the line's `items`. of: fields that a
    line must have as they are here.
    """

    title: str
    unit: str
    series: Mapping[str, str]
    of: Mapping[str, object] = {}


LOOKUPS = {
    name: f"vectors per second: {name}"
    for name in ("np.take", "itemnest", "lmdb", "sqlite", "redis", "duckdb", "lancedb")
}
SEARCHES = {name: f"{name}: p50: ms" for name in ("numpy exact", "itemnest", "lancedb")}
UPSERTS = {
    "itemnest": r"upsert of 10000 into (\d+) item_vectors: s",
    "lancedb": r"upsert of 10000 into (\d+) item_vectors: bare merge_insert: s",
}
PANELS = (
    Panel("Look-up, 100 ids per call", "vectors per second", LOOKUPS, {"ids": 100}),
    Panel("Look-up, 10,000 ids per call", "vectors per second", LOOKUPS, {"ids": 10_000}),
    Panel("Search, 10 nearest", "median milliseconds", SEARCHES),
    Panel("Upsert of 10,000 rows", "seconds", UPSERTS),
)
# Floors dashed, ours heavy; the colours are told apart without red and green.
STYLES: Mapping[str, Mapping[str, Any]] = {
    "np.take": {"color": "#444444", "linestyle": "--"},
    "numpy exact": {"color": "#444444", "linestyle": "--"},
    "itemnest": {"color": "#0072b2", "linewidth": 2.6},
    "lmdb": {"color": "#e69f00"},
    "sqlite": {"color": "#009e73"},
    "redis": {"color": "#cc79a7"},
    "duckdb": {"color": "#56b4e9"},
    "lancedb": {"color": "#d55e00"},
}


def main() -> None:
    """Draw the files named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lines", nargs="+", type=Path)
    parser.add_argument("picture", type=Path, help="SVG or PNG")
    asked = parser.parse_args()
    texts = [text for path in asked.lines for text in path.read_text().splitlines()]
    draw([json.loads(text) for text in texts], asked.picture)


def draw(lines: Sequence[Line], picture: Path) -> None:
    """Draw every panel that has lines; ValueError if none has."""
    panels = [(panel, found) for panel in PANELS if (found := points(panel, lines))]
    if not panels:
        titles = ", ".join(panel.title for panel in PANELS)
        raise ValueError(f"none of {len(lines)} lines belongs to a panel: {titles}")
    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 4.8 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (panel, found) in zip(places, panels, strict=False):
        fill(axes, panel, found)
    for axes in list(places)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(machine(lines), fontsize=8, color="#444444")
    with mpl.rc_context({"svg.hashsalt": "itemnest"}):  # the same lines give the same file
        figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def points(panel: Panel, lines: Iterable[Line]) -> dict[str, dict[int, float]]:
    """Return by series, for every number of items, the value; of repeated lines the last."""
    found: dict[str, dict[int, float]] = {name: {} for name in panel.series}
    for line in lines:
        for name, pattern in panel.series.items():
            match = re.fullmatch(pattern, line.get("figure", ""))
            if match and all(line.get(field) == panel.of[field] for field in panel.of):
                items = int(match[1]) if match.groups() else line.get("items")
                if items is not None:
                    found[name][items] = line["value"]
    return {name: values for name, values in found.items() if values}


def fill(axes: Axes, panel: Panel, found: Mapping[str, Mapping[int, float]]) -> None:
    """Draw one panel, both axes logarithmic."""
    for name, values in found.items():
        items = sorted(values)
        heights = [values[n] for n in items]
        axes.loglog(items, heights, marker="o", markersize=4, label=name, **STYLES[name])
    axes.set(title=panel.title, xlabel="items in the store", ylabel=panel.unit)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    axes.legend(**below, fontsize=8, ncols=4, frameon=False)


def machine(lines: Iterable[Line]) -> str:
    """Return the machines and days of the lines, in words."""
    seen = {f"{line['machine']}, {line['date']}": None for line in lines if "machine" in line}
    return "; ".join(seen)


if __name__ == "__main__":
    main()
