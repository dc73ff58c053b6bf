"""Files that are complete or not there: bytes with a checksum at their end, renamed into place.

It knows bytes. It does not know what they mean.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOOTER = struct.Struct("<8sQI4x")  # magic, bytes before the footer, their CRC-32
MAGIC = b"ITMNEST1"


def write(path: Path, chunks: Iterable[memoryview]) -> None:
    """Write the chunks one after the other; a reader sees all of them or no file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    size = checksum = 0
    try:
        with draft.open("wb") as file:
            for chunk in chunks:
                data = chunk.cast("B")
                file.write(data)
                size, checksum = size + len(data), zlib.crc32(data, checksum)
            file.write(FOOTER.pack(MAGIC, size, checksum))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> NDArray[np.uint8] | None:
    """Map the bytes of a file; None when it is absent, cut short or changed."""
    try:
        data = np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError):  # ValueError: empty
        return None
    size = len(data) - FOOTER.size
    if size <= 0:
        return None
    magic, expected, checksum = FOOTER.unpack(data[size:].tobytes())
    # 1.9 GB/s: 0.5 s for a million 256-wide rows, once per process and file
    if (magic, expected) != (MAGIC, size) or zlib.crc32(data[:size].data) != checksum:
        return None
    return data[:size].view(np.ndarray)
