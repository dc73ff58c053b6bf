"""Encoding on a Ray cluster of two workers: the same tables as in this process, whoever dies."""

import os
import signal
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

ray = pytest.importorskip("ray")

from assets.cluster import RayCluster  # noqa: E402
from assets.definitions import definitions  # noqa: E402  after the check for ray
from assets.encode import encode  # noqa: E402
from assets.ingest import items  # noqa: E402
from assets.vectors import item_descriptions, text_vectors  # noqa: E402
from encoders import registry  # noqa: E402
from encoders.encoder import Outcome  # noqa: E402
from encoders.engine import Engine, LocalEngine, Work  # noqa: E402
from encoders.ray_engine import RayEngine  # noqa: E402
from tests.assets.small import ingested, item, rows, settings_of, write  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = ["key", "item_id", "encoder", "content_hash", "cut_tokens", "vector"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BATCH, "text", 2)  # few workers die for one item
    environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", "")}
    variables = {name: value for name, value in environment.items() if value}
    cluster = RayCluster(
        ray_init_options={
            "num_cpus": 2,
            "include_dashboard": False,
            "log_to_driver": False,
            "runtime_env": {"env_vars": variables},
        }
    )
    cluster.connect(None)
    yield
    ray.shutdown()


class Dying:
    """Work that kills its process at a reference: once, or whenever it is asked for it."""

    def __init__(self, factory: Callable[[], Work], row: int, once: Path | None) -> None:
        self.factory, self.row, self.once = factory, row, once

    def __call__(self) -> Work:
        work = self.factory()

        def run(batches: Iterable[Sequence[Any]]) -> Iterator[list[Outcome]]:
            for batch in batches:
                if any(ref.row == self.row for ref in batch) and self._first():
                    os.kill(os.getpid(), signal.SIGKILL)
                yield from work([batch])

        return run

    def _first(self) -> bool:
        if self.once is None:
            return True
        try:
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class OnDyingWorkers:
    """The Ray engine, with work that dies."""

    def __init__(self, row: int, once: Path | None) -> None:
        self.row, self.once = row, once

    def map(
        self, factory: Callable[[], Work], batches: Iterable[Sequence[Any]], /
    ) -> Generator[list[Outcome], None, None]:
        yield from RayEngine(retries=1).map(Dying(factory, self.row, self.once), batches)


def encoded_by(folder: Path, engine: Engine) -> tuple[Any, list[dict[str, Any]]]:
    """The text vectors of a fresh store, in the order they were written, and what was refused."""
    folder.mkdir()
    write(folder, [item(n, title=f"Lamp {n} {'of brass ' * (n % 5)}") for n in range(80)])
    with ingested(settings_of(folder)) as lake:
        encode(lake, engine, "text")
        refused = lake.tables.version("refused_vectors") and lake.tables.read("refused_vectors")
        table = lake.tables.read("text_vectors", columns=CONTENTS)
    return table, refused.to_pylist() if refused else []


def test_a_worker_killed_in_the_middle_changes_nothing_in_the_table(
    tmp_path: Path, cluster: None
) -> None:
    here, _ = encoded_by(tmp_path / "here", LocalEngine())
    there, refused = encoded_by(tmp_path / "there", OnDyingWorkers(37, tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert there.equals(here)  # row by row, and in the same order
    assert refused == []


def test_an_item_that_kills_its_workers_is_quarantined_and_all_others_are_encoded(
    tmp_path: Path, cluster: None
) -> None:
    here, _ = encoded_by(tmp_path / "here", LocalEngine())
    there, refused = encoded_by(tmp_path / "there", OnDyingWorkers(37, None))
    assert [(row["item_id"], row["reason"]) for row in refused] == [("I037", "kills_its_worker")]
    others = [n for n, name in enumerate(here["item_id"].to_pylist()) if name != "I037"]
    assert there.equals(here.take(others))


def test_a_setting_runs_the_same_assets_on_a_cluster_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, [item(n) for n in range(30)])
    settings = settings_of(tmp_path, engine="ray", ray={"workers": 1})
    resources = definitions(settings).resources
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [items, item_descriptions, text_vectors], resources=resources, instance=instance
        )
    assert result.success
    assert not ray.is_initialized()
    with ingested(settings) as lake:
        assert len(rows(lake, "text_vectors")) == 30


def test_a_run_that_encodes_nothing_starts_no_cluster(tmp_path: Path) -> None:
    write(tmp_path, [item(n, title="") for n in range(3)])
    settings = settings_of(tmp_path, engine="ray", ray={"address": "127.0.0.1:1"})
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [items, item_descriptions, text_vectors],
            resources=definitions(settings).resources,
            instance=instance,
        )
    assert result.success


def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, [item(0)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = settings_of(tmp_path, engine="ray", ray={"address": f"127.0.0.1:{port}"})
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [items, item_descriptions, text_vectors],
            resources=definitions(settings).resources,
            instance=instance,
            raise_on_error=False,
        )
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in str(failure.error)
