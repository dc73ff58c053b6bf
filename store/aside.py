"""What a forked child needs of Lance, done by a fresh process (`store/aside_worker.py`).

It knows how to ask. Two things can be asked: to build one file of a release's pack, and what a
channel shows.
"""

import json
import os
import subprocess
import sys
from datetime import datetime
from typing import Any

from store.errors import ForkedProcess
from store.releases import Release
from store.tables import Tables

PATIENCE = 900.0  # seconds; a pack of 100 million items takes some minutes


def build(tables: Tables, release: Release, file: str) -> None:
    """Build a file of a release's pack; ForkedProcess with the reason if that fails."""
    _ask(tables, {"release": release.name, "file": file})


def shown(tables: Tables, channel: str) -> Release:
    """Return the release that a channel shows; ForkedProcess with the reason if that fails."""
    row = _ask(tables, {"channel": channel})
    return Release.from_row(row | {"created_at": datetime.fromisoformat(row["created_at"])})


def _ask(tables: Tables, question: dict[str, Any]) -> dict[str, Any]:
    store = {"uri": tables.uri, "storage_options": tables.storage_options}
    modules = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "store.aside_worker"],
        input=json.dumps(store | question),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": modules},
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise ForkedProcess(f"{tables.uri}: the process that works for a forked one: {reason}")
    return json.loads(done.stdout)
