"""What names a tower: a setting's choice, and that choice completed by the list of known towers.

It knows names and options as data. It loads nothing.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from encoders.network import PRECISIONS

Modality = Literal["text", "image", "multimodal"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
FAMILIES = ("transformers", "timm", "open_clip", "efficientnet-lite0")
RUNTIMES = ("torch", "openvino")
POOLINGS = ("mean", "cls", "last")
_ANY = ("precision", "runtime")
_READS_TEXT = (*_ANY, "pooling", "prefix", "query_prefix", "max_tokens", "windows")
_READS_BOTH = (*_ANY, "prompt", "item_token", "max_tokens", "max_pixels")


@dataclass(frozen=True, slots=True)
class Choice:
    """A tower as a setting names it. What is None is as the tower has it.

    tower: a name of the list, or FAMILY:SOURCE.
    """

    tower: str
    precision: str | None = None
    runtime: str | None = None
    pooling: str | None = None
    prefix: str | None = None
    query_prefix: str | None = None
    max_tokens: int | None = None
    windows: int | None = None
    prompt: str | None = None
    item_token: str | None = None
    max_pixels: int | None = None

    def __str__(self) -> str:
        """Return the tower, with what was chosen besides."""
        more = [f"{name} = {value!r}" for name, value in self.options().items()]
        return self.tower + (f" ({', '.join(more)})" if more else "")

    def options(self) -> dict[str, Any]:
        """Return what was chosen besides the tower."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {name: value for name, value in values.items() if value is not None}

    def as_data(self) -> dict[str, Any]:
        """Return it as `Choice(**data)` takes it: what a release remembers."""
        return {"tower": self.tower, **self.options()}


@dataclass(frozen=True, slots=True)
class Known:
    """A tower of the list: where it comes from, and the options it is meant to have.

    dim and megabytes (of the download) are what its publisher says; 0 is not said.
    """

    family: str
    source: str
    reads: tuple[str, ...] = MODALITIES
    dim: int = 0
    licence: str = "see its publisher"
    megabytes: int = 0
    package: Mapping[str, Any] | None = None
    options: Choice = Choice("")


@cache
def known_towers() -> dict[str, Known]:
    """Return the list, by name: what towers.toml says."""
    content = tomllib.loads(files("encoders").joinpath("towers.toml").read_text(encoding="utf-8"))
    return {name: _known(entry) for name, entry in content.items()}


def _known(entry: Mapping[str, Any]) -> Known:
    own = {field.name for field in fields(Known)}
    values = {key: value for key, value in entry.items() if key in own}
    options = {key: value for key, value in entry.items() if key not in own}
    return Known(**{**values, "reads": tuple(entry["reads"])}, options=Choice("", **options))


def described(choice: Choice, modality: Modality) -> tuple[Known, Choice]:
    """Return what a choice names, and its options completed by the tower's own.

    ValueError for a tower that is not known or does not read the modality, or an unknown option.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality {modality!r}: choose {', '.join(MODALITIES)}")
    found = known_towers().get(choice.tower) or _of_family(choice.tower)
    if found is None or modality not in found.reads:
        fitting = [name for name, each in known_towers().items() if modality in each.reads]
        raise ValueError(
            f"no {modality} encoder is called {choice.tower!r}: choose {', '.join(fitting)}, "
            f"{_forms(modality)} or none"
        )
    _check(choice, _taken(found, modality))
    return found, replace(found.options, tower=choice.tower, **choice.options())


def _taken(known: Known, modality: Modality) -> tuple[str, ...]:
    """Return the options that a tower takes."""
    if known.family != "transformers":
        return _ANY
    return _READS_BOTH if modality == "multimodal" else _READS_TEXT


def _check(choice: Choice, taken: tuple[str, ...]) -> None:
    words = {"precision": PRECISIONS, "runtime": RUNTIMES, "pooling": POOLINGS}
    for name, value in choice.options().items():
        if name not in taken:
            raise ValueError(
                f"{name} = {value!r} means nothing to {choice.tower}: it takes {', '.join(taken)}"
            )
        if name in words and value not in words[name]:
            allowed = ", ".join(words[name])
            raise ValueError(f"{name} = {value!r} of {choice.tower}: choose {allowed}")
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{name} = {value} of {choice.tower}: at least 1 is expected")


def _of_family(tower: str) -> Known | None:
    family, _, source = tower.partition(":")
    reads = {
        "transformers": ("text", "multimodal"),
        "timm": ("image",),
        "open_clip": MODALITIES,
    }
    return Known(family, source, reads[family]) if source and family in reads else None


def _forms(modality: Modality) -> str:
    forms = {
        "transformers": "transformers:FOLDER or transformers:ORGANISATION/MODEL",
        "timm": "timm:FOLDER, timm:ORGANISATION/MODEL or timm:ARCHITECTURE@CHECKPOINT",
        "open_clip": "open_clip:FOLDER, open_clip:hf-hub:ORGANISATION/MODEL or "
        "open_clip:MODEL@CHECKPOINT",
    }
    fitting = ("open_clip", "timm" if modality == "image" else "transformers")
    return ", ".join(forms[family] for family in fitting)


def rooted(choice: Choice, folder: Path) -> Choice:
    """Return the choice with a relative path in it made relative to a folder, where it leads.

    A path is recognised by being there: `transformers:models/e5` is one if folder/models/e5 exists.
    """
    family, colon, source = choice.tower.partition(":")
    parts = [
        str(folder / part) if part and (folder / part).exists() else part
        for part in source.split("@")
    ]
    return replace(choice, tower=f"{family}{colon}{'@'.join(parts)}")
