"""What the Dagster UI shows of an asset: tables, thumbnails and plots as metadata values.

Pictures travel inside Markdown as small PNGs, since the event log keeps them; each is its own
entry. It draws what it is given and computes nothing that is stored.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from assets.checks import Verdict
from assets.lake import Lake
from encoders.images import open_picture

PICTURES = 12


def sample_rows(table: pa.Table, *, rows: int = 8) -> dg.MetadataValue:
    """Show the first rows of an Arrow table; long values are cut."""
    return markdown_table(
        [{k: _short(v) for k, v in row.items()} for row in table.slice(0, rows).to_pylist()]
    )


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Show dictionaries of equal keys as a Markdown table."""
    return dg.MetadataValue.md(markdown(rows))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return dictionaries of equal keys as a Markdown table, or a dash when there are none."""
    if not rows:
        return "-"
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def thumbnails(lake: Lake) -> dg.MetadataValue:
    """Show up to twelve of the items' pictures as one strip."""
    version = lake.built("items").tables["items"]
    have = lake.tables.read("items", columns=["item_id", "image_hash"], version=version)
    ids = have.filter(pc.is_valid(have["image_hash"])).sort_by("item_id")["item_id"]
    chosen = ids.slice(0, PICTURES).to_pylist()
    if not chosen:
        return dg.MetadataValue.text("no item has a picture")
    rows = lake.tables.take("items", "item_id", chosen, columns=["image"], version=version)
    strip = Image.new("RGB", (72 * len(rows), 72), "white")
    for place, data in enumerate(rows["image"].to_pylist()):
        picture = open_picture(data)
        picture.thumbnail((68, 68))
        strip.paste(picture, (72 * place + 2, 2))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG", optimize=True)
    return dg.MetadataValue.md(_inline(buffer.getvalue(), "pictures"))


def recall_plot(rows: Sequence[Mapping[str, Any]], dims: Sequence[int]) -> dg.MetadataValue:
    """Plot R@20 over dimension: views as lines, floors without dimension as levels."""
    from matplotlib.figure import Figure  # 0.6 s, needed by this one entry

    figure = Figure(figsize=(6, 3.4), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["vectors"] for row in rows):
        points = {row["dim"]: row["R@20"] for row in rows if row["vectors"] == name}
        if set(points) <= set(dims):
            axes.plot(list(points), list(points.values()), marker="o", label=name)
        else:
            axes.axhline(next(iter(points.values())), linestyle=":", color="grey")
            axes.annotate(name, (dims[0], next(iter(points.values()))), fontsize=7, color="grey")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(dims), [str(dim) for dim in dims])
    axes.set_xlabel("dim")
    axes.set_ylabel("recall@20")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return dg.MetadataValue.md(_inline(buffer.getvalue(), "recall by granularity"))


def _inline(png: bytes, title: str) -> str:
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(_cell(v) for v in value[:4])}, … {len(value)} values]"
    return value if not isinstance(value, str) or len(value) <= 80 else f"{value[:79]}…"


def warning(name: str, found: Verdict) -> dg.AssetCheckResult:
    """Show the verdict of a check that warns and stops nothing."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=found.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=found.reason,
        metadata=found.numbers,
    )


def verdict(lake: Lake, name: str, found: Verdict) -> dg.AssetCheckResult:
    """Show a check's verdict, its sentence and its numbers; a failure blocks what comes after.

    A run that accepts the check beforehand goes on, and the check says so.
    """
    accepted = not found.passed and name in lake.accepted
    way_out = f"; if this is meant: itemnest materialize --accept {name}"
    return dg.AssetCheckResult(
        check_name=name,
        passed=found.passed or accepted,
        severity=dg.AssetCheckSeverity.ERROR,
        description=found.reason + (" (accepted)" if accepted else "" if found.passed else way_out),
        metadata=found.numbers,
    )
