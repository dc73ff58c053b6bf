"""All that Dagster sees: the assets, the nightly job, its schedule, and a sensor on the catalogue.

The settings come from the file that $ITEMNEST_SETTINGS names, else ./itemnest.toml, else defaults.
A run is one process holding one writer lock, wherever it was launched from.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.catalogue import fingerprint
from assets.ingest import interactions, items
from assets.lake import Lake, open_lake
from assets.release import quality, release
from assets.settings import Settings, load_current
from assets.space import collaborative_vectors, item_space, item_vectors
from assets.vectors import (
    image_vectors,
    item_descriptions,
    multimodal_vectors,
    text_vectors,
)
from encoders.engine import LocalEngine

JOB = "materialize"
ACCEPT = "itemnest/accept"  # run tag: names of checks, separated by commas, that may fail this once
RETRY = "itemnest/retry"  # run tag: items that models have refused are tried again
ASSETS = [
    items,
    interactions,
    item_descriptions,
    text_vectors,
    image_vectors,
    multimodal_vectors,
    collaborative_vectors,
    item_space,
    item_vectors,
    quality,
    release,
]


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions for the current settings."""
    return definitions(load_current())


def definitions(settings: Settings) -> dg.Definitions:
    """Return the definitions of one store."""
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(*ASSETS),
        description="The catalogue in, a release out; what is unchanged is not built again.",
        # Two runs of one store would fight for its writer lock: the queue keeps them in line.
        tags={"itemnest/store": settings.store},
    )
    return dg.Definitions(
        assets=ASSETS,
        jobs=[job],
        schedules=[_nightly(settings)],
        sensors=[_catalogue_changed(settings)],
        resources={"lake": _lake_of(settings), **_engine_resources(settings)},
        executor=dg.in_process_executor,
    )


def _lake_of(settings: Settings) -> dg.ResourceDefinition:
    @dg.resource(description="The store, held by its writer lock for the length of a run.")
    def lake(context: dg.InitResourceContext) -> Iterator[Lake]:
        tags = context.run.tags if context.run else {}
        accepted = frozenset(tags.get(ACCEPT, "").split(","))
        with open_lake(settings, accepted=accepted, retry=RETRY in tags) as opened:
            yield opened

    return lake


def _engine_resources(settings: Settings) -> dict[str, Any]:
    """Return the resource `engine`, with what it needs."""
    if settings.engine == "local":
        return {"engine": LocalEngine()}
    try:
        from assets.cluster import ray_resources  # dagster-ray: 1.2 s, and an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"engine = 'ray' needs {error.name}: pip install 'itemnest[ray]'"
        ) from error
    return ray_resources(settings.ray)


def _nightly(settings: Settings) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="nightly",
        job_name=JOB,
        cron_schedule=settings.schedule.cron,
        execution_timezone=settings.schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Materializes everything by the clock that the settings name.",
    )


def _catalogue_changed(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="catalogue_changed",
        job_name=JOB,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Materializes when items.* or interactions.* of the catalogue change.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen = fingerprint(settings.catalogue)
        if seen is None:
            return dg.SkipReason(f"no items file in {settings.catalogue}")
        if context.cursor is None:
            context.update_cursor(seen)
            return dg.SkipReason("the catalogue as it is now is where watching starts")
        if context.cursor == seen:
            return dg.SkipReason("unchanged")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=seen)], cursor=seen)

    return sensor
