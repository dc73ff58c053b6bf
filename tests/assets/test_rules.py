"""Ids, timestamps and weights: what is taken, what is refused and why."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.rules import Reason, clean_ids, clean_times, clean_weights

SECOND = 1_334_868_360
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def ids(column):
    found, faults = clean_ids(column, Reason.MISSING_ITEM_ID)
    return [fault or text for text, fault in zip(found.to_pylist(), faults, strict=True)]


def times(column):
    found, faults = clean_times(column)
    return [fault or int(time) for time, fault in zip(found, faults, strict=True)]


@pytest.mark.parametrize(
    "column",
    [
        [7, 12],
        ["7", " 12\t"],
        [7, "12"],
        [7.0, 12.0],
        pa.array([7, 12], pa.uint8()),
        pa.array([7.0, 12.0]),
        pa.array([b"7", b"12"]),
        pa.array(["7", "12"]).dictionary_encode(),
        pa.array(["7", "12"], pa.large_string()),
        pa.array(["7", "12"], pa.string_view()),
    ],
)
def test_an_id_is_the_same_however_it_is_stored(column):
    assert ids(column) == ["7", "12"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MISSING_ITEM_ID),
        ("", Reason.MISSING_ITEM_ID),
        (" \t", Reason.MISSING_ITEM_ID),
        (float("nan"), Reason.NOT_AN_ID),
        (2.5, Reason.NOT_AN_ID),
        (True, Reason.NOT_AN_ID),
        (["a"], Reason.NOT_AN_ID),
        ({"a": 1}, Reason.NOT_AN_ID),
        ("a\x00b", Reason.CONTROL_CHARACTER_IN_ID),
        ("a\x1fb", Reason.CONTROL_CHARACTER_IN_ID),
        ("a\nb", Reason.CONTROL_CHARACTER_IN_ID),
        ("a\ud800", Reason.UNDECODABLE_ID),
        (b"\xff\xfe1", Reason.UNDECODABLE_ID),
        ("x" * 257, Reason.ID_TOO_LONG),
    ],
)
def test_what_is_no_id_is_refused_with_its_reason_and_harms_no_other(value, reason):
    assert ids([value]) == [reason]
    assert ids(["fine", value, 3]) == ["fine", reason, "3"]


def test_text_that_is_no_utf8_in_a_typed_file_is_refused_alone():
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    )
    assert ids(broken) == ["a", Reason.UNDECODABLE_ID]


@pytest.mark.parametrize(
    "column",
    [
        [SECOND],
        [SECOND * 1000],
        [SECOND * 10**6],
        [SECOND * 10**9],
        [float(SECOND)],
        [str(SECOND)],
        [SECOND, "x"],
        ["2012-04-19T20:46:00"],
        ["2012-04-19 20:46"],
        ["2012-04-19T20:46:00Z"],
        ["2012-04-19T22:46:00+02:00"],
        ["2012-04-19T20:46:00Z", "2012-04-19T20:46:00"],
        ["20120419T204600"],
        pa.array([datetime(2012, 4, 19, 20, 46)]),
        pa.array([datetime(2012, 4, 19, 20, 46, tzinfo=UTC)], pa.timestamp("s", "Europe/Vienna")),
        pa.array([SECOND * 10**9 + 1], pa.timestamp("ns")),
    ],
)
def test_a_moment_is_the_same_however_it_is_written(column):
    assert times(column)[0] == SECOND * 10**6


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MISSING_TIMESTAMP),
        ("", Reason.MISSING_TIMESTAMP),
        ("31st of June", Reason.UNREADABLE_TIMESTAMP),
        ("2024-02-30", Reason.UNREADABLE_TIMESTAMP),
        (float("nan"), Reason.UNREADABLE_TIMESTAMP),
        (True, Reason.UNREADABLE_TIMESTAMP),
        (-1, Reason.NEGATIVE_TIMESTAMP),
        ("1969-12-31", Reason.NEGATIVE_TIMESTAMP),
        (5_000_000_000, Reason.FAR_FUTURE_TIMESTAMP),
        ("2150-01-01", Reason.FAR_FUTURE_TIMESTAMP),
        (float("inf"), Reason.UNREADABLE_TIMESTAMP),
        (10**30, Reason.FAR_FUTURE_TIMESTAMP),
    ],
)
def test_what_is_no_moment_is_refused_with_its_reason_and_harms_no_other(value, reason):
    assert times([value]) == [reason]
    assert times([value, str(SECOND), "2012-04-19"])[0] == reason
    assert times([value, str(SECOND), "2012-04-19"])[1] == SECOND * 10**6


def test_small_numbers_are_order_numbers_and_stay_as_they_are():
    assert times([0, 1, 99_999_999]) == [0, 1, 99_999_999]


def test_dates_count_from_midnight_utc():
    assert times(pa.array([date(1970, 1, 3), None])) == [
        2 * 86_400 * 10**6,
        Reason.MISSING_TIMESTAMP,
    ]


@given(st.lists(st.integers(0, 4_000_000_000), min_size=2))
def test_order_survives_the_guess_of_the_unit(numbers: list[int]):
    found, _ = clean_times(numbers)
    assert np.array_equal(np.argsort(numbers, kind="stable"), np.argsort(found, kind="stable"))


@given(st.lists(anything, max_size=5))
def test_any_column_gives_one_verdict_per_row(values):
    for clean in (lambda column: clean_ids(column, Reason.MISSING_ITEM_ID), clean_times):
        found, faults = clean(values)
        assert len(found) == len(faults) == len(values)
    weights, faults = clean_weights(values)
    assert len(weights) == len(values)
    assert np.isfinite(weights[[fault is None for fault in faults]]).sum() <= len(values)


@given(st.lists(anything, min_size=1, max_size=5))
def test_a_verdict_on_an_id_does_not_depend_on_the_rows_beside_it(values):
    assert ids(values) == [ids([value])[0] for value in values]


def test_an_absent_weight_is_nan_and_an_unreadable_one_refused():
    weights, faults = clean_weights(["2.5", "", None, "many", "inf"])
    assert weights[0] == 2.5
    assert np.isnan(weights[1:]).all()
    assert list(faults) == [None, None, None, *[Reason.UNREADABLE_WEIGHT] * 2]
