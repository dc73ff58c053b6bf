"""The examples run as they stand, and show what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from matryoshka.prefix import unit
from store import releases
from store.schema import INTERACTIONS, item_vectors_table
from store.tables import Tables
from tests.store.shelf import draft, items

EXAMPLES = Path(__file__).parents[1] / "examples"
ITEMS, USERS, EVENTS = 60, 200, 8


def publish_ring(uri: Path) -> None:
    """Publish items on a ring: the vectors tell neighbours, and every user walks along it."""
    tables, ids = Tables(uri), [f"item {number}" for number in range(ITEMS)]
    angle = 2 * np.pi * np.arange(ITEMS) / ITEMS
    waves = [wave(k * angle) for k in range(1, 9) for wave in (np.cos, np.sin)]
    vectors = unit(np.stack(waves, axis=1).astype(np.float32))
    rng = np.random.default_rng(0)
    walks = (rng.integers(ITEMS, size=(USERS, 1)) + np.arange(EVENTS)) % ITEMS
    log = {
        "user_id": np.repeat([f"user {number}" for number in range(USERS)], EVENTS),
        "item_id": np.array(ids)[walks.ravel()],
        "timestamp": np.tile(np.arange(EVENTS), USERS),
        "weight": np.ones(USERS * EVENTS, np.float32),
        "event": pa.nulls(USERS * EVENTS, pa.string()),
    }
    names = ("fused_context", "fused_target", "content")
    pins = {
        "items": tables.replace("items", items(ids)),
        "interactions": tables.replace("interactions", pa.table(log, schema=INTERACTIONS)),
        "item_vectors": tables.replace(
            "item_vectors", item_vectors_table(ids, dict.fromkeys(names, vectors))
        ),
    }
    releases.publish(tables, draft(pins))


def run(example: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_sasrec_learns_from_the_stores_vectors_what_popularity_cannot_tell(tmp_path: Path) -> None:
    publish_ring(tmp_path / "store")
    options = ["--view", "content", "--dim", "16", "--epochs", "30"]
    floor, found = run("sasrec.py", str(tmp_path / "store"), *options)
    assert (floor["model"], found["model"]) == ("popularity", "sasrec")
    assert (found["users"], found["items"], found["release"]) == (USERS, ITEMS, "r1")
    assert found["recall@20"] > max(0.8, 1.5 * floor["recall@20"])


def test_post_alignment_reads_users_by_vectors_and_by_ids(tmp_path: Path) -> None:
    publish_ring(tmp_path / "store")
    options = ["--view", "content", "--dim", "16", "--epochs", "30"]
    rows = {
        row["model"]: row for row in run("post_alignment.py", str(tmp_path / "store"), *options)
    }
    assert list(rows) == ["reader", "ids", "both", "aligned"]
    assert (rows["both"]["alpha"], rows["aligned"]["alpha"]) == (0.0, 0.1)
    assert rows["aligned"]["recall@20"] > 0.8
    assert rows["aligned"]["recall@20"] != rows["both"]["recall@20"]
