"""Assets that bring the catalogue in: items and interactions, with what was refused and why."""

import dagster as dg
import pyarrow as pa

from assets import catalogue, checks
from assets.inputs import item_hashes
from assets.lake import Lake, digest
from assets.report import markdown_table, sample_rows, verdict

COLUMNS = ["item_id", "title", "text", "image_status", "origin"]


@dg.asset(
    group_name="catalogue",
    kinds={"lancedb"},
    owners=["team:itemnest"],
    check_specs=[dg.AssetCheckSpec("catalogue_is_whole", asset="items", blocking=True)],
)
def items(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """Every usable item of the catalogue: id, title, attributes, rendered text, picture, hashes."""
    catalogue.need_files(lake.settings.catalogue)  # before hours of encoding, for want of a log
    before = lake.build("items")
    report = catalogue.ingest_items(lake.tables, lake.settings, lake.progress)
    hashes = item_hashes(lake.tables)
    whole = checks.catalogue_is_whole(len(hashes), before.metadata["rows"] if before else None)
    if whole.passed or "catalogue_is_whole" in lake.accepted:
        lake.record(
            "items",
            digest(hashes),
            lake.versions("items", "rejected_items"),
            {"rows": len(hashes)},
        )
    rows = lake.tables.read("items", columns=COLUMNS)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(hashes),
            "what": report.sentence(),
            "sample": sample_rows(rows),
            "images": _counted(rows["image_status"]),
            "refused": markdown_table(report.refusals()),
        },
        check_results=[verdict(lake, "catalogue_is_whole", whole)],
    )


@dg.asset(deps=["items"], group_name="catalogue", kinds={"lancedb"}, owners=["team:itemnest"])
def interactions(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    """The interaction log: user, item, time and weight of every event of a known item."""
    report = catalogue.ingest_interactions(lake.tables, lake.settings, lake.progress)
    log = lake.tables.read("interactions")
    versions = lake.versions("interactions", "rejected_items")
    lake.record("interactions", digest(log), versions, {"rows": len(log)})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(log),
            "what": report.sentence(),
            "sample": sample_rows(log),
            "refused": markdown_table(report.refusals()),
        }
    )


def _counted(column: pa.ChunkedArray) -> dg.MetadataValue:
    counts = column.value_counts().to_pylist()
    return markdown_table([{"image": row["values"], "items": row["counts"]} for row in counts])
