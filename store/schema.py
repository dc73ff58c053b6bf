"""Table and column names and their Arrow types: the only place that spells them.

It knows how rows are laid out and turns matrices into columns and back. It does not know how
tables are written, versioned or read.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from matryoshka.prefix import Vectors
from store import _lookup

ROLES = ("context", "target")
SEARCH_PREFIX = "search_prefix"  # the column of item_vectors that the search index is on

KEYS = {
    "items": "item_id",
    "item_descriptions": "key",
    "text_vectors": "key",
    "image_vectors": "key",
    "multimodal_vectors": "key",
    "refused_vectors": "key",
    "collaborative_vectors": "key",
    "item_residuals": "key",
    "item_vectors": "item_id",
    "spaces": "space_id",
    "builds": "asset",
    "releases": "event",
    "pins": "consumer",
}
"""The column that identifies a row, for the tables that have one."""


def required(name: str, kind: pa.DataType) -> pa.Field:
    """Return a field that is never null."""
    return pa.field(name, kind, nullable=False)


ITEM_FIELDS = (
    required("item_id", pa.string()),
    pa.field("title", pa.string()),
    pa.field("text", pa.string()),
    pa.field("text_template", pa.string()),
    pa.field("text_hash", pa.string()),
    pa.field("image", pa.large_binary()),
    pa.field("image_hash", pa.string()),
    pa.field("image_status", pa.string()),
    pa.field("image_source_hash", pa.string()),
    pa.field("row_hash", pa.string()),
    pa.field("origin", pa.string()),
)
"""What every catalogue has; its own attributes follow as further columns."""

REJECTED_ITEMS = pa.schema(
    [
        required("source", pa.string()),
        required("row", pa.int64()),
        pa.field("item_id", pa.string()),
        required("part", pa.string()),
        required("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

INTERACTIONS = pa.schema(
    [
        required("user_id", pa.string()),
        required("item_id", pa.string()),
        required("timestamp", pa.int64()),
        required("weight", pa.float32()),
        pa.field("event", pa.string()),
    ]
)

SPACES = pa.schema(
    [
        required("space_id", pa.string()),
        required("description", pa.string()),
        required("weights", pa.large_binary()),
    ]
)

BUILDS = pa.schema(
    [
        required("asset", pa.string()),
        required("inputs", pa.string()),
        required("tables", pa.string()),
        required("metadata", pa.string()),
        required("finished_at", pa.timestamp("us", tz="UTC")),
    ]
)

RELEASES = pa.schema(
    [
        required("event", pa.int64()),
        required("kind", pa.string()),
        pa.field("channel", pa.string()),
        required("release", pa.string()),
        required("space_id", pa.string()),
        required("basis_id", pa.string()),
        required("refresh_id", pa.string()),
        required("created_at", pa.timestamp("us", tz="UTC")),
        required("inputs", pa.string()),
        required("tables", pa.string()),
        required("description", pa.string()),
        required("quality", pa.string()),
    ]
)

PINS = pa.schema(
    [
        required("consumer", pa.string()),
        required("release", pa.string()),
        required("since", pa.timestamp("us", tz="UTC")),
    ]
)


ITEM_DESCRIPTIONS = pa.schema(
    [
        required("key", pa.string()),
        required("item_id", pa.string()),
        required("encoder", pa.string()),
        required("content_hash", pa.string()),
        required("description", pa.string()),
        required("description_hash", pa.string()),
        required("read_tokens", pa.int32()),
        required("written_tokens", pa.int32()),
    ]
)

REFUSED_VECTORS = pa.schema(
    [
        required("key", pa.string()),
        required("item_id", pa.string()),
        required("encoder", pa.string()),
        required("content_hash", pa.string()),
        required("modality", pa.string()),
        required("reason", pa.string()),
        required("detail", pa.string()),
    ]
)


def items_schema(attributes: Iterable[pa.Field] = ()) -> pa.Schema:
    """Return the schema of `items`: the fixed columns, then the catalogue's attributes."""
    return pa.schema([*ITEM_FIELDS, *attributes])


def vectors_schema(dim: int) -> pa.Schema:
    """Return the schema of the raw encoder outputs: float16, and how many tokens did not fit."""
    return pa.schema(
        [
            required("key", pa.string()),
            required("item_id", pa.string()),
            required("encoder", pa.string()),
            required("content_hash", pa.string()),
            required("cut_tokens", pa.int32()),
            required("vector", pa.list_(pa.float16(), dim)),
        ]
    )


def collaborative_schema(dim: int) -> pa.Schema:
    """Return the schema of `collaborative_vectors`; period is "train" or "all"."""
    return pa.schema(
        [
            *_by_period(pa.list_(pa.float32(), dim)),
            required("support", pa.int32()),
        ]
    )


def residuals_schema(dim: int) -> pa.Schema:
    """Return the schema of `item_residuals`; period is "train" or "all"."""
    return pa.schema(_by_period(pa.list_(pa.float16(), dim)))


def _by_period(vector: pa.DataType) -> list[pa.Field]:
    """Return the fields of two vectors of an item that a period of the log makes."""
    names = ("key", "item_id", "period")
    return [required(n, pa.string()) for n in names] + [required(role, vector) for role in ROLES]


def item_vectors_schema(columns: Sequence[str], width: int) -> pa.Schema:
    """Return the schema of `item_vectors`: one full-width float32 column per view and role."""
    return pa.schema(
        [
            required("item_id", pa.string()),
            *(required(column, pa.list_(pa.float32(), width)) for column in columns),
            required("has_text", pa.bool_()),
            required("has_image", pa.bool_()),
            required("has_multimodal", pa.bool_()),
            required("support", pa.int32()),
            required("digest", pa.uint64()),
        ]
    )


def item_vectors_table(
    ids: Sequence[str] | pa.Array,
    vectors: Mapping[str, Vectors],
    *,
    has_text: NDArray[np.bool_] | None = None,
    has_image: NDArray[np.bool_] | None = None,
    has_multimodal: NDArray[np.bool_] | None = None,
    support: NDArray[np.int32] | None = None,
) -> pa.Table:
    """Return `item_vectors` rows: column name -> float32 [n, width], digests included."""
    n, width = next(iter(vectors.values())).shape
    no, none = np.zeros(n, bool), np.zeros(n, np.int32)
    schema = item_vectors_schema(list(vectors), width)
    columns = {
        "item_id": pa.array(ids, pa.string()),
        **{name: vector_array(matrix) for name, matrix in vectors.items()},
        "has_text": pa.array(no if has_text is None else has_text, pa.bool_()),
        "has_image": pa.array(no if has_image is None else has_image, pa.bool_()),
        "has_multimodal": pa.array(no if has_multimodal is None else has_multimodal, pa.bool_()),
        "support": pa.array(none if support is None else support, pa.int32()),
        "digest": pa.array(row_digests(list(vectors.values()))),
    }
    return pa.table(columns, schema=schema)


def vector_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of `item_vectors` that its digests are over, in their order."""
    vectors = (field.name for field in schema if pa.types.is_fixed_size_list(field.type))
    return [name for name in vectors if name != SEARCH_PREFIX]


def row_digests(matrices: Sequence[Vectors]) -> NDArray[np.uint64]:
    """Return one 64-bit digest per row over the row's vectors in all matrices."""
    rows = np.ascontiguousarray(np.concatenate(matrices, axis=1, dtype=np.float32))
    digests = np.empty(len(rows), np.uint64)
    _lookup.checksums(rows, max(1, rows.strides[0]), np.arange(len(rows)), digests)
    return digests


def vector_key(
    item_ids: pa.Array | pa.ChunkedArray, *parts: str | pa.Array | pa.ChunkedArray
) -> pa.Array | pa.ChunkedArray:
    """Return one key per row: item id and parts joined, since Lance refuses compound keys."""
    return pc.call_function("binary_join_element_wise", [item_ids, *parts, "\x1f"])


def positions(wanted: pa.Array, among: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return where in `among` each wanted value first stands, null where it does not."""
    return pc.call_function("index_in", [wanted], pc.SetLookupOptions(among.cast(wanted.type)))


def view_column(view: str, role: str | None) -> str:
    """Return the `item_vectors` column of a view; `role` is None where the view has none."""
    return view if role is None else f"{view}_{role}"


def vector_array(matrix: NDArray[np.floating]) -> pa.FixedSizeListArray:
    """Return a matrix [n, d] as an Arrow column of the same float type, without a copy."""
    flat = np.ascontiguousarray(matrix).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])


def matrix(column: pa.Array | pa.ChunkedArray) -> Vectors:
    """Return a vector column as float32 [n, d]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size).astype(np.float32, copy=False)
