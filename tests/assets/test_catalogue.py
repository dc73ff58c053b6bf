"""A catalogue folder into tables: every row accounted for, and nothing written twice."""

import base64
import gzip
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assets.catalogue import fingerprint, ingest_interactions, ingest_items
from assets.columns import Survey
from assets.intake import attributes
from assets.item_text import Cleaner, sentences
from assets.readers import CatalogueError
from assets.settings import Ingest, Settings
from store.tables import Tables

NAMES = ["items", "rejected_items", "interactions"]


def picture(colour: str = "red", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(options.pop("mode", "RGB"), options.pop("size", (32, 32)), colour).save(
        buffer, options.pop("format", "JPEG"), **options
    )
    return buffer.getvalue()


class Shop:
    """A catalogue folder and the store that it is read into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "catalogue"
        self.folder.mkdir()
        self.settings = Settings(catalogue=self.folder, store=str(folder / "store"))
        self.tables = Tables(self.settings.store)

    def items(self, *rows: dict[str, Any] | str, **options: Any):
        self.write("items.jsonl", rows)
        return ingest_items(self.tables, self.settings, **options)

    def log(self, *rows: dict[str, Any] | str):
        self.write("interactions.jsonl", rows)
        return ingest_interactions(self.tables, self.settings)

    def write(self, name: str, rows) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.folder / name).write_text("\n".join(lines))
        return self.folder / name

    def versions(self) -> dict[str, int | None]:
        return {name: self.tables.version(name) for name in NAMES}

    def item(self, item_id: str) -> dict[str, Any]:
        return self.tables.read("items", where=f"item_id = '{item_id}'").to_pylist()[0]

    def ids(self) -> list[str]:
        return sorted(self.tables.read("items")["item_id"].to_pylist())

    def refused(self) -> list[tuple[Any, ...]]:
        rows = self.tables.read("rejected_items").to_pylist()
        return [(row["row"], row["item_id"], row["part"], row["reason"]) for row in rows]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_every_row_is_kept_or_recorded_with_its_number_and_reason(shop: Shop):
    report = shop.items(
        {"item_id": 1, "title": "One"},
        {"title": "no id"},
        {"item_id": " 1 ", "title": "again"},
        {"item_id": "", "title": "empty"},
        '{"item_id": "cut',
        {"item_id": "a\tb"},
        {"item_id": "2"},
    )
    assert shop.ids() == ["1", "2"]
    assert shop.refused() == [
        (2, None, "item_id", "missing_item_id"),
        (3, "1", "item_id", "repeated_id"),
        (4, "", "item_id", "missing_item_id"),
        (5, None, "row", "malformed_json"),
        (6, "a\tb", "item_id", "control_character_in_id"),
    ]
    assert report.rows == 7 == report.kept + report.rejected.total()
    assert report.rejected["missing_item_id"] == 2
    assert shop.item("1")["title"] == "One"


def test_an_item_without_text_stays_and_has_no_text_hash(shop: Shop):
    report = shop.items({"item_id": "a"}, {"item_id": "b", "title": " \u200b "})
    assert [shop.item(i)["text"] for i in "ab"] == ["", ""]
    assert [shop.item(i)["text_hash"] for i in "ab"] == [None, None]
    assert report.notes["without_text"] == 2
    assert not report.rejected


def test_attributes_become_typed_columns_and_sentences(shop: Shop):
    attributes = {"price": 7, "tags": ["x", "y"], "size": {"width": 2}, "Order": "first"}
    shop.items(
        {"item_id": "a", "title": "Pot", "brand": "Moss", "attributes": attributes},
        {"item_id": "b", "title": "Cup", "attributes": json.dumps({"price": 1.5})},
    )
    item = shop.item("a")
    assert item["text"] == (
        "title: Pot. brand: Moss. price: 7. tags: x, y. size width: 2. Order: first."
    )
    assert (item["price"], item["tags"], item["size_width"]) == (7.0, ["x", "y"], 2)
    assert item["attr_order"] == "first"
    assert shop.item("b")["price"] == 1.5
    assert shop.item("b")["tags"] is None


def test_attributes_that_are_broken_json_are_refused_and_the_item_stays(shop: Shop):
    report = shop.items({"item_id": "a", "title": "Pot", "attributes": '{"price": '})
    assert shop.refused() == [(1, "a", "attributes", "unreadable_attributes")]
    assert report.parts["attributes: unreadable_attributes"] == 1
    assert shop.item("a")["text"] == "title: Pot."


def test_a_megabyte_of_text_with_control_characters_is_cut_cleaned_and_counted(shop: Shop):
    shop.settings = replace(shop.settings, ingest=Ingest(max_text_chars=100))
    report = shop.items({"item_id": "a", "title": "P\x00ot", "description": "word\x07 " * 200_000})
    assert len(shop.item("a")["text"]) <= 100
    assert shop.item("a")["text"].startswith("title: Pot. description: word word")
    assert report.notes["text_cut"]
    assert report.notes["control_characters_removed"]


def cmyk() -> bytes:
    return picture((0, 80, 80, 0), mode="CMYK")  # type: ignore[arg-type]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(exif=exif)


def animated() -> bytes:
    frames = [Image.new("P", (16, 16), shade) for shade in (1, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (picture(), "ok"),
        (cmyk(), "ok"),
        (turned(), "ok"),
        (animated(), "ok"),
        (picture()[:-200], "truncated"),
        (b"", "empty"),
        (b"plain text", "not_an_image"),
        (picture(size=(1, 1), format="PNG"), "too_small"),
        (picture(size=(400, 400), format="PNG"), "too_many_pixels"),
        (picture() + b"\0" * 20_000, "too_many_bytes"),
        (None, "missing_file"),
    ],
)
def test_a_picture_is_stored_as_it_is_or_refused_while_its_item_stays(shop: Shop, data, status):
    shop.settings = replace(
        shop.settings, ingest=Ingest(max_image_pixels=100_000, max_image_bytes=20_000)
    )
    if data is not None:
        (shop.folder / "a.jpg").write_bytes(data)
    report = shop.items({"item_id": "a", "title": "Pot", "image_path": "a.jpg"})
    item = shop.item("a")
    assert item["image_status"] == status
    assert item["image"] == (data if status == "ok" else None)
    assert (item["image_hash"] is None) == (status != "ok")
    assert shop.refused() == ([] if status == "ok" else [(1, "a", "image", status)])
    assert report.kept == 1


def test_pictures_come_from_bytes_base64_and_nowhere_else_unless_allowed(shop: Shop):
    encoded = base64.b64encode(picture()).decode()
    shop.items(
        {"item_id": "a", "image": encoded},
        {"item_id": "b", "image": "???"},
        {"item_id": "c", "image_path": "../secret.jpg"},
        {"item_id": "d", "image_url": "http://127.0.0.1/a.jpg"},
        {"item_id": "e"},
    )
    statuses = {
        row["item_id"]: row["image_status"] for row in shop.tables.read("items").to_pylist()
    }
    assert statuses == {
        "a": "ok",
        "b": "not_base64",
        "c": "outside_catalogue",
        "d": "urls_not_allowed",
        "e": "absent",
    }
    assert len(shop.refused()) == 3
    assert shop.item("a")["image"] == picture()


def test_every_format_gives_the_same_items(tmp_path: Path):
    rows = [
        {"item_id": "1", "title": "Tea, pot", "price": 7.5, "organic": True, "stock": 3},
        {"item_id": "2", "title": "Cup", "price": 2.0, "organic": False, "stock": None},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    cells = 'item_id,title,price,organic,stock\n1,"Tea, pot",7.50,true,3\n2,Cup,2.00,false,\n'
    written: dict[str, bytes | None] = {
        "items.jsonl": lines.encode(),
        "items.jsonl.gz": gzip.compress(lines.encode()),
        "items.csv": cells.encode(),
        "items.csv.gz": gzip.compress(cells.encode()),
        "items.parquet": None,
    }
    found = []
    for number, (name, data) in enumerate(written.items()):
        (tmp_path / str(number)).mkdir()
        shop = Shop(tmp_path / str(number))
        if data is None:
            pq.write_table(pa.Table.from_pylist(rows), shop.folder / name)
        else:
            (shop.folder / name).write_bytes(data)
        ingest_items(shop.tables, shop.settings)
        found.append(shop.tables.read("items"))
    assert all(table.equals(found[0]) for table in found)
    assert found[0]["text"][0].as_py() == "title: Tea, pot. price: 7.5. organic: yes. stock: 3."


def test_reading_the_same_files_again_writes_nothing(shop: Shop):
    (shop.folder / "a.jpg").write_bytes(picture())
    rows = [
        {"item_id": "a", "title": "Pot", "image_path": "a.jpg"},
        {"item_id": "b", "image_path": "none.jpg"},
        {"title": "no id"},
    ]
    events = [{"user_id": 1, "item_id": "a", "timestamp": 5}, {"user_id": 1, "item_id": "z"}]
    first, log = shop.items(*rows), shop.log(*events)
    before = shop.versions()
    again, log_again = shop.items(*rows), shop.log(*events)
    assert shop.versions() == before
    assert (first.added, again.added, again.unchanged) == (2, 0, 2)
    assert (log.added, log_again.added, log_again.unchanged) == (1, 0, 1)
    assert again.rejected == first.rejected
    assert log_again.rejected == log.rejected


def test_only_what_changed_is_written_and_what_vanished_is_deleted(shop: Shop):
    (shop.folder / "a.jpg").write_bytes(picture("red"))
    rows = {name: {"item_id": name, "title": name} for name in "abcd"}
    rows["a"]["image_path"] = "a.jpg"
    shop.items(*rows.values())
    (shop.folder / "a.jpg").write_bytes(picture("blue"))
    rows["b"]["title"] = "B"
    del rows["c"]
    rows["e"] = {"item_id": "e", "title": "e"}
    report = shop.items(*rows.values())
    assert (report.added, report.changed, report.removed, report.unchanged) == (1, 2, 1, 1)
    assert shop.ids() == ["a", "b", "d", "e"]
    assert shop.item("a")["image"] == picture("blue")
    assert shop.item("b")["text"] == "title: B."


def test_a_picture_whose_limit_changed_is_judged_again(shop: Shop):
    (shop.folder / "a.jpg").write_bytes(picture())
    row = {"item_id": "a", "image_path": "a.jpg"}
    shop.items(row)
    shop.settings = replace(shop.settings, ingest=Ingest(max_image_pixels=100))
    assert shop.items(row).changed == 1
    assert shop.item("a")["image_status"] == "too_many_pixels"


def test_another_column_or_type_replaces_the_table_and_loses_no_item_and_no_picture(shop: Shop):
    (shop.folder / "a.jpg").write_bytes(picture())
    rows = [{"item_id": "a", "price": 1, "image_path": "a.jpg"}, {"item_id": "b", "price": 2}]
    shop.items(*rows)
    before = shop.versions()["items"]
    rows[1] |= {"price": 2.5, "colour": "red"}
    report = shop.items(*rows)
    assert (report.changed, report.unchanged) == (1, 1)
    assert shop.tables.schema("items").field("price").type == pa.float64()
    assert shop.item("a")["image"] == picture()
    assert shop.item("a")["colour"] is None
    assert shop.tables.schema("items", version=before).field("price").type == pa.int64()


class Site(BaseHTTPRequestHandler):
    """A web site of one picture that counts how often it is asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = picture()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_picture_is_fetched_once_and_survives_another_column(shop: Shop, site: str):
    allowed = Ingest(fetch_urls=True, allow_private_addresses=True)
    shop.settings = replace(shop.settings, ingest=allowed)
    row = {"item_id": "a", "image_url": f"{site}/a.jpg"}
    shop.items(row)
    assert shop.items(row).unchanged == 1
    report = shop.items(row, {"item_id": "b", "colour": "red"})
    assert (report.added, report.unchanged) == (1, 1)
    assert shop.item("a")["image"] == picture()
    assert Site.asked == ["/a.jpg"]
    shop.settings = replace(shop.settings, ingest=Ingest())
    shop.items(row)
    assert shop.item("a")["image_status"] == "urls_not_allowed"


def test_pictures_in_a_parquet_column_are_stored(shop: Shop):
    rows = [{"item_id": "a", "image": picture()}, {"item_id": "b", "image": None}]
    pq.write_table(pa.Table.from_pylist(rows), shop.folder / "items.parquet")
    ingest_items(shop.tables, shop.settings)
    assert shop.item("a")["image"] == picture()
    assert shop.item("b")["image_status"] == "absent"


def added(shop: Shop, *rows: dict[str, Any]):
    file = shop.write("more.jsonl", rows)
    return ingest_items(shop.tables, shop.settings, file=file, origin="added")


def test_added_items_stay_until_the_catalogue_has_them(shop: Shop):
    shop.items({"item_id": "a", "price": 1})
    (shop.folder / "n.jpg").write_bytes(picture())
    report = added(shop, {"item_id": "n", "price": 2.5, "shape": "round", "image_path": "n.jpg"})
    assert report.added == 1
    assert shop.ids() == ["a", "n"]
    shop.items({"item_id": "b", "weight": 1})
    assert shop.ids() == ["b", "n"]
    assert shop.item("n")["shape"] == "round"
    assert shop.item("n")["price"] == 2.5
    assert shop.item("n")["image"] == picture()
    shop.items({"item_id": "n", "weight": 2})
    assert shop.item("n")["origin"] == "catalogue"
    assert "shape" not in shop.tables.schema("items").names
    before = shop.versions()
    shop.items({"item_id": "n", "weight": 2})
    assert shop.versions() == before


def test_adding_an_item_that_the_catalogue_has_is_refused(shop: Shop):
    shop.items({"item_id": "a", "title": "Pot"})
    report = added(shop, {"item_id": "a", "title": "Other"}, {"item_id": "n", "title": "New"})
    assert report.rejected == {"in_catalogue": 1}
    assert shop.item("a")["title"] == "Pot"
    before = shop.versions()
    shop.items({"item_id": "a", "title": "Pot"})
    assert shop.versions() == before


def test_a_log_keeps_its_order_and_refuses_by_row(shop: Shop):
    shop.items({"item_id": "a"}, {"item_id": "b"})
    report = shop.log(
        {"user_id": 7, "item_id": "b", "timestamp": 1_700_000_000, "event": " buy\n"},
        {"user_id": "u", "item_id": "a", "timestamp": "2024-01-01", "rating": 4},
        {"user_id": "u", "item_id": "a", "timestamp": 1_700_000_000_000, "weight": 2, "rating": 4},
        {"user_id": "u", "item_id": "zzz", "timestamp": 1},
        {"user_id": None, "item_id": "a", "timestamp": 1},
        {"user_id": "u", "item_id": "a", "timestamp": "soon"},
        {"user_id": "u", "item_id": "a", "timestamp": 1, "weight": "heavy"},
        {"user_id": "", "item_id": "", "timestamp": -5},
        "not json",
    )
    log = shop.tables.read("interactions").to_pydict()
    assert log == {
        "user_id": ["7", "u", "u"],
        "item_id": ["b", "a", "a"],
        "timestamp": [1_700_000_000_000_000, 1_704_067_200_000_000, 1_700_000_000_000_000],
        "weight": [1.0, 4.0, 2.0],
        "event": ["buy", None, None],
    }
    assert shop.refused() == [
        (4, "zzz", "item_id", "unknown_item"),
        (5, "a", "user_id", "missing_user_id"),
        (6, "a", "timestamp", "unreadable_timestamp"),
        (7, "a", "weight", "unreadable_weight"),
        (8, "", "item_id", "missing_item_id"),
        (9, None, "row", "malformed_json"),
    ]
    assert report.rows == 9 == report.kept + report.rejected.total()


def test_the_same_reason_in_two_columns_counts_twice(shop: Shop):
    shop.items({"item_id": "a"})
    report = shop.log(
        {"user_id": "u\0", "item_id": "a", "timestamp": 1},
        {"user_id": "u", "item_id": "a\0", "timestamp": 1},
    )
    assert report.rejected == {"control_character_in_id": 2}
    assert report.kept == 0


def test_refusals_of_items_and_interactions_live_side_by_side(shop: Shop):
    shop.items({"item_id": "a"}, {"title": "no id"})
    shop.log({"user_id": "u", "item_id": "z", "timestamp": 1})
    assert len(shop.refused()) == 2
    shop.items({"item_id": "a"})
    assert shop.refused() == [(1, "z", "item_id", "unknown_item")]


def test_interactions_without_items_or_without_a_column_are_an_error(shop: Shop):
    with pytest.raises(CatalogueError, match="need items"):
        shop.log({"user_id": "u", "item_id": "a", "timestamp": 1})
    (shop.folder / "interactions.jsonl").unlink()
    (shop.folder / "interactions.csv").write_text("user,item_id,timestamp\n")
    with pytest.raises(CatalogueError, match="no column user_id"):
        ingest_interactions(shop.tables, shop.settings)


def test_items_without_the_id_column_are_an_error_that_names_what_is_there(shop: Shop):
    (shop.folder / "items.csv").write_text("id,name\n1,a\n")
    with pytest.raises(CatalogueError, match="no column item_id: it has id, name"):
        ingest_items(shop.tables, shop.settings)


def test_a_run_that_fails_half_way_says_why_and_leaves_the_tables_as_they_were(shop: Shop):
    rows = [{"item_id": str(number), "title": "Pot"} for number in range(500)]

    def interfere(done: int, total: int | None, what: str) -> None:
        if what == "reading items" and done > 100:
            shop.write("items.jsonl", rows[:10])

    with pytest.raises(CatalogueError, match="changed while it was read"):
        shop.items(*rows, progress=interfere)
    assert shop.tables.names() == []
    assert shop.items(*rows).added == 500


def test_progress_reaches_its_total(shop: Shop):
    heard: list[tuple[int, int | None, str]] = []
    say: Callable[[int, int | None, str], None] = lambda *step: heard.append(step)  # noqa: E731
    shop.items({"item_id": "a"}, {"title": "no id"}, progress=say)
    assert heard[-1] == (2, 2, "reading items")


def test_a_report_says_what_happened_in_one_line(shop: Shop):
    report = shop.items({"item_id": "a", "image_path": "none.jpg"}, {"title": "no id"})
    assert report.sentence() == "1 of 2 rows kept, 1 added, 1 parts refused"
    assert report.refusals()[0] == {"what": "row", "reason": "missing_item_id", "count": 1}
    assert (
        shop.items({"item_id": "a"}, {"title": "no id"}).sentence() == "1 of 2 rows kept, 1 changed"
    )


def test_a_fingerprint_changes_with_the_files_and_needs_items(shop: Shop):
    shop.write("interactions.jsonl", [])
    assert fingerprint(shop.folder) is None
    shop.write("items.jsonl", [{"item_id": "a"}])
    before = fingerprint(shop.folder)
    assert before == fingerprint(shop.folder)
    shop.write("interactions.jsonl", [{}])
    assert fingerprint(shop.folder) != before


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(), anything, max_size=5), min_size=1, max_size=4))
def test_any_object_can_be_rendered_and_stored(rows: list[dict[str, Any]]):
    cleaner, survey = Cleaner(200), Survey(spelled=False)
    found = [attributes(row, cleaner)[0] for row in rows]
    for fields in found:
        survey.add(fields)
    columns = survey.columns(taken=[])
    fitted = [{key: columns.fit(key, value) for key, value in fields.items()} for fields in found]
    names = {key: name for key, (name, _) in columns.by_key.items()}
    stored = [{names[key]: value for key, value in fields.items()} for fields in fitted]
    for field in columns.fields():
        assert len(pa.array([row.get(field.name) for row in stored], field.type)) == len(rows)
    assert all(sentences(fields).encode() is not None for fields in fitted)


@pytest.mark.parametrize("name", ["xwines", "online_retail"])
def test_a_real_catalogue_is_kept_whole_and_read_twice_writes_once(
    datasets: Path, tmp_path: Path, name: str
):
    settings = Settings(catalogue=datasets / name, store=str(tmp_path))
    tables = Tables(settings.store)
    reports = [ingest_items(tables, settings), ingest_interactions(tables, settings)]
    versions = [tables.version(table) for table in NAMES]
    again = [ingest_items(tables, settings), ingest_interactions(tables, settings)]
    assert versions == [tables.version(table) for table in NAMES]
    for first, second in zip(reports, again, strict=True):
        assert first.kept == first.rows == second.unchanged
