"""The rules that decide what an id, a timestamp and a weight may be, a column at a time.

Every function takes a column (Arrow array or Python list) and returns clean values beside an array
of faults, so that nothing is dropped here: who calls decides what a faulty row means.
"""

import math
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_ID_CHARS = 256
MAX_EXACT = 2**53  # a float64 holds every whole number up to here
REPLACEMENT = "\ufffd"  # stands where a byte could not be decoded

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = (datetime(2100, 1, 1, tzinfo=UTC) - EPOCH) / timedelta(microseconds=1)

Column = pa.Array | list[Any]
Floats = NDArray[np.float64]
Faults = NDArray[np.object_]  # a Reason where the row is refused, else None


class Reason(StrEnum):
    """Why a row, or a part of it, was refused."""

    MALFORMED_JSON = "malformed_json"
    WRONG_FIELD_COUNT = "wrong_field_count"
    MALFORMED_CSV = "malformed_csv"
    LINE_TOO_LONG = "line_too_long"
    MISSING_ITEM_ID = "missing_item_id"
    MISSING_USER_ID = "missing_user_id"
    NOT_AN_ID = "not_an_id"
    UNDECODABLE_ID = "undecodable_id"
    CONTROL_CHARACTER_IN_ID = "control_character_in_id"
    ID_TOO_LONG = "id_too_long"
    REPEATED_ID = "repeated_id"
    IN_CATALOGUE = "in_catalogue"
    UNKNOWN_ITEM = "unknown_item"
    MISSING_TIMESTAMP = "missing_timestamp"
    UNREADABLE_TIMESTAMP = "unreadable_timestamp"
    NEGATIVE_TIMESTAMP = "negative_timestamp"
    FAR_FUTURE_TIMESTAMP = "far_future_timestamp"
    UNREADABLE_WEIGHT = "unreadable_weight"
    UNREADABLE_ATTRIBUTES = "unreadable_attributes"
    OUTSIDE_CATALOGUE = "outside_catalogue"
    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    TOO_MANY_BYTES = "too_many_bytes"
    URLS_NOT_ALLOWED = "urls_not_allowed"
    BAD_URL = "bad_url"
    PRIVATE_ADDRESS = "private_address"
    FETCH_FAILED = "fetch_failed"
    NOT_BASE64 = "not_base64"


class Progress(Protocol):
    """Hears how far a long step is; the total is None while it is unknown."""

    def __call__(self, done: int, total: int | None, what: str, /) -> None: ...  # noqa: D102


def silent(done: int, total: int | None, what: str, /) -> None:
    """Report progress to nobody."""


def clean_ids(column: Column, missing: Reason) -> tuple[pa.StringArray, Faults]:
    """Return ids as trimmed strings and the faults; integers mean their decimal string.

    `missing` is the fault of an empty or absent id. A faulty id keeps its text, for the record.
    """
    values = _arrow(column)
    text = pc.utf8_trim_whitespace(_id_text(values))
    faults = np.full(len(text), None, object)
    if isinstance(column, list) and _uniform(column) is None:
        _mark(faults, np.fromiter(map(_no_id, column), bool, len(column)), Reason.NOT_AN_ID)
    _mark(faults, _mask(pc.and_(pc.is_valid(values), pc.is_null(text))), Reason.NOT_AN_ID)
    _mark(faults, _mask(pc.equal(pc.fill_null(text, ""), "")), missing)
    _mark(faults, _mask(pc.match_substring(text, REPLACEMENT)), Reason.UNDECODABLE_ID)
    _mark(faults, _mask(pc.match_substring_regex(text, r"\p{Cc}")), Reason.CONTROL_CHARACTER_IN_ID)
    _mark(faults, _mask(pc.greater(pc.utf8_length(text), MAX_ID_CHARS)), Reason.ID_TOO_LONG)
    return text, faults


def clean_times(column: Column) -> tuple[NDArray[np.int64], Faults]:
    """Return timestamps as int64 microseconds since 1970 (UTC) and the faults.

    Numbers tell their unit by their size, each unit covering 1973 to 2100: seconds, milliseconds,
    microseconds, nanoseconds. Smaller ones are order numbers and stay as they are. Text may hold
    such a number or ISO 8601, UTC where it names no zone. A refused row's value is 0.
    """
    values = _arrow(column)
    faults = np.full(len(values), None, object)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        micros = _in_range(_plain_floats(_utc_micros(values)))
    elif _is_number(values.type):
        micros = _by_size(_plain_floats(values))
    else:
        text = pc.utf8_trim_whitespace(_text(values))
        _mark(faults, _mask(pc.equal(text, "")), Reason.MISSING_TIMESTAMP)
        micros = _text_micros(text)
    _mark(faults, _mask(pc.is_null(values)), Reason.MISSING_TIMESTAMP)
    _mark(faults, np.isnan(micros), Reason.UNREADABLE_TIMESTAMP)
    _mark(faults, micros < 0, Reason.NEGATIVE_TIMESTAMP)
    _mark(faults, micros == np.inf, Reason.FAR_FUTURE_TIMESTAMP)
    return np.where(sound(faults), micros, 0).astype(np.int64), faults


def clean_weights(column: Column) -> tuple[NDArray[np.float32], Faults]:
    """Return weights as float32 and the faults; NaN where the weight is absent or refused."""
    values = _arrow(column)
    text = _text(values) if not _is_number(values.type) else None
    numbers = _plain_floats(values) if text is None else _text_numbers(text)
    absent = _mask(pc.is_null(values) if text is None else pc.equal(pc.fill_null(text, ""), ""))
    faults = np.full(len(values), None, object)
    unreadable = ~absent & ~(np.abs(numbers) <= np.finfo(np.float32).max)
    _mark(faults, unreadable, Reason.UNREADABLE_WEIGHT)
    return np.where(absent | unreadable, np.nan, numbers).astype(np.float32), faults


def sound(faults: Faults) -> NDArray[np.bool_]:
    """Return where there is no fault."""
    return faults == None  # noqa: E711


def as_text(column: Column) -> pa.StringArray:
    """Return any column as text, undecodable bytes replaced."""
    return _text(_arrow(column))


def _mark(faults: Faults, where: NDArray[np.bool_], reason: Reason) -> None:
    """Note a reason where no earlier one stands: the first fault found is the one told."""
    if where.any():
        faults[where & sound(faults)] = reason


def _mask(condition: pa.Array) -> NDArray[np.bool_]:
    """Return an Arrow condition as numpy; null counts as false."""
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)


def _arrow(column: Column) -> pa.Array:
    """Return the column as one Arrow array; values of several types become text."""
    values = _list_array(column) if isinstance(column, list) else column
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:  # a file may call bytes text that are none
        return values.cast(pa.binary())
    return values


def _list_array(values: list[Any]) -> pa.Array:
    array = _uniform(values)
    return pa.array(list(map(_as_text, values)), pa.string()) if array is None else array


def _uniform(values: list[Any]) -> pa.Array | None:
    """Return the values as an array, None if they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError):
        return None


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs, which no UTF-8 can hold, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _no_id(value: Any) -> bool:
    """Tell whether a value of a list can be no id whatever it says."""
    if isinstance(value, float):
        return not value.is_integer() or abs(value) > MAX_EXACT
    return value is not None and (
        isinstance(value, bool) or not isinstance(value, str | int | bytes)
    )


def _id_text(values: pa.Array) -> pa.StringArray:
    """Return what may be an id as text, and null for what may not."""
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = _plain_floats(values)
        whole = (numbers == np.round(numbers)) & (np.abs(numbers) <= MAX_EXACT)
        return pa.array(np.where(whole, numbers, 0).astype(np.int64), mask=~whole).cast(pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        return pa.nulls(len(values), pa.string())
    return _text(values)


def _text(values: pa.Array) -> pa.StringArray:
    """Return any column as text."""
    try:
        return values.cast(pa.string())
    except pa.ArrowException:  # bytes that are no UTF-8, nested values
        return pa.array([_as_text(value) for value in values.to_pylist()], pa.string())


def _plain_floats(values: pa.Array) -> Floats:
    """Return numbers as float64, exact up to 2^53; null becomes NaN."""
    return pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _text_numbers(text: pa.StringArray) -> Floats:
    """Return the numbers that texts spell; NaN for every other text."""
    spelled = pc.utf8_trim_whitespace(text)
    spells = pc.match_substring_regex(spelled, r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?$")
    return _plain_floats(pc.if_else(spells, spelled, None).cast(pa.float64()))


def _text_micros(text: pa.StringArray) -> Floats:
    """Return the microseconds that texts spell, as numbers or as ISO 8601."""
    micros = _by_size(_text_numbers(text))
    dates = np.isnan(micros) & _mask(pc.is_valid(text))
    if dates.any():
        micros[dates] = _in_range(_iso_micros(text.filter(pa.array(dates))))
    return micros


def _iso_micros(text: pa.StringArray) -> Floats:
    """Return the microseconds of ISO 8601 texts; NaN for what is none."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):  # all without zone, or all with
        try:
            return _plain_floats(text.cast(kind).cast(pa.int64()))
        except pa.ArrowInvalid:
            continue
    return np.array([_one_iso(value) for value in text.to_pylist()], np.float64)


def _one_iso(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    elapsed = moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH
    return elapsed / timedelta(microseconds=1)


def _utc_micros(values: pa.Array) -> pa.Array:
    """Return Arrow dates and timestamps as microseconds; a zone only changes how they print."""
    zone = getattr(values.type, "tz", None)
    return pc.cast(values, pa.timestamp("us", zone), safe=False).cast(pa.int64())


def _by_size(numbers: Floats) -> Floats:
    """Return microseconds of numbers whose unit their size tells; far future is infinite."""
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    with np.errstate(over="ignore"):
        micros = np.select(
            [numbers < 1e8, numbers < 1e11, numbers < 1e14, numbers < 1e17],
            [numbers, numbers * 1e6, numbers * 1e3, numbers],
            numbers / 1e3,
        )
    return _in_range(micros)


def _in_range(micros: Floats) -> Floats:
    return np.where(micros > LATEST, np.inf, micros)
