"""Real catalogues, where they are at hand: no row is lost, and the vectors are of use."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assets.catalogue import ingest_interactions, ingest_items
from assets.run import materialize
from assets.settings import Settings, write_default
from store import ItemStore
from store.tables import Tables


@pytest.mark.parametrize("name", ["xwines", "amazon_beauty", "online_retail"])
def test_every_row_of_a_real_catalogue_is_kept_or_refused_by_name(
    name: str, datasets: Path, tmp_path: Path
) -> None:
    tables = Tables(tmp_path / "store")
    settings = Settings(catalogue=datasets / name, store=str(tmp_path / "store"))
    items = ingest_items(tables, settings)
    log = ingest_interactions(tables, settings)
    assert items.rows == pq.read_metadata(datasets / name / "items.parquet").num_rows
    assert log.rows == pq.read_metadata(datasets / name / "interactions.parquet").num_rows
    for report, table in ((items, "items"), (log, "interactions")):
        assert report.kept + report.rejected.total() == report.rows
        assert tables.count(table) == report.kept
    assert items.kept > 0.99 * items.rows
    assert log.kept > 0.99 * log.rows


@pytest.mark.slow
def test_fused_vectors_of_xwines_beat_popularity_and_content_at_128_dims(
    datasets: Path, tmp_path: Path
) -> None:
    settings = write_default(tmp_path / "itemnest.toml", catalogue=str(datasets / "xwines"))
    outcome = materialize(settings)
    assert outcome.succeeded, outcome.failures
    rows = ItemStore.open(tmp_path / "data" / "store").release.quality["rows"]
    recall = {
        (row["vectors"], row["dim"]): row["R@20"]
        for row in rows
        if row["masked"] and (row["slice"], row["split"]) == ("warm", "test")
    }
    assert recall["fused", 128] > recall["popularity", None]
    assert recall["fused", 128] > recall["content", 128]
    assert recall["fused", 128] > 0.164  # popularity as measured once beside the data
    cold = [row for row in rows if row["slice"] == "cold" and row["vectors"] == "fused"]
    assert cold
    assert all(row["users"] > 100 for row in cold)
