"""Where a model's files are: found, identified by their SHA-256, never executed. Knows no model.

Packages that carry weights are located, not imported: their code does not run. The network is used
only by `Hub`, only if it is told that it may, and not while HF_HUB_OFFLINE is set.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

DESCRIBING = (".json", ".jinja", ".txt", ".model", ".tiktoken")
TENSORS = (".safetensors", ".bin", ".pt", ".pth")  # of two kinds in a folder, the first is read
FETCHED = [f"*{suffix}" for suffix in (*DESCRIBING, *TENSORS)]
UNREAD = ["onnx/*", "openvino/*", "*.onnx", "training_args.bin", "optimizer.*", "*/checkpoint*"]


class WeightsError(RuntimeError):
    """Weights that are absent, of another version, or not the bytes they should be."""


class Place(Protocol):
    """Where the files of a model are."""

    def folder(self, *, download: bool) -> Path:
        """Return the folder that holds them; WeightsError says how to get them."""
        ...


@dataclass(frozen=True, slots=True)
class Package:
    """Weights inside an installed distribution: its exact version, and its files' SHA-256."""

    distribution: str
    version: str
    module: str
    inside: str
    files: tuple[tuple[str, str], ...]

    def folder(self, *, download: bool = False) -> Path:
        """Return the folder once version and every file are what they should be."""
        remedy = f"pip install {self.distribution}=={self.version}"
        root = package_folder(self.module)
        try:
            installed = version(self.distribution)
        except PackageNotFoundError:
            installed = "no version"
        if root is None or installed != self.version:
            raise WeightsError(
                f"{self.distribution} {self.version} is needed, {installed} is installed: {remedy}"
            )
        for name, expected in self.files:
            file = root / self.inside / name
            if not file.is_file() or sha256(file) != expected:
                raise WeightsError(
                    f"{name} of {self.distribution} is missing or not the published file: "
                    f"{remedy} --force-reinstall"
                )
        return root / self.inside


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the user's."""

    path: str

    def folder(self, *, download: bool = False) -> Path:
        """Return the folder."""
        found = Path(self.path).expanduser()
        if not found.is_dir():
            raise WeightsError(f"no folder {self.path}: name one that holds the model's files")
        return found


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub, from the local cache or, if allowed, downloaded."""

    repository: str
    revision: str | None = None

    def folder(self, *, download: bool) -> Path:
        """Return the snapshot in the cache, fetched first where that is allowed."""
        from huggingface_hub import constants, snapshot_download  # 0.5 s
        from huggingface_hub.errors import LocalEntryNotFoundError

        allowed = download and not constants.HF_HUB_OFFLINE
        try:
            return Path(
                snapshot_download(
                    self.repository,
                    revision=self.revision,
                    allow_patterns=FETCHED,
                    ignore_patterns=UNREAD,
                    local_files_only=not allowed,
                )
            )
        except LocalEntryNotFoundError as error:
            raise WeightsError(self.absent()) from error
        except (OSError, ValueError, RuntimeError) as error:  # no such repository, no connection
            raise WeightsError(f"{self.repository} could not be fetched: {error}") from error

    def absent(self) -> str:
        """Say that the files are not here, and how to get them."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return (
            f"{self.repository} is not on this machine: `hf download {self.repository}{revision}` "
            "fetches it, and so does download = true under [encoders]"
        )


def place(name: str) -> Folder | Hub:
    """Return the place that a text names: a folder, or a repository, perhaps with @REVISION."""
    path = Path(name).expanduser()
    if path.is_dir() or path.is_absolute() or name.startswith(("./", "../", "~")):
        return Folder(name)
    repository, _, revision = name.removeprefix("hf-hub:").partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"{name!r} is neither a folder nor a repository such as BAAI/bge-m3")
    return Hub(repository, revision or None)


def tensor_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, of the safest kind that it has."""
    for suffix in TENSORS:
        found = sorted(path for path in folder.glob(f"*{suffix}") if path.name not in UNREAD)
        if found:
            return found
    raise WeightsError(f"{folder.name} holds no weights: none of its files is {', '.join(TENSORS)}")


def modules_of(folder: Path) -> list[dict[str, Any]]:
    """Return what sentence-transformers lists as the modules of a model, and in which subfolder."""
    file = folder / "modules.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def files_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder that may change a model's numbers."""
    found = tensor_files(folder)
    for part in {"", "1_Pooling", *(module["path"] for module in modules_of(folder))}:
        if (folder / part).is_dir():
            inside = (folder / part).iterdir()
            found += [path for path in inside if path.suffix in (*DESCRIBING, TENSORS[0])]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(set(found))}


def describing_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a folder's own small files: configurations and tokenizers."""
    found = sorted(path for path in folder.iterdir() if path.suffix in DESCRIBING)
    return {path.name: sha256(path) for path in found if path.is_file()}


def refuse_missing(folder: Path, names: Sequence[str]) -> None:
    """Raise WeightsError if there are tensors that a folder lacks: readers would make them up."""
    if names:
        shown = ", ".join(sorted(names)[:3])
        raise WeightsError(
            f"{folder.name} lacks {len(names)} tensors of its model, {shown} among them"
        )


def package_folder(module: str) -> Path | None:
    """Return the folder of an installed top-level package without importing it."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; unchanged files are read once per process."""
    stat = file.stat()
    return _sha256(str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _sha256(file: str, size: int, mtime_ns: int, inode: int) -> str:
    # the other three are part of the cache key
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
