"""itemnest.toml as frozen settings: every key has a default, an unknown key is an error.

It knows names, types, ranges and where the file is. It does not know what the settings do.
"""

import dataclasses
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from encoders.images import MAX_PIXELS
from store.releases import CHANNEL

FILE = "itemnest.toml"
FILE_VARIABLE = "ITEMNEST_SETTINGS"  # names another file
MAX_DIM = 4096
FIVE_FIELDS = re.compile(r"[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}")


class SettingsError(ValueError):
    """itemnest.toml says something that Itemnest does not understand."""


@dataclass(frozen=True, slots=True)
class Encoders:
    """Specs of the two towers, as `encoders.registry.tower` reads them; "none" leaves one out."""

    text: str = "minilm-l6"
    image: str = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the daily run starts."""

    cron: str = "0 3 * * *"
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Ingest:
    """What a catalogue may ask of this machine."""

    fetch_urls: bool = False
    allow_private_addresses: bool = False
    max_image_pixels: int = MAX_PIXELS
    max_image_bytes: int = 20_000_000
    max_text_chars: int = 20_000


@dataclass(frozen=True, slots=True)
class Release:
    """Where releases go, and how many stay readable."""

    channel: str = CHANNEL
    keep: int = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that itemnest.toml can say. Paths are absolute once loaded from a file."""

    catalogue: Path = Path("catalogue")
    store: str = "data/store"
    dims: tuple[int, ...] = (32, 64, 128, 256)
    seed: int = 0
    encoders: Encoders = field(default_factory=Encoders)
    schedule: Schedule = field(default_factory=Schedule)
    ingest: Ingest = field(default_factory=Ingest)
    release: Release = field(default_factory=Release)


def load(path: Path) -> Settings:
    """Read itemnest.toml; relative paths in it are relative to its folder.

    Raises FileNotFoundError without the file, SettingsError for anything in it that does not fit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    return parse(content, folder=path.parent.resolve(), source=str(path))


def load_current() -> Settings:
    """Read the file that $ITEMNEST_SETTINGS names, else ./itemnest.toml; without one, defaults."""
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named or FILE)
    return load(path) if named or path.is_file() else parse({}, folder=Path.cwd())


def write_default(path: Path, *, catalogue: str = "catalogue", store: str = "data/store") -> Path:
    """Write an itemnest.toml that explains every key; FileExistsError rather than overwrite one."""
    values = Settings(catalogue=Path(catalogue), store=store)
    lines = ["# Itemnest settings. Every key may be left out; relative paths start at this file."]
    for name in _names(Settings):
        value = getattr(values, name)
        if not dataclasses.is_dataclass(value):
            lines += _explained(name, name, value)
    for name in _names(Settings):
        section = getattr(values, name)
        if dataclasses.is_dataclass(section):
            lines += ["", f"[{name}]"]
            for key in _names(section):
                lines += _explained(f"{name}.{key}", key, getattr(section, key))
    with path.open("x", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def parse(
    content: Mapping[str, Any], *, folder: Path = Path(), source: str = "itemnest.toml"
) -> Settings:
    """Check a parsed itemnest.toml; `source` names it in errors."""
    settings = cast(Settings, _section(Settings, content, "", source))
    for key, (holds, expected) in CHECKS.items():
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        if not holds(value):
            raise SettingsError(f"{source}: {key} = {value!r}, where {expected} is expected")
    return dataclasses.replace(
        settings,
        catalogue=folder / settings.catalogue,
        store=settings.store if "://" in settings.store else str(folder / settings.store),
    )


def _section(kind: type, content: Mapping[str, Any], prefix: str, source: str) -> object:
    """Build one dataclass from one TOML table."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in fields:
            raise SettingsError(f"{source}: unknown key {prefix + key!r}{_nearest(key)}")
        values[key] = _value(fields[key].type, value, prefix + key, source)
    return kind(**values)


def _value(kind: Any, value: Any, key: str, source: str) -> Any:
    """Convert one TOML value to the type of its field."""
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _section(cast(type, kind), value, f"{key}.", source)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind == tuple[int, ...] and isinstance(value, list):
        return tuple(_value(int, each, key, source) for each in value)
    if kind in (str, int, bool) and type(value) is kind:  # True is an int in Python, not here
        return value
    expected = TYPE_NAMES.get(kind, "a table")
    raise SettingsError(f"{source}: {key} = {value!r}, where {expected} is expected")


def _nearest(key: str) -> str:
    """Name the known key that looks most like `key`, with its section."""
    sections = [("", Settings), *((f"{f.name}.", f.type) for f in dataclasses.fields(Settings))]
    known = {
        f.name: prefix + f.name
        for prefix, kind in sections
        if dataclasses.is_dataclass(kind)
        for f in dataclasses.fields(kind)
    }
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f": did you mean {known[close[0]]!r}?"
    return f"; known are {', '.join(sorted(known.values()))}"


def _names(section: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(section)]


def _explained(full: str, key: str, value: Any) -> list[str]:
    """Return the lines of one key: what it is, and its value as TOML."""
    plain = str(value) if isinstance(value, Path) else value
    # JSON's text, numbers, lists and booleans are TOML too
    return [f"# {MEANING[full]}", f"{key} = {json.dumps(plain, ensure_ascii=False)}"]


def _ladder(dims: tuple[int, ...]) -> bool:
    return bool(dims) and list(dims) == sorted(set(dims)) and dims[0] >= 2 and dims[-1] <= MAX_DIM


def _zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


def _at_least_one(value: int) -> bool:
    return value >= 1


def _decodable(pixels: int) -> bool:
    return 1 <= pixels <= MAX_PIXELS


TYPE_NAMES: dict[Any, str] = {
    str: "text",
    Path: "text",
    int: "a whole number",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers",
}
MEANING = {
    "catalogue": "the folder with items.*, interactions.* and the images",
    "store": "where the tables and releases live: a folder, s3://bucket/path, gs://bucket/path",
    "dims": "the published granularities, growing",
    "seed": "same inputs, same seed, same machine: same vectors",
    "encoders.text": 'the text tower: minilm-l6, open_clip:MODEL@/path/to/checkpoint or "none"',
    "encoders.image": "the image tower: efficientnet-lite0, open_clip:MODEL@/path/to/checkpoint"
    ' or "none"',
    "schedule.cron": "when the nightly run starts",
    "schedule.timezone": "the time zone of that clock",
    "ingest.fetch_urls": "fetch the pictures that image_url names",
    "ingest.allow_private_addresses": "also from this machine and its private network",
    "ingest.max_image_pixels": "larger pictures are refused before they are decoded",
    "ingest.max_image_bytes": "larger files are not read",
    "ingest.max_text_chars": "longer texts are cut",
    "release.channel": "who opens it reads the new releases; others wait for `itemnest promote`",
    "release.keep": "how many releases stay readable",
}
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "store": (bool, "a folder or a URI"),
    "dims": (_ladder, f"a growing list of dimensions from 2 to {MAX_DIM}"),
    "seed": (lambda seed: 0 <= seed < 2**32, "a number from 0 to 2^32 - 1"),
    "encoders.text": (bool, 'a tower or "none"'),
    "encoders.image": (bool, 'a tower or "none"'),
    "schedule.cron": (lambda cron: bool(FIVE_FIELDS.fullmatch(cron)), "five cron fields"),
    "schedule.timezone": (_zone, "a time zone such as Europe/Vienna"),
    "ingest.max_image_pixels": (_decodable, f"from 1 to {MAX_PIXELS}, what the encoders decode"),
    "ingest.max_image_bytes": (_at_least_one, "at least 1"),
    "ingest.max_text_chars": (_at_least_one, "at least 1"),
    "release.channel": (bool, "a name"),
    "release.keep": (_at_least_one, "at least 1"),
}
