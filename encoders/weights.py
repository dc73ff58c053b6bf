"""Weight files: found, checked against their SHA-256, never executed. Knows no model.

The packages that carry weights are located, not imported: their code does not run.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


class WeightsError(RuntimeError):
    """Weights that are absent, of another version, or not the bytes they should be."""


@dataclass(frozen=True, slots=True)
class Package:
    """Weights inside an installed distribution: its exact version, and its files' SHA-256."""

    distribution: str
    version: str
    module: str
    files: tuple[tuple[str, str], ...]

    def folder(self) -> Path:
        """Return the module's folder once version and every file are what they should be."""
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
            file = root / name
            if not file.is_file() or sha256(file) != expected:
                raise WeightsError(
                    f"{name} of {self.distribution} is missing or not the published file: "
                    f"{remedy} --force-reinstall"
                )
        return root


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
