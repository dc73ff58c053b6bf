"""Rows on stdout: JSON lines for a machine, an aligned table for a terminal.

It knows values, not where they come from.
"""

import base64
import datetime as dt
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import TypeAlias

import numpy as np

CELL = 48  # characters of a table cell
SHOWN = 4  # numbers of a list in a table cell

Row: TypeAlias = Mapping[str, object]


def show(rows: Iterable[Row], *, as_json: bool, columns: Sequence[str] | None = None) -> None:
    """Write the rows; a table shows `columns` of them, by default all."""
    if as_json:
        for row in rows:
            sys.stdout.write(json_line(row) + "\n")
    else:
        sys.stdout.write(table(list(rows), columns))


def json_line(row: Row) -> str:
    """Return one line of strict JSON."""
    plain = {name: _plain(value) for name, value in row.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Return the rows under their headings; columns of numbers are aligned to the right."""
    names = list(columns or (rows[0] if rows else ()))
    cells = [[_printable(name, CELL) for name in names]]
    cells += [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[name]) for row in rows) for name in names]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    return "\n".join([*lines, count] if names else [count]) + "\n"


def _plain(value: object) -> object:
    """Return what JSON can hold; float32 with the 9 digits that make it exactly."""
    match value:
        case np.ndarray() if value.dtype == np.float32:
            return [_scalar(float(f"{x:.9g}")) for x in value.tolist()]
        case np.generic() | np.ndarray():
            return _plain(value.tolist())
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
    return _scalar(value)


def _scalar(value: object) -> object:
    """Return a JSON scalar: a float that is no number becomes null, bytes base64."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case dt.date() | dt.time():
            return value.isoformat()
    return str(value)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.6g}"
        case bytes():
            return f"<{len(value):,} bytes>"
        case dt.datetime():
            return value.isoformat(" ", "seconds")
        case np.ndarray() | list() | tuple() if len(value) > SHOWN and _is_number(value[0]):
            return f"[{', '.join(_short(x) for x in value[:SHOWN])}, … {len(value)}]"
        case np.ndarray() | list() | tuple():
            return _printable(", ".join(_short(item) for item in value), CELL)
    return _printable(str(value), CELL)


def _short(value: object) -> str:
    return f"{float(value):.3g}" if isinstance(value, float | np.floating) else str(value)


def _printable(text: str, width: int) -> str:
    """Return text without control characters, which a terminal might obey, cut at `width`."""
    shown = "".join(c if c.isprintable() else "·" for c in text[: width + 1])
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, Real | Decimal) and not isinstance(value, bool))
