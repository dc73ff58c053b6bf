"""Recall against dimension, drawn and tabled from the rows that benchmarks/quality.py wrote.

    python -m benchmarks.curves quality.jsonl [quality.jsonl …] PICTURE.svg

A panel and a table per catalogue, on the test targets: R@10 with seen items in the ranking on
amazon_beauty, as its published rivals report it, and R@20 without them on the others. What has no
dimension is a level line. It knows the rows' fields, not how they were measured.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from assets.report import markdown

Row = Mapping[str, Any]
PUBLISHED = "fMRLRec, as published"
# Wang et al., EMNLP Findings 2024: read off their curve, with towers 15 times as large.
CURVES = {"amazon_beauty": {32: 0.024, 64: 0.036, 128: 0.053, 256: 0.072}}
STYLES: Mapping[str, Mapping[str, Any]] = {
    "fused": {"color": "#0072b2", "linewidth": 2.6, "marker": "o"},
    "fused in a SASRec": {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    "collaborative": {"color": "#e69f00", "marker": "o"},
    "aligned": {"color": "#009e73", "marker": "o"},
    "content": {"color": "#56b4e9", "marker": "o"},
    "transitions_svd": {"color": "#999999", "marker": "x"},
    "transitions": {"color": "#444444", "linestyle": "--"},
    "item_knn": {"color": "#444444", "linestyle": ":"},
    "popularity": {"color": "#bbbbbb", "linestyle": ":"},
    "learned_ids": {"color": "#cc79a7", "linestyle": "--"},
    PUBLISHED: {"color": "#d55e00", "marker": "^"},
}


def main() -> None:
    """Draw and table the files named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("picture", type=Path, help="SVG or PNG")
    asked = parser.parse_args()
    rows = [json.loads(line) for path in asked.rows for line in path.read_text().splitlines()]
    found = {name: curves(rows, name) for name in dict.fromkeys(row["catalog"] for row in rows)}
    draw(found, asked.picture)
    for name, series in found.items():
        print(f"\n{name}: {figure_of(name)[1]}\n\n{markdown(table(series))}")


def figure_of(catalogue: str) -> tuple[str, str, bool]:
    """Return a catalogue's figure, the same in words, and whether seen items are left out."""
    if catalogue in CURVES:
        return "R@10", "R@10, seen items ranked too", False
    return "R@20", "R@20, seen items left out", True


def curves(rows: Iterable[Row], catalogue: str) -> dict[str, dict[int | None, float]]:
    """Return what a catalogue's panel shows: by series and dim the figure, dim None if level."""
    figure, _, masked = figure_of(catalogue)
    found: dict[str, dict[int | None, float]] = {name: {} for name in STYLES}
    for row in rows:
        wanted = row["catalog"], row["slice"], row.get("masked"), row.get("split")
        if wanted != (catalogue, "warm", masked, "leave-last-out") or figure not in row:
            continue
        name = row["vectors"]
        if name == "fused" and row["consumer"] == "B":
            name = "fused in a SASRec"
        if name in found:
            found[name][row["dim"]] = row[figure]
    found[PUBLISHED] |= CURVES.get(catalogue, {})
    return {name: values for name, values in found.items() if values}


def table(series: Mapping[str, Mapping[int | None, float]]) -> list[dict[str, str]]:
    """Return a row per series and a column per dim; a level one stands in the first."""
    dims = sorted({dim for values in series.values() for dim in values if dim})
    return [
        {"": name} | {str(dim): _told(values.get(dim)) for dim in dims}
        if None not in values
        else {"": name} | {str(dim): "" for dim in dims} | {str(dims[0]): _told(values[None])}
        for name, values in series.items()
    ]


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".removeprefix("0")


def draw(catalogues: Mapping[str, Mapping[str, Mapping[int | None, float]]], picture: Path) -> None:
    """Draw a panel per catalogue."""
    columns = min(2, len(catalogues))
    rows = ceil(len(catalogues) / columns)
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, series) in zip(places, catalogues.items(), strict=False):
        fill(axes, name, series)
    for axes in list(places)[len(catalogues) :]:
        axes.set_axis_off()
    _legend(figure)
    with mpl.rc_context({"svg.hashsalt": "itemnest"}):  # the same rows give the same file
        figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def fill(axes: Axes, name: str, series: Mapping[str, Mapping[int | None, float]]) -> None:
    """Draw one panel, dims on a scale of powers of two."""
    dims = sorted({dim for values in series.values() for dim in values if dim})
    for each, values in series.items():
        if None in values:
            axes.axhline(values[None], label=each, **STYLES[each])
        else:
            heights = [values[dim] for dim in sorted(filter(None, values))]
            axes.plot(sorted(filter(None, values)), heights, label=each, **STYLES[each])
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.set(title=name, xlabel="dimensions", ylabel=figure_of(name)[1], ylim=(0, None))
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """Name every series once, below all panels."""
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names: Sequence[str] = [name for name in STYLES if name in found]
    figure.legend(
        [found[name] for name in names], names, loc="outside lower center", ncols=4, fontsize=8
    )


if __name__ == "__main__":
    main()
