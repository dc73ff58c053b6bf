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

from encoders.encoder import MAX_CHARS
from encoders.images import MAX_PIXELS
from encoders.spec import MODALITIES, Choice, rooted
from store.releases import CHANNEL

FILE = "itemnest.toml"
FILE_VARIABLE = "ITEMNEST_SETTINGS"  # names another file
MAX_DIM = 4096
FIVE_FIELDS = re.compile(r"[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}")


class SettingsError(ValueError):
    """itemnest.toml says something that Itemnest does not understand."""


ENGINES = ("local", "ray")
METHODS = ("covisits", "als", "bpr", "sasrec")  # alignment's; importing it would load torch
TEXT, IMAGE, NONE = Choice("minilm-l6"), Choice("efficientnet-lite0"), Choice("none")


@dataclass(frozen=True, slots=True)
class Encoders:
    """The towers, and where they run; "none" leaves a modality out."""

    text: Choice = TEXT
    image: Choice = IMAGE
    multimodal: Choice = NONE
    device: str = "cpu"
    compile: bool = False
    download: bool = False
    memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Texts that a multimodal language model writes about items, for the text tower to read."""

    tower: Choice = NONE
    max_new_tokens: int = 80
    tokens_per_run: int = 0


@dataclass(frozen=True, slots=True)
class Ray:
    """The cluster that engine = "ray" encodes on."""

    address: str = ""
    workers: int = 2
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0


@dataclass(frozen=True, slots=True)
class Collaborative:
    """How behaviour becomes vectors."""

    method: str = "covisits"


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
    engine: str = "local"
    encoders: Encoders = field(default_factory=Encoders)
    descriptions: Descriptions = field(default_factory=Descriptions)
    ray: Ray = field(default_factory=Ray)
    collaborative: Collaborative = field(default_factory=Collaborative)
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
    encoders, said = settings.encoders, settings.descriptions
    towers = {name: getattr(encoders, name) for name in MODALITIES}
    return dataclasses.replace(
        settings,
        catalogue=folder / settings.catalogue,
        store=settings.store if "://" in settings.store else str(folder / settings.store),
        encoders=dataclasses.replace(
            encoders, **{name: rooted(tower, folder) for name, tower in towers.items()}
        ),
        descriptions=dataclasses.replace(said, tower=rooted(said.tower, folder)),
    )


def _section(kind: type, content: Mapping[str, Any], prefix: str, source: str) -> object:
    """Build one dataclass from one TOML table."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in fields:
            raise SettingsError(f"{source}: unknown key {prefix + key!r}{_nearest(key)}")
        values[key] = _value(fields[key].type, value, prefix + key, source)
    for name, each in fields.items():
        needed = each.default is each.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise SettingsError(f"{source}: {prefix + name} is missing")
    return kind(**values)


def _value(kind: Any, value: Any, key: str, source: str) -> Any:
    """Convert one TOML value to the type of its field."""
    kind = OPTIONAL.get(kind, kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _section(cast(type, kind), value, f"{key}.", source)
    if kind in (Path, Choice) and isinstance(value, str):
        return kind(value)
    if kind == tuple[int, ...] and isinstance(value, list):
        return tuple(_value(int, each, key, source) for each in value)
    if kind in (str, int, bool) and type(value) is kind:  # True is an int in Python, not here
        return value
    expected = TYPE_NAMES.get(kind, "a table")
    raise SettingsError(f"{source}: {key} = {value!r}, where {expected} is expected")


def _nearest(key: str) -> str:
    """Name the known key that looks most like `key`, with its section."""
    sections = [("", Settings), *((f"{f.name}.", f.type) for f in dataclasses.fields(Settings))]
    sections.append(("encoders.text.", Choice))
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
    plain = str(value) if isinstance(value, Path | Choice) else value
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


def _not_negative(value: int) -> bool:
    return value >= 0


def _readable(chars: int) -> bool:
    return 1 <= chars <= MAX_CHARS


def _decodable(pixels: int) -> bool:
    return 1 <= pixels <= MAX_PIXELS


OPTIONAL: dict[Any, type] = {str | None: str, int | None: int}
TYPE_NAMES: dict[Any, str] = {
    str: "text",
    Path: "text",
    Choice: "the name of a tower, or a table with that name as `tower`",
    int: "a whole number",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers",
}
MEANING = {
    "catalogue": "the folder with items.*, interactions.* and the images",
    "store": "where the tables and releases live: a folder, s3://bucket/path, gs://bucket/path",
    "dims": "the published granularities, growing",
    "seed": "same inputs, same seed, same machine: same vectors",
    "engine": "where items are encoded: local, or ray",
    "encoders.text": "the text tower: a name that `itemnest encoders` lists, FAMILY:SOURCE or none",
    "encoders.image": "the image tower",
    "encoders.multimodal": "a tower that reads text and image at once",
    "encoders.device": "cpu, cuda or mps",
    "encoders.compile": "let torch.compile make kernels first: worth it for large catalogues",
    "encoders.download": "fetch weights that are not on this machine (HF_HUB_OFFLINE wins)",
    "encoders.memory_mb": "what running models may take; 0 is half of what is free",
    "descriptions.tower": "a multimodal language model that describes every item in words",
    "descriptions.max_new_tokens": "how long a description may be",
    "descriptions.tokens_per_run": "tokens read and written per run, the rest waits; 0 is no limit",
    "ray.address": "of a running cluster; empty starts one on this machine for the run",
    "ray.workers": "how many workers hold a tower",
    "ray.cpus_per_worker": "cores that a worker reserves",
    "ray.gpus_per_worker": "GPUs that a worker reserves",
    "collaborative.method": "covisits, als or bpr (by itemnest[implicit]), or sasrec",
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
    "engine": (lambda name: name in ENGINES, " or ".join(ENGINES)),
    "encoders.text.tower": (bool, 'a tower or "none"'),
    "encoders.image.tower": (bool, 'a tower or "none"'),
    "encoders.multimodal.tower": (bool, 'a tower or "none"'),
    "encoders.device": (bool, "cpu, cuda or mps"),
    "encoders.memory_mb": (_not_negative, "at least 0"),
    "descriptions.tower.tower": (bool, 'a tower or "none"'),
    "descriptions.max_new_tokens": (_at_least_one, "at least 1"),
    "descriptions.tokens_per_run": (_not_negative, "at least 0"),
    "ray.workers": (_at_least_one, "at least 1"),
    "ray.cpus_per_worker": (_not_negative, "at least 0"),
    "ray.gpus_per_worker": (_not_negative, "at least 0"),
    "collaborative.method": (lambda name: name in METHODS, ", ".join(METHODS)),
    "schedule.cron": (lambda cron: bool(FIVE_FIELDS.fullmatch(cron)), "five cron fields"),
    "schedule.timezone": (_zone, "a time zone such as Europe/Vienna"),
    "ingest.max_image_pixels": (_decodable, f"from 1 to {MAX_PIXELS}, what the encoders decode"),
    "ingest.max_image_bytes": (_at_least_one, "at least 1"),
    "ingest.max_text_chars": (_readable, f"from 1 to {MAX_CHARS:,}, what the encoders read"),
    "release.channel": (bool, "a name"),
    "release.keep": (_at_least_one, "at least 1"),
}
