"""Networks converted to OpenVINO, kept in the user's cache: later loads need no torch.

A kept network is whole and what was written, or it is made anew; a cache that cannot be written
costs time only. It knows files, not graphs.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from encoders.openvino import OpenVinoNetwork, convert, silent_openvino

if TYPE_CHECKING:
    from openvino import Model
    from torch import nn

VERSION = 1  # raise it when conversion changes
GRAPH, SEAL = "network.xml", "seal.json"
Build: TypeAlias = "Callable[[], tuple[nn.Module, Mapping[str, NDArray[Any]]]]"


def openvino_network(build: Build, *, name: str, precision: str, streams: int) -> OpenVinoNetwork:
    """Return the network of this name from the cache, or convert what `build` makes and keep it.

    build: returns the module and an example of its inputs. name: identifies module and weights;
    what else decides the file is added to it.
    """
    parts = [name, precision == "int8", version("openvino"), VERSION]
    stamp = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    folder = cache_folder() / stamp
    if not _sound(folder):
        model = convert(*build(), precision=precision)
        if not _keep(model, folder):
            return OpenVinoNetwork(model, precision=precision, streams=streams)
    return OpenVinoNetwork(folder / GRAPH, precision=precision, streams=streams)


def cache_folder() -> Path:
    """Return where converted networks are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "itemnest" / "networks"


def _sound(folder: Path) -> bool:
    """Tell whether a kept network is there and is what was written."""
    try:
        seal = json.loads((folder / SEAL).read_text())
        return all(_sha256(folder / name) == digest for name, digest in seal.items())
    except (OSError, ValueError):
        return False


def _keep(model: "Model", folder: Path) -> bool:
    """Write a network into the cache, whole or not at all; tell whether it is there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    except OSError:  # a cache that cannot be written
        return False
    try:
        _write(model, draft)
        if not _sound(folder):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process has just kept the same
            draft.rename(folder)
    except (OSError, RuntimeError):  # a full disk
        return False
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _sound(folder)


def _write(model: "Model", draft: Path) -> None:
    silent_openvino().save_model(model, draft / GRAPH, compress_to_fp16=False)
    seal = {file.name: _sha256(file) for file in draft.iterdir()}
    (draft / SEAL).write_text(json.dumps(seal))


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
