"""Attribute columns: names that SQL takes unquoted, one type per column."""

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from assets.columns import RESERVED, Survey, convert, merged, sql_name

TAKEN = ("item_id", "title", "text", "image")


def surveyed(*rows, spelled: bool = False):
    survey = Survey(spelled=spelled)
    for row in rows:
        survey.add(row)
    return survey.columns(taken=TAKEN)


def types(*rows, spelled: bool = False):
    return {field.name: field.type for field in surveyed(*rows, spelled=spelled).fields()}


def test_a_column_has_the_narrowest_type_that_holds_all_its_values():
    found = types(
        {"a": 1, "b": 1, "c": True, "d": "x", "e": ["x"], "f": 1, "g": None, "h": 2**70},
        {"a": 2, "b": 2.5, "c": False, "d": None, "e": ["y"], "f": "x", "g": None, "h": 1},
    )
    assert found == {
        "a": pa.int64(),
        "b": pa.float64(),
        "c": pa.bool_(),
        "d": pa.string(),
        "e": pa.list_(pa.string()),
        "f": pa.string(),
        "g": pa.string(),
        "h": pa.string(),
    }


def test_numbers_are_recognised_in_a_file_that_holds_text_only():
    found = types(
        {"a": "1", "b": "1.50", "c": "TRUE", "d": "007", "e": "1e999", "f": "12345678901234567890"},
        spelled=True,
    )
    assert found["a"] == pa.int64()
    assert found["b"] == pa.float64()
    assert found["c"] == pa.bool_()
    assert {found[name] for name in "def"} == {pa.string()}


def test_a_name_that_means_something_else_is_prefixed_and_a_second_one_numbered():
    columns = surveyed(
        {"image": 1, "Order": 1, "Brand Name": 1, "brand_name": 1, "尺寸": 1, "2024": 1}
    )
    assert [name for name, _ in columns.by_key.values()] == [
        "attr_image",
        "attr_order",
        "brand_name",
        "brand_name_2",
        "attr",
        "attr_2024",
    ]


def test_columns_beyond_the_bound_are_counted():
    columns = surveyed({f"key{i}": i for i in range(300)})
    assert len(columns.by_key) == 256
    assert columns.left_out == 44


def test_values_of_older_rows_widen_a_column():
    columns = surveyed({"a": 1, "b": 2}).joined(
        [pa.field("b", pa.string()), pa.field("c", pa.bool_())]
    )
    assert {f.name: f.type for f in columns.fields()} == {
        "a": pa.int64(),
        "b": pa.string(),
        "c": pa.bool_(),
    }
    assert columns.fit("b", 2) == "2"


@given(st.text())
def test_every_name_is_taken_by_duckdb_without_quotes(key: str):
    name = sql_name(key)
    assert duckdb.sql(f"SELECT 1 AS {name}").columns == [name]


def test_every_word_that_duckdb_reserves_is_known():
    words = duckdb.sql(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved')"
    ).fetchall()
    assert {word for (word,) in words} <= RESERVED


values = (
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.lists(st.text(), min_size=1)
)


@given(st.lists(values | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_value_fits_the_column_that_was_made_for_it(found):
    columns = surveyed(*({"a": value} for value in found))
    (field,) = columns.fields()
    assert len(pa.array([columns.fit("a", value) for value in found], field.type)) == len(found)


def test_mixed_kinds_become_text_of_the_same_words():
    assert merged({"list", "string"}) == "string"
    assert convert(["a", "b"], "string") == "a, b"
