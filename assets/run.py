"""One run of the whole graph from Python: what `itemnest materialize` and the demo do.

It is the same Dagster job that the UI and the schedule launch, recorded in the same instance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType

from assets.definitions import ACCEPT, ASSETS, JOB, RETRY, definitions
from assets.settings import Settings, load
from assets.workspace import prepare
from encoders.room import process_peak

FAILED = (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: per asset its metadata and seconds, what failed, and what only warns."""

    settings: Settings
    settings_file: Path
    run_id: str
    succeeded: bool
    seconds: float
    peak_bytes: int
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def materialize(settings_file: Path, *, accept: Sequence[str] = (), retry: bool = False) -> Outcome:
    """Run the graph on the store of these settings and wait for its end.

    accept: names of checks whose failure does not stop this one run. retry: try again the items
    that models have refused.
    """
    settings = load(settings_file)
    prepare(settings_file)
    started = monotonic()
    job = definitions(settings).resolve_job_def(JOB)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            run_config=QUIET,
            raise_on_error=False,
            tags=({ACCEPT: ",".join(accept)} if accept else {}) | ({RETRY: "yes"} if retry else {}),
        )
        steps = instance.get_run_step_stats(result.run_id)
    seconds = {
        step.step_key: (step.end_time or 0) - (step.start_time or 0)
        for step in steps
        if step.start_time
    }
    return Outcome(
        settings=settings,
        settings_file=settings_file,
        run_id=result.run_id,
        succeeded=result.success,
        seconds=monotonic() - started,
        peak_bytes=process_peak(),
        assets=_in_order(dict(_materialized(result)), seconds),
        failures=list(dict.fromkeys(_failures(result))),
        warnings=list(failed_checks(result, blocking=False)),
    )


def _in_order(
    assets: dict[str, dict[str, Any]], seconds: dict[str, float]
) -> dict[str, dict[str, Any]]:
    names = [asset.key.to_user_string() for asset in ASSETS]
    return {
        name: {**assets[name], "seconds": seconds.get(name, 0.0)}
        for name in names
        if name in assets
    }


def _materialized(result: dg.ExecuteInProcessResult) -> Iterator[tuple[str, dict[str, Any]]]:
    for event in result.get_asset_materialization_events():
        key = event.asset_key
        if key is not None:
            metadata = event.materialization.metadata
            yield key.to_user_string(), {name: value.value for name, value in metadata.items()}


def _failures(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    yield from failed_checks(result, blocking=True)
    for event in result.all_events:
        if event.event_type in FAILED and (message := _cause(event)):
            yield message


def failed_checks(result: dg.ExecuteInProcessResult, *, blocking: bool) -> Iterator[str]:
    """Say which checks failed that stop a run, or which that do not, and why."""
    for event in result.all_events:
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.blocking == blocking:
                yield f"{check.check_name}: {check.description}"


def _cause(event: DagsterEvent) -> str | None:
    """Return our error's own words, not Dagster's; None where a check has already told them."""
    error = getattr(event.event_specific_data, "error", None)
    while error is not None and error.cause is not None and error.cls_name.startswith("Dagster"):
        error = error.cause
    if error is None or error.cls_name == "DagsterAssetCheckFailedError":
        return None
    name, _, words = error.message.strip().partition(": ")
    return words if words and name.rpartition(".")[2] == error.cls_name else error.message.strip()
