"""Vectors where they lie: the rows of a column, mapped out of Lance's own data files.

It knows how Lance lays out fixed-size lists without nulls: row after row, uncompressed. Whatever
differs from that (deleted rows, another layout, an object store) is left to a scan. A scan of a
million 256-wide rows copies them twice, which takes 0.5 s of arithmetic and, where the kernel is
slow to hand out memory, 2 s more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka.prefix import Vectors
from store.schema import matrix

if TYPE_CHECKING:
    import lance

PLAIN = ("FullZipLayout", "bits_rep: 0", "bits_def: 0", "has_validity: false", "bits_per_value: 32")


def mapped(data: "lance.LanceDataset", column: str) -> list[Vectors] | None:
    """Return a column's rows in table order, as read-only maps; None if a scan must read them.

    data: a dataset in a local folder. The first and the last row of every map are compared with
    what Lance itself reads.
    """
    width = data.schema.field(column).type.list_size
    parts = [part for fragment in data.get_fragments() for part in _pages(data, fragment, column)]
    if not parts or sum(size for _, _, size in parts) != 4 * width * data.count_rows():
        return None
    maps = [
        np.memmap(path, np.float32, "r", start, (size // (4 * width), width)).view(np.ndarray)
        for path, start, size in parts
    ]
    ends = np.cumsum([len(rows) for rows in maps])
    places = np.stack([ends - [len(rows) for rows in maps], ends - 1], axis=1).ravel()
    read = matrix(data.take(places.tolist(), columns=[column])[column])
    same = np.array_equal(read, np.concatenate([rows[[0, -1]] for rows in maps]))
    return maps if same else None


def _pages(
    data: "lance.LanceDataset", fragment: "lance.LanceFragment", column: str
) -> Iterator[tuple[Path, int, int]]:
    """Yield file, offset and bytes of a column's pages, as far as they are plain rows."""
    from lance.file import LanceFileReader

    field = data.lance_schema.field(column)
    if field is None or fragment.metadata.deletion_file is not None:
        return
    for file in fragment.data_files():
        if field.id() not in file.fields:
            continue
        path = Path(data.uri) / "data" / file.path
        at = file.column_indices[file.fields.index(field.id())]
        for page in LanceFileReader(str(path)).metadata().columns[at].pages:
            if _is_plain(page):
                yield path, page.buffers[0].position, page.buffers[0].size


def _is_plain(page: Any) -> bool:
    return len(page.buffers) == 1 and all(word in page.encoding for word in PLAIN)
