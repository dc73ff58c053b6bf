"""A real `dg dev`: what the UI shows, a run that it launches, and a schedule that ticks."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.definitions import ASSETS
from assets.sample import write_sample
from assets.settings import write_default
from assets.workspace import prepare, ui_command
from store import ItemStore

SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "itemnest"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A small shop whose schedule fires every minute, and the address of its UI."""
    folder = tmp_path_factory.mktemp("ui")
    write_sample(folder / "catalogue", items=120, users=200)
    settings = write_default(folder / "itemnest.toml", store="store")
    settings.write_text(settings.read_text().replace('"0 3 * * *"', '"* * * * *"'))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "ITEMNEST_SETTINGS"):
            patch.setenv(name, "")  # `prepare` sets them: put back what was there
        home = prepare(settings)
        port = free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                ui_command(home, host="127.0.0.1", port=port),
                cwd=home,
                env=dict(os.environ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                eventually(lambda: answers(url), seconds=120)
                yield folder, url
            finally:
                os.killpg(server.pid, signal.SIGINT)
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(server.pid, signal.SIGKILL)
                    server.wait()


def test_the_schedule_ticks_and_its_run_publishes_a_release(served: tuple[Path, str]) -> None:
    folder, url = served
    listed = ask(
        url,
        """{ repositoriesOrError { ... on RepositoryConnection { nodes { schedules {
             name cronSchedule scheduleState { status ticks { status runIds } } } } } } }""",
    )
    schedule = listed["repositoriesOrError"]["nodes"][0]["schedules"][0]
    assert schedule["name"] == "nightly"
    assert schedule["scheduleState"]["status"] == "RUNNING"
    run = eventually(lambda: ticked_run(url), seconds=150)
    assert eventually(lambda: ended(url, run), seconds=300) == "SUCCESS"
    assert ItemStore.open(folder / "store").release.name == "r1"


def test_a_run_launched_through_the_ui_is_the_same_job(served: tuple[Path, str]) -> None:
    _, url = served
    stop_schedule(url)
    launched = ask(
        url,
        """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params)
             { __typename ... on LaunchRunSuccess { run { runId } } } }""",
        {"params": {"selector": {**SELECTOR, "pipelineName": "materialize"}, "mode": "default"}},
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess"
    assert eventually(lambda: ended(url, launched["run"]["runId"]), seconds=300) == "SUCCESS"


def test_every_asset_is_described_grouped_and_owned(served: tuple[Path, str]) -> None:
    _, url = served
    nodes = ask(
        url,
        """{ assetNodes { assetKey { path } description groupName kinds hasAssetChecks
             owners { ... on TeamAssetOwner { team } } } }""",
    )["assetNodes"]
    names = {asset.key.to_user_string() for asset in ASSETS}
    assert {n["assetKey"]["path"][0] for n in nodes} == names
    for node in nodes:
        assert node["description"]
        assert node["groupName"] != "default"
        assert node["kinds"]
        assert node["owners"]
    assert {n["assetKey"]["path"][0] for n in nodes if n["hasAssetChecks"]} == {
        "items",
        "item_vectors",
        "quality",
    }


def test_the_sensor_on_the_catalogue_is_there_and_can_be_switched_on(
    served: tuple[Path, str],
) -> None:
    _, url = served
    started = ask(
        url,
        """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector)
             { __typename ... on Sensor { name sensorState { status } } } }""",
        {"selector": {**SELECTOR, "sensorName": "catalogue_changed"}},
    )["startSensor"]
    assert started["__typename"] == "Sensor"
    assert started["sensorState"]["status"] == "RUNNING"


def stop_schedule(url: str) -> None:
    states = ask(
        url,
        """{ repositoriesOrError { ... on RepositoryConnection { nodes { schedules {
             scheduleState { id } } } } } }""",
    )
    state = states["repositoriesOrError"]["nodes"][0]["schedules"][0]["scheduleState"]["id"]
    ask(
        url,
        "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }",
        {"id": state},
    )


def ticked_run(url: str) -> str | None:
    listed = ask(
        url,
        """{ repositoriesOrError { ... on RepositoryConnection { nodes { schedules {
             scheduleState { ticks { status runIds } } } } } } }""",
    )
    ticks = listed["repositoriesOrError"]["nodes"][0]["schedules"][0]["scheduleState"]["ticks"]
    runs = [run for tick in ticks if tick["status"] == "SUCCESS" for run in tick["runIds"]]
    return runs[-1] if runs else None


def ended(url: str, run: str) -> str | None:
    found = ask(
        url, "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", {"id": run}
    )
    status = found["runOrError"]["status"]
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None


def ask(url: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def eventually(look: Callable[[], Any], *, seconds: float) -> Any:
    """Poll until `look` returns something true; another process is at work meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"nothing after {seconds} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
