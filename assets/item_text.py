"""Text of an item: how a value is cleaned and printed, and the sentences that an encoder reads.

It knows words, not rows: which columns an item has and where they are stored is decided elsewhere.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from assets.rules import REPLACEMENT, whole_characters

TEMPLATE = "sentences-1"  # raise it when the same values would give other sentences
LEADING = ("title", "brand", "category", "categories")
MAX_NAME_CHARS = 100
MAX_DEPTH = 8  # of objects and lists in each other
# controls, marks that turn the writing direction, zero-width blanks, byte-order marks
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

Value = str | int | float | bool | list[str]


class Cleaner:
    """Cleans values by rule and counts in `notes` what it had to change."""

    def __init__(self, max_chars: int) -> None:
        self.max_chars = max_chars
        self.notes: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """Return NFC text without control characters, blanks collapsed, cut to the limit."""
        if len(text) <= self.max_chars and text.isascii() and text.isprintable():
            return " ".join(text.split())
        if len(text) > 4 * self.max_chars:  # bound the work below; most of it would be cut anyway
            text = text[: 4 * self.max_chars]
        text = whole_characters(text)
        self.notes["undecodable_text"] += REPLACEMENT in text
        blank = " ".join(text.split())
        seen = UNSEEN.sub("", blank)
        self.notes["control_characters_removed"] += len(seen) < len(blank)
        return self.cut(" ".join(unicodedata.normalize("NFC", seen).split()))

    def cut(self, text: str) -> str:
        """Return the text, cut at the limit."""
        self.notes["text_cut"] += len(text) > self.max_chars
        return text[: self.max_chars].rstrip()

    def value(self, value: Any, *, depth: int = 0) -> Value | None:
        """Return an attribute's value as one of the few types that a table keeps; None if empty."""
        if isinstance(value, str):
            return self.text(value) or None
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, Mapping):  # inside a list: the object's values, its keys with them
            value = [part for pair in value.items() for part in pair]
        if isinstance(value, Sequence):
            return self._list(value, depth)
        return self._rare(value)

    def _list(self, values: Sequence[Any], depth: int) -> list[str] | None:
        if depth > MAX_DEPTH:
            self.notes["nested_too_deep"] += 1
            return None
        cleaned = [self.value(each, depth=depth + 1) for each in values]
        return [plain(each) for each in cleaned if each is not None] or None

    def _bytes(self, data: bytes) -> str | None:
        if b"\0" in data:
            self.notes["binary_left_out"] += 1
            return None
        return self.text(data.decode("utf-8", "replace")) or None

    def _rare(self, value: Any) -> Value | None:
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return str(value)
        number = float(value)  # float, Decimal
        return number if math.isfinite(number) else None


def plain(value: Any) -> str:
    """Print a value the way a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return str(value)


def sentences(fields: Mapping[str, Value | None]) -> str:
    """Render an item as "key: value" sentences: the leading keys, then the others as they come.

    Absent values and web addresses say nothing to a language model and are left out.
    """
    keys = [*(key for key in LEADING if key in fields), *(k for k in fields if k not in LEADING)]
    parts = []
    for key in keys:
        value = fields[key]
        text = "" if value is None else plain(value)
        if text and not text.startswith(("http://", "https://")):
            parts.append(f"{key.replace('_', ' ')}: {text.rstrip('.')}.")
    return " ".join(parts)


def text_hash(text: str) -> str | None:
    """Identify a rendered text and the template that rendered it; None for an empty text."""
    return digest(TEMPLATE, text) if text else None


def digest(*parts: str | bytes) -> str:
    """Return a short hex digest of several parts, none of which can run into the next."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()
