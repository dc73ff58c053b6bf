"""The Ray cluster of `engine = "ray"`, as Dagster resources. Needs the extra `ray`.

A cluster is connected to, or started, with the first batch: a run that encodes nothing has none.
dagster-ray's other clusters (KubeRay) take the place of `RayCluster` in definitions of one's own.
"""

import os
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, TypeVar

import dagster as dg
from dagster_ray import Lifecycle, RayResource

from assets.settings import Ray
from encoders.encoder import Outcome
from encoders.engine import EngineError, Ref, Work

T = TypeVar("T")
LOCAL = "local"
PROBE_SECONDS = 5.0  # Ray itself tries a dead address for five minutes


class RayCluster(RayResource):
    """The cluster at `address`, or one that lives on this machine as long as the run."""

    address: str = LOCAL

    @property
    def host(self) -> str:
        """Where it is."""
        return self.address

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"Ray ({self.address})"

    @property
    def created(self) -> bool:
        """It is there, or started by connecting."""
        return True

    @property
    def ready(self) -> bool:
        """It is there, or started by connecting."""
        return True

    def connect(self, context: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Connect, and nothing else: what is inherited also imports ray.data, and so pandas."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
            if "ray" in sys.modules:  # which reads them when it is imported
                raise EngineError(
                    "a cluster of this run would listen on every interface without a token: set "
                    "RAY_AUTH_MODE and RAY_AUTH_TOKEN before ray is imported"
                )
            # A token that only this process knows.
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        _probe(self.address)
        import ray  # 0.5 s, once there is something to encode

        with warnings.catch_warnings():  # Ray's children run other programs at once
            warnings.filterwarnings("ignore", "lance is not fork-safe")
            self._context = ray.init(address=self.address, **self.ray_init_options)
        return self._context


class OnCluster:
    """An engine that connects to its cluster at the first batch, or never."""

    def __init__(self, cluster: RayResource, context: Any, settings: Ray) -> None:
        self._cluster, self._context, self._settings = cluster, context, settings

    def map(
        self, factory: Callable[[], Work[T]], batches: Iterable[Sequence[Ref]], /
    ) -> Generator[list[Outcome[T]], None, None]:
        """Yield what became of each reference of each batch, in order."""
        stream = iter(batches)
        for first in stream:
            if not self._cluster.connected:
                self._cluster.connect(self._context)
            from encoders.ray_engine import RayEngine  # ray: 0.5 s

            engine = RayEngine(
                workers=self._settings.workers,
                cpus=self._settings.cpus_per_worker,
                gpus=self._settings.gpus_per_worker,
            )
            with closing(engine.map(factory, chain([first], stream))) as outcomes:
                yield from outcomes


def ray_resources(settings: Ray) -> dict[str, Any]:
    """Return the resources `ray` and `engine` for the settings."""
    options: dict[str, Any] = {"log_to_driver": False}
    if not settings.address:
        cpus = max(1, settings.workers * settings.cpus_per_worker)
        options |= {"num_cpus": cpus, "include_dashboard": False}
    cluster = RayCluster(
        address=settings.address or LOCAL,
        ray_init_options=options,
        lifecycle=Lifecycle(connect=False),
    )

    @dg.resource(required_resource_keys={"ray"}, description="Encodes on a Ray cluster.")
    def engine(context: dg.InitResourceContext) -> OnCluster:
        return OnCluster(context.resources.ray, context, settings)

    return {"ray": cluster, "engine": engine}


def _probe(address: str) -> None:
    """Raise EngineError at once if nobody listens at HOST:PORT or ray://HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), PROBE_SECONDS).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, or "
            "leave ray.address empty to start one for the run"
        ) from error
