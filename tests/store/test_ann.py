"""How a release comes to be searched on a short prefix, and what happens when its index is off."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from matryoshka.prefix import prefix, unit
from store import BadIndex, BadVectors, ItemStore, ann, recall, releases
from store.schema import RELEASES, SEARCH_PREFIX, item_vectors_table

N, WIDTH, DIMS = 3000, 64, [16, 64]
IDS = [f"item {number}" for number in range(N)]
INDEXED, SCANNED = {"INDEX_FROM": 1000, "SCAN_FROM": 1000}, {"SCAN_FROM": 1000}


@cache
def clustered(n: int = N, seed: int = 0) -> np.ndarray:
    """Rows around 60 centres, their energy in the first coordinates."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((60, WIDTH))
    near = centres[random.integers(60, size=n)] + 0.7 * random.standard_normal((n, WIDTH))
    return unit((near * np.arange(1, WIDTH + 1) ** -0.7).astype(np.float32))


def sized(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]) -> None:
    for name, rows in sizes.items():
        monkeypatch.setattr(recall, name, rows)


def publish(folder: Path, matrix: np.ndarray | None = None) -> ItemStore:
    matrix = clustered() if matrix is None else matrix
    store = ItemStore.create(folder)
    store.publish_vectors(IDS[: len(matrix)], matrix, dims=DIMS)
    return store


def with_items(store: ItemStore) -> ItemStore:
    """Publish the same vectors beside a table of items."""
    items = pa.table({"item_id": IDS, "title": IDS, "price": np.arange(N) % 100})
    version = store.tables.replace("items", items)
    releases.publish(store.tables, draft(store, items=version))
    store.refresh()
    return store


def draft(store: ItemStore, **tables: int) -> releases.Draft:
    release = store.release
    return releases.Draft(
        "space",
        "basis",
        "refresh",
        "inputs",
        {**release.tables, **tables},
        {name: part for name, part in release.description.items() if name != "search"},
        {},
    )


@pytest.fixture(scope="module", params=[INDEXED, SCANNED], ids=["indexed", "scanned"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ItemStore]:
    with pytest.MonkeyPatch.context() as patch:
        sized(patch, request.param)
        yield with_items(publish(tmp_path_factory.mktemp("ann") / "store"))


def exact(query: int, k: int, dim: int, allowed: np.ndarray | None = None) -> list[str]:
    rows = prefix(clustered(), dim)
    scores = rows @ rows[query]
    scores[query] = -np.inf
    if allowed is not None:
        scores[~allowed] = -np.inf
    return [IDS[row] for row in np.argsort(-scores, kind="stable")[:k]]


def share(store: ItemStore, k: int, dim: int, where: str | None = None) -> float:
    allowed = np.arange(N) % 100 < int(where.split("<")[1]) if where else None
    hits = 0
    for query in range(0, N, 60):
        found = store.search(IDS[query], k=k, dim=dim, where=where)["item_id"].to_pylist()
        assert len(found) == k
        hits += len({*found} & {*exact(query, k, dim, allowed)})
    return hits / k / len(range(0, N, 60))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("k", [1, 10, 30])
def test_nearly_all_answers_are_the_exact_ones(store: ItemStore, k: int, dim: int):
    assert share(store, k, dim) >= 0.97


@pytest.mark.parametrize("below", [1, 50])
def test_a_filter_keeps_recall_and_never_costs_an_answer(
    store: ItemStore, below: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("store.search.FEW", 100)
    assert share(store, 10, 64, where=f"price < {below}") >= 0.97


def test_more_answers_than_candidates_are_still_all_found(store: ItemStore):
    everything = store.search("item 7", k=2 * N, dim=64)["item_id"].to_pylist()
    assert everything == exact(7, N - 1, 64)


def test_the_nearest_may_all_be_excluded(store: ItemStore):
    nearest = exact(7, 400, 64)
    found = store.search("item 7", k=5, dim=64, exclude=nearest)["item_id"].to_pylist()
    assert not {*found} & {*nearest}
    assert len(found) == 5


def test_scores_are_those_of_the_dim_asked_for(store: ItemStore):
    found = store.search("item 7", k=3, dim=64)
    rows = clustered()
    places = [IDS.index(item) for item in found["item_id"].to_pylist()]
    np.testing.assert_allclose(found["score"].to_numpy(), rows[places] @ rows[7], atol=1e-6)


def test_a_release_says_how_it_is_searched_and_how_well(store: ItemStore):
    search, quality = store.release.description["search"], store.release.quality["search"]
    assert search["kind"] in {"scan", ann.KIND}
    assert search["settings"].keys() == quality["recall@10"].keys()
    assert min(quality["recall@10"].values()) >= recall.FLOOR
    assert "64" in search["settings"]


def test_few_items_are_searched_exactly(tmp_path: Path):
    store = publish(tmp_path, clustered(500))
    assert store.release.description["search"] == {"kind": "exact", "made_from": 1}
    assert "search" not in store.release.quality
    assert store.tables.version("item_vectors") == 1


def test_where_no_prefix_reaches_the_floor_search_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, SCANNED)
    noise = np.random.default_rng(0).standard_normal((N, WIDTH))
    noise[:, :48] *= 0.001  # the prefixes tried say nothing of the whole
    store = publish(tmp_path, noise)
    assert store.release.description["search"]["kind"] == "exact"
    rows = unit(noise.astype(np.float32))
    scores = rows @ rows[5]
    scores[5] = -1
    best = [IDS[row] for row in np.argsort(-scores)[:10]]
    assert store.search("item 5")["item_id"].to_pylist() == best


def test_a_release_of_before_is_searched_exactly(store: ItemStore, tmp_path: Path):
    old = publish(tmp_path)
    assert old.release.description.pop("search")
    assert old.search("item 7", k=10)["item_id"].to_pylist() == exact(7, 10, 64)


def test_publishing_the_same_vectors_again_keeps_their_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    first = store.release
    built = store.tables.version("item_vectors")
    made_from = first.description["search"]["made_from"]
    for version in (made_from, first.tables["item_vectors"]):
        again = releases.publish(store.tables, draft(store, item_vectors=version))
        assert again.tables == first.tables
        assert again.description["search"] == first.description["search"]
        assert again.quality["search"] == first.quality["search"]
    assert store.tables.version("item_vectors") == built


def test_rows_written_into_an_indexed_release_are_found_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    before = store.search("item 1", k=3)["item_id"].to_pylist()
    rows = clustered()[[1, 3]] + 0.01 * clustered()[[4, 5]]
    more = item_vectors_table(["item 2", "fresh"], {"fused": unit(rows)})
    version = store.tables.upsert("item_vectors", more)
    releases.publish(store.tables, draft(store, item_vectors=version))
    assert store.search("item 1", k=3)["item_id"].to_pylist() == before
    store.refresh()
    assert store.release.description["search"]["index"]["rows"] == N + 1
    assert store.search("item 1", k=1)["item_id"].to_pylist() == ["item 2"]
    assert store.search("item 3", k=1)["item_id"].to_pylist() == ["fresh"]


def test_upkeep_leaves_the_index_of_a_kept_release_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    answer = store.search("item 7")
    more = item_vectors_table(["fresh"], {"fused": clustered()[7:8]})
    version = store.tables.upsert("item_vectors", more)
    releases.publish(store.tables, draft(store, item_vectors=version))
    store.tables.maintain(releases.pinned(store.tables, keep=2), grace=timedelta(0))
    for name, first in (("r1", answer["item_id"][0].as_py()), ("r2", "fresh")):
        again = ItemStore.open(tmp_path, release=name)
        assert again.search("item 7", k=1)["item_id"].to_pylist() == [first]


def test_a_prefix_of_an_earlier_vector_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    held = store.tables.read("item_vectors", where="item_id IN ('item 1', 'item 2')")
    place = held.schema.get_field_index("fused")
    swapped = held.set_column(place, held.schema.field(place), held["fused"].take([1, 0]))
    version = store.tables.upsert("item_vectors", swapped)
    releases.publish(store.tables, draft(store, item_vectors=version))
    release = store.refresh()
    rows = store.tables.read("item_vectors", version=release.tables["item_vectors"])
    heads = np.stack(rows[SEARCH_PREFIX].to_numpy())
    whole = np.stack(rows["fused"].to_numpy())
    np.testing.assert_allclose(heads, prefix(whole, heads.shape[1]), atol=1e-6)


def broken(store: ItemStore, **promise: object) -> ItemStore:
    """Return the store open at its release, with another promise of its index."""
    release = store.release
    release.description["search"]["index"] |= promise
    return ItemStore(store.tables, release)


@pytest.mark.parametrize(
    "promise", [{"metric": "l2"}, {"kind": "IVF_PQ"}, {"rows": N + 1}, {"column": "fused"}]
)
def test_an_index_other_than_promised_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: dict[str, object]
):
    sized(monkeypatch, INDEXED)
    (name, value), store = *promise.items(), publish(tmp_path)
    with pytest.raises(BadIndex, match=rf"version \d+: the release says .* {name} {value}"):
        broken(store, **promise).search("item 7")


def test_an_index_that_is_gone_is_refused_and_not_made_up_for_by_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    data = store.tables.dataset("item_vectors")
    data.drop_index(ann.NAME)
    release = store.release
    release.tables["item_vectors"] = store.tables.version("item_vectors")
    with pytest.raises(BadIndex, match="and it has no index: publish it anew"):
        ItemStore(store.tables, release).search("item 7")


def test_rows_that_the_index_lacks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    data = store.tables.dataset("item_vectors")
    data.insert(data.head(2).set_column(0, "item_id", pa.array(["new 1", "new 2"])))
    release = store.release
    release.tables["item_vectors"] = store.tables.version("item_vectors")
    release.description["search"]["index"]["rows"] = N + 2
    with pytest.raises(BadIndex, match=f"rows {N + 2}, and it has .* rows {N}"):
        ItemStore(store.tables, release).search("item 7")


def delete(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    """Write zeros over the second half, in which Lance keeps what a file is made of."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


@pytest.mark.parametrize("damage", [delete, cut])
def test_a_damaged_index_is_refused_until_the_vectors_are_published_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    answer = store.search("item 7")
    for file in tmp_path.rglob("_indices/*/*"):
        damage(file)
    store = ItemStore.open(tmp_path)
    with pytest.raises(BadIndex, match=r"its index cannot be read .*: publish it anew"):
        store.search("item 7")
    releases.publish(store.tables, draft(store))
    assert ItemStore.open(tmp_path).search("item 7").equals(answer)


def test_rows_are_written_beside_a_damaged_index_and_found_in_the_next_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    for file in tmp_path.rglob("_indices/*/*"):
        cut(file)
    more = item_vectors_table(["fresh"], {"fused": clustered()[7:8]})
    version = store.tables.upsert("item_vectors", more)
    assert "dropped ['near'], which cannot be completed" in caplog.text
    releases.publish(store.tables, draft(store, item_vectors=version))
    assert store.refresh().description["search"]["kind"] == ann.KIND
    assert store.search("item 7", k=1)["item_id"].to_pylist() == ["fresh"]


def test_a_version_of_other_rows_is_not_taken_for_the_one_that_was_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sized(monkeypatch, INDEXED)
    store = publish(tmp_path)
    other = item_vectors_table(IDS, {"fused": clustered()[::-1]})
    version = store.tables.replace("item_vectors", other)
    made = {**store.release.description["search"], "made_from": version}
    description = {**store.release.description, "search": made}
    forged = replace(store.release, event=2, name="r2", description=description)
    store.tables.append("releases", pa.Table.from_pylist([forged.to_row()], schema=RELEASES))
    with pytest.raises(BadVectors, match=rf"has other rows than version {version}"):
        releases.publish(store.tables, draft(store, item_vectors=version))


def test_the_column_of_the_index_is_no_view(tmp_path: Path):
    with pytest.raises(BadVectors, match="a view may not be called 'search_prefix'"):
        ItemStore.create(tmp_path).publish_vectors(["a"], np.eye(1, 4), view=SEARCH_PREFIX)


def test_the_plan_is_plain_json(store: ItemStore):
    search = store.release.description["search"]
    assert json.loads(json.dumps(search)) == search
