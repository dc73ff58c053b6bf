"""Object stores on loopback: moto in this process, SeaweedFS in one of its own."""

import logging
import socket
import subprocess
import sysconfig
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

PARTS = ("master", "volume", "filer", "s3")
WEED = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-s3",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=64",
    "-volume.max=50",
)


@dataclass(frozen=True)
class Bucket:
    """One bucket of a server; `options` are what a store there is opened with."""

    endpoint: str

    @property
    def options(self) -> dict[str, str]:
        return {
            "aws_access_key_id": "anyone",
            "aws_secret_access_key": "anything",
            "aws_endpoint": self.endpoint,
            "allow_http": "true",
            "region": "us-east-1",
        }

    def made(self) -> "Bucket":
        request = urllib.request.Request(f"{self.endpoint}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        return self


@contextmanager
def moto(deaf_to: tuple[str, ...] = ()) -> Iterator[Bucket]:
    """Serve S3 from memory; `deaf_to` names request headers that never reach it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    def without(environ: dict[str, Any], start_response: Any) -> Any:
        heard = {name: value for name, value in environ.items() if name not in deaf_to}
        return app(heard, start_response)

    # One request at a time: moto looks whether an object exists and then puts it, in two steps.
    server = make_server("127.0.0.1", 0, without, threaded=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Bucket(f"http://127.0.0.1:{server.port}").made()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Bucket]:
    """Serve S3 from a folder, by SeaweedFS."""
    names = [f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc")]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    program = Path(sysconfig.get_path("scripts")) / "weed"
    command = [program, "server", *WEED, f"-dir={folder}"]
    command += [f"-{part}.localSocket={folder}/{part}.socket" for part in ("filer", "s3")]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        assert server.stderr
        said = iter(server.stderr.readline, b"")
        assert any(b"Start Seaweed S3 API Server" in line for line in said), "it did not start"
        drain = threading.Thread(target=lambda: [None for _ in said])
        drain.start()
        try:
            yield Bucket(f"http://127.0.0.1:{ports['s3.port']}").made()
        finally:
            server.kill()
            drain.join()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
