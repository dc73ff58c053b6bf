"""SQL over one release: `run` sends one SELECT to a worker process and returns its Arrow table.

The worker (`store/query_worker.py`) is where DuckDB runs, and only there: a query can neither
reach this process's memory nor outlive its time. What a release is, this module does not know:
it is given table names and versions.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from store.errors import QueryRefused

WORKER = Path(__file__).with_name("query_worker.py")
REFUSED = 3  # the worker's exit status when stdout holds the reason and no rows
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
        "cpu_seconds": math.ceil(timeout_s * (os.cpu_count() or 1)) + 1,
        "storage_options": storage_options if local else _credentials() | (storage_options or {}),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-S", str(WORKER)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout_s,
            env=_environment(),
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise QueryRefused(
            f"the query did not finish in {timeout_s:g} seconds: select less, or allow more time"
        ) from None
    if done.returncode == 0:
        return pa.ipc.open_stream(done.stdout).read_all()
    raise _error(done)


def _error(done: subprocess.CompletedProcess[bytes]) -> Exception:
    if done.returncode == REFUSED:
        return QueryRefused(done.stdout.decode())
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return QueryRefused(f"the query ended its process ({name}): too much memory, or too deep")
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return RuntimeError(f"the SQL process failed with status {done.returncode}: {last}")


def _environment() -> dict[str, str]:
    """Say where our modules are and nothing else: no variable of the caller is there to be read."""
    return {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
        "TZ": "UTC",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # each arena reserves addresses, which is what RLIMIT_AS counts
        "LANCE_LOG": "error",
    }


def _credentials() -> dict[str, str]:
    """Return the cloud variables as storage options: the worker gets them with its request."""
    return {
        name.lower(): value
        for name, value in os.environ.items()
        if name.startswith(CLOUD_VARIABLES)
    }
