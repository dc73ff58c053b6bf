"""Attribute columns: which ones a catalogue has, what type each is, what SQL may call it.

It sees the values of a whole file once, a row at a time, and then converts each to its column's
type. It knows no tables.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from assets.item_text import Value, plain

MAX_COLUMNS = 256
MAX_SQL_NAME_CHARS = 60
TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "list": pa.list_(pa.string()),
}
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")  # no leading zeros: 007 is a name
NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,17})?([eE][+-]?\d{1,2})?")  # finite, exact enough
# words that DuckDB does not take as a column name without quotes
RESERVED_WORDS = """
    all analyse analyze and any array as asc asymmetric both case cast check collate column
    constraint create default deferrable desc describe distinct do else end except false fetch
    for foreign from grant group having in initially intersect into lambda lateral leading limit
    not null offset on only or order pivot pivot_longer pivot_wider placing primary qualify
    references returning select show some summarize symmetric table then to trailing true union
    unique unpivot using variadic when where window with
"""
RESERVED = frozenset(RESERVED_WORDS.split())


@dataclass(frozen=True, slots=True)
class Columns:
    """The attribute columns of a catalogue: source key -> (SQL name, kind)."""

    by_key: Mapping[str, tuple[str, str]]
    left_out: int  # keys beyond MAX_COLUMNS: in the text of their items, not columns
    others: Mapping[str, str] = field(default_factory=dict)  # SQL name -> kind, of older rows

    def fields(self) -> list[pa.Field]:
        """Return the Arrow fields, in order of first appearance."""
        named = {**dict(self.by_key.values()), **self.others}
        return [pa.field(name, TYPES[kind]) for name, kind in named.items()]

    def joined(self, fields: Iterable[pa.Field]) -> "Columns":
        """Return columns that hold the values of these fields too."""
        kinds = {each.name: kind_of(each.type) for each in fields}
        by_key = {
            key: (name, merged({kind, kinds.pop(name, kind)}))
            for key, (name, kind) in self.by_key.items()
        }
        return Columns(by_key, self.left_out, kinds)

    def fit(self, key: str, value: Value | None) -> Value | None:
        """Return a value as its column's type."""
        if value is None or key not in self.by_key:
            return value
        return convert(value, self.by_key[key][1])


class Survey:
    """Collects the keys of rows and the kinds of their values."""

    def __init__(self, *, spelled: bool) -> None:
        """`spelled`: the file holds text only, so that "7" may be a number."""
        self._spelled = spelled
        self._kinds: dict[str, set[str]] = {}

    def add(self, fields: Mapping[str, Value | None]) -> None:
        """Take note of one row's attributes."""
        for key, value in fields.items():
            kinds = self._kinds.setdefault(key, set())
            if value is not None:
                kinds.add(_spelled_kind(value) if self._spelled else _kind(value))

    def columns(self, *, taken: Iterable[str]) -> Columns:
        """Decide names and types; `taken` are names that mean something else."""
        names, fixed = {}, frozenset(taken)
        used = set(fixed)
        for key in list(self._kinds)[:MAX_COLUMNS]:
            name = _free(sql_name(key, fixed), used)
            used.add(name)
            names[key] = (name, merged(self._kinds[key]))
        return Columns(names, max(0, len(self._kinds) - MAX_COLUMNS))


def sql_name(key: str, taken: Iterable[str] = ()) -> str:
    """Return a plain lower-case SQL identifier for a key; `attr_` where it would be ambiguous."""
    ascii_only = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "_", ascii_only.lower()).strip("_")[:MAX_SQL_NAME_CHARS]
    if not name or name[0].isdigit() or name in RESERVED or name in taken:
        return f"attr_{name}".strip("_")
    return name


def merged(kinds: set[str]) -> str:
    """Return the one kind that holds values of several: mixed ones become text."""
    if kinds == {"int64", "float64"}:
        return "float64"
    return next(iter(kinds)) if len(kinds) == 1 else "string"


def kind_of(kind: pa.DataType) -> str:
    """Return the kind of an Arrow type; text for one that no catalogue column has."""
    return next((name for name, known in TYPES.items() if known == kind), "string")


def convert(value: Any, kind: str) -> Value:
    """Return a value as one of the kinds."""
    if kind == "bool" and isinstance(value, str):
        return value.lower() == "true"
    if kind in ("int64", "float64"):
        return int(value) if kind == "int64" else float(value)
    if kind == "list":
        return value if isinstance(value, list) else [plain(value)]
    return plain(value) if kind == "string" else value


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    if isinstance(value, float):
        return "float64"
    return "list" if isinstance(value, list) else "string"


def _spelled_kind(value: Value) -> str:
    if not isinstance(value, str):
        return _kind(value)
    if value.lower() in ("true", "false"):
        return "bool"
    if WHOLE.fullmatch(value):
        return "int64"
    return "float64" if NUMBER.fullmatch(value) else "string"


def _free(name: str, used: set[str]) -> str:
    """Return the name, numbered if another key already has it."""
    number, candidate = 2, name
    while candidate in used:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
