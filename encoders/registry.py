"""Towers: what encodes which modality, from which weights, how exactly. Loading one is the work.

Imports no model library: a tower's digest is known in milliseconds, before anything is loaded.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from encoders.clip_source import OpenClip
from encoders.encoder import Encoder
from encoders.image_source import EfficientNetLite0, Timm
from encoders.machine import Machine
from encoders.mllm_source import MultimodalModel
from encoders.spec import Choice, Known, Modality, described, known_towers
from encoders.text_source import TransformersText
from encoders.weights import Package, Place, WeightsError, place, tensor_files

if TYPE_CHECKING:
    from encoders.describe import Describer

HERE = Machine()
BATCH = {"text": 512, "image": 256, "multimodal": 32}  # items that are encoded and kept together


class Source(Protocol):
    """Where a tower's numbers come from."""

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes the numbers."""
        ...

    def load(self, digest: str, *, query: bool = False) -> Encoder:
        """Check the weights and build the encoder."""
        ...


@dataclass(frozen=True)
class Tower:
    """One encoder of one modality, not loaded yet.

    name: how the setting calls it. choice: the same with nothing left open.
    """

    name: str
    choice: Choice
    modality: Modality
    licence: str
    source: Source

    @property
    def batch(self) -> int:
        """How many items are encoded and kept together."""
        return BATCH[self.modality]

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return self.source.dim

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change when the numbers do; needs no model."""
        return _digest(
            {
                "modality": self.modality,
                "dim": self.dim,
                "precision": self.choice.precision,
                **self.source.identity(),
            }
        )

    def load(self, *, query: bool = False) -> Encoder:
        """Check the weights and build the encoder: seconds, and the memory of the model.

        query: for what is searched for, which some models read behind another prefix than items.
        """
        return self.source.load(self.digest, query=query)


@dataclass(frozen=True)
class DescriberTower:
    """A multimodal language model that writes descriptions, not loaded yet."""

    name: str
    choice: Choice
    max_new_tokens: int
    source: MultimodalModel

    @property
    def batch(self) -> int:
        """How many items are described and kept together."""
        return BATCH["multimodal"]

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change when the descriptions do; needs no model."""
        return _digest(
            {
                "describer": 1,  # raise it when describe.py changes what is said
                "precision": self.choice.precision,
                "max_new_tokens": self.max_new_tokens,
                **self.source.identity(),
            }
        )

    def load(self) -> "Describer":
        """Check the weights and build the model."""
        return self.source.load_describer(self.digest, max_new_tokens=self.max_new_tokens)


def describer(choice: Choice, machine: Machine = HERE, *, max_new_tokens: int) -> DescriberTower:
    """Return the describer that a setting names: a multimodal model of transformers."""
    found = tower(choice, "multimodal", machine)
    if not isinstance(found.source, MultimodalModel):
        raise ValueError(f"{found.name} writes no texts: name a multimodal language model")
    return DescriberTower(found.name, found.choice, max_new_tokens, found.source)


def tower(choice: Choice | str, modality: Modality, machine: Machine = HERE) -> Tower:
    """Return the tower that a setting names.

    choice: a name of `encoders/towers.toml` or FAMILY:SOURCE, with options. ValueError for one that
    is not known, WeightsError once its files are needed and absent.
    """
    choice = Choice(choice) if isinstance(choice, str) else choice
    known, options = described(choice, modality)
    if modality == "multimodal" and known.family == "transformers":
        _refuse_openvino(choice)
    options = _settled(known, choice, options, machine)
    source = _source(known, options, modality, machine)
    return Tower(str(choice), options, modality, known.licence, source)


def missing(name: str) -> str:
    """Say what must be fetched before a tower of the list can be loaded; empty if it is here."""
    known = known_towers()[name]
    try:
        tensor_files(_place(known).folder(download=False))
    except WeightsError as error:
        return str(error)
    return ""


def _digest(identity: dict[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _refuse_openvino(choice: Choice) -> None:
    if choice.runtime == "openvino" or choice.precision == "int8":
        raise ValueError(
            f"{choice} is a multimodal language model, which openvino does not run here: leave "
            "runtime out, and choose float32, bfloat16 or float16"
        )


def _settled(known: Known, choice: Choice, options: Choice, machine: Machine) -> Choice:
    """Return the options with runtime and precision settled for this machine."""
    elsewhere = machine.device != "cpu"
    if elsewhere and choice.runtime == "openvino":
        raise ValueError(f"runtime = 'openvino' runs on a CPU, and device is {machine.device!r}")
    runtime = "torch" if elsewhere else options.runtime or "torch"
    precision = options.precision or "float32"
    if precision == "int8" and runtime == "torch":
        if choice.precision:
            raise ValueError(
                f"precision = 'int8' of {choice.tower} is OpenVINO's: set runtime = 'openvino' "
                "and device = 'cpu', or choose float32, bfloat16 or float16"
            )
        precision = "float32"
    return replace(options, runtime=runtime, precision=precision)


def _source(known: Known, options: Choice, modality: Modality, machine: Machine) -> Source:
    if known.family == "open_clip":
        return OpenClip(known.source, modality, options, machine)
    if known.family == "efficientnet-lite0":
        return EfficientNetLite0(_package(known), options, machine)
    if known.family == "timm":
        architecture, _, checkpoint = known.source.partition("@")
        if checkpoint and "/" not in architecture:
            return Timm(None, architecture, checkpoint, options, machine)
        return Timm(place(known.source), "", "", options, machine, known.dim)
    source = MultimodalModel if modality == "multimodal" else TransformersText
    return source(_place(known), options, machine)


def _place(known: Known) -> Place:
    return _package(known) if known.package else place(known.source)


def _package(known: Known) -> Package:
    assert known.package is not None
    return Package(**{**known.package, "files": tuple(known.package["files"].items())})
