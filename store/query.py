"""SQL over one release: `run` sends one SELECT to a worker process and returns its Arrow table.

DuckDB runs in a worker's child (`store/query_worker.py`), made for this query, and only there: a
query can reach neither this process's memory nor another query, and cannot outlive its time. What
a release is, this module does not know: it is given table names and versions.
"""

import json
import os
import signal
from pathlib import Path

import pyarrow as pa

from store import query_pool
from store.errors import QueryRefused
from store.query_pool import WorkerGone

REFUSED = 3  # the worker's exit status when it wrote the reason and no rows
TIME_OVER = {-signal.SIGALRM, -signal.SIGXCPU}
HIDDEN = {"spaces", "builds", "releases"}  # the store's own books
CLOUD_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")


def run(
    uri: str,
    tables: dict[str, int],
    sql: str,
    *,
    timeout_s: float = 30.0,
    max_rows: int = 1_000_000,
    max_bytes: int = 256 << 20,
    memory_bytes: int = 4 << 30,
    storage_options: dict[str, str] | None = None,
) -> pa.Table:
    """Return the answer to `sql`, one SELECT in DuckDB's dialect over `tables` {name: version}.

    An answer of more than `max_rows` rows or `max_bytes` bytes is an error, never cut short.
    `memory_bytes` is what the query may take beside the idle worker. float16 columns read as
    float32, vectors as FLOAT[n]; `cosine(a, b)` compares two, `cosine(a, b, dim)` two prefixes.
    """
    local = "://" not in uri
    request = {
        "uri": str(Path(uri).absolute()) if local else uri.rstrip("/"),
        "tables": {name: tables[name] for name in sorted(tables.keys() - HIDDEN)},
        "sql": sql,
        "max_rows": max_rows,
        "max_bytes": max_bytes,
        "memory_bytes": memory_bytes,
        "timeout_s": timeout_s,
        "storage_options": storage_options if local else _credentials() | (storage_options or {}),
    }
    try:
        status, told = query_pool.ask(json.dumps(request).encode(), timeout_s)
    except TimeoutError:
        status, told = -signal.SIGALRM, bytearray()
    except WorkerGone as gone:
        raise RuntimeError(f"the SQL process ended before its answer: {gone}") from None
    if status == 0:
        return pa.ipc.open_stream(pa.py_buffer(told)).read_all()
    raise _error(status, told.decode(errors="replace"), timeout_s)


def _error(status: int, told: str, timeout_s: float) -> Exception:
    if status == REFUSED:
        return QueryRefused(told)
    if status in TIME_OVER:
        return QueryRefused(
            f"the query did not finish in {timeout_s:g} seconds: select less, or allow more time"
        )
    if status < 0:
        name = signal.Signals(-status).name
        return QueryRefused(f"the query ended its process ({name}): too much memory, or too deep")
    return RuntimeError(f"the SQL process failed with status {status}")


def _credentials() -> dict[str, str]:
    """Return the cloud variables as storage options: the worker gets them with its request."""
    return {
        name.lower(): value
        for name, value in os.environ.items()
        if name.startswith(CLOUD_VARIABLES)
    }
