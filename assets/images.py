"""Where an item's picture comes from: its bytes, a file of the catalogue, or a web address.

It knows which bytes may be read and refuses the others with a reason. What bytes make a picture is
`encoders.images`' to say.
"""

import base64
import binascii
import http.client
import ipaddress
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from assets.item_text import digest
from assets.rules import Reason
from assets.settings import Ingest

SOURCES = ("image", "image_path", "image_url")  # the first one that a row fills is taken
FETCH_SECONDS = 20.0  # for one address, however slowly its bytes drip
REDIRECTS = 3
REDIRECTING = (301, 302, 303, 307, 308)
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "itemnest"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ImageRefused(ValueError):
    """Bytes that may not, or cannot, be read."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def source(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return which of the image columns a row fills and with what; None if it has no picture."""
    for name in SOURCES:
        value = row.get(name)
        if isinstance(value, Mapping):  # bytes and path in one, as image data sets have it
            name, value = _unpacked(value)
        if isinstance(value, str):
            value = value.strip()
        if value not in (None, "") and value == value:  # NaN is how some writers say null
            return name, value
    return None


def rules(kind: str, ingest: Ingest) -> str:
    """Identify the settings that decide what becomes of a picture from such a source."""
    limits = f"{ingest.max_image_pixels}/{ingest.max_image_bytes}"
    if kind != "image_url":
        return limits
    return f"{limits}/{ingest.fetch_urls}/{ingest.allow_private_addresses}"


def read(kind: str, value: Any, *, folder: Path, ingest: Ingest) -> bytes:
    """Return the bytes of a picture, or raise ImageRefused. `folder` is the catalogue's."""
    limit = ingest.max_image_bytes
    if kind == "image":
        data = _decoded(value)
    elif not isinstance(value, str):
        raise ImageRefused(Reason.UNREADABLE_FILE, f"{kind} is {type(value).__name__}, not text")
    elif kind == "image_path":
        return read_file(value, folder=folder, limit=limit)
    elif ingest.fetch_urls:
        return fetch(value, limit=limit, allow_private=ingest.allow_private_addresses)
    else:
        raise ImageRefused(Reason.URLS_NOT_ALLOWED, "set fetch_urls = true under [ingest] to fetch")
    if len(data) > limit:
        raise ImageRefused(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes: the limit is {limit:,}")
    return data


def read_file(path: str, *, folder: Path, limit: int) -> bytes:
    """Return the bytes of a file that truly lies inside the catalogue folder."""
    relative = path.replace("\\", "/")
    absolute = PurePosixPath(relative).is_absolute() or PureWindowsPath(path).drive
    if absolute or ".." in PurePosixPath(relative).parts:
        raise ImageRefused(Reason.OUTSIDE_CATALOGUE, "a path is relative, without ..")
    try:
        inside = os.path.realpath(folder)
        real = os.path.realpath(os.path.join(inside, relative), strict=True)
        if not real.startswith(inside + os.sep):
            raise ImageRefused(Reason.OUTSIDE_CATALOGUE, "a link leads out of the catalogue")
        return _bounded(real, limit)
    except FileNotFoundError:
        raise ImageRefused(Reason.MISSING_FILE, "there is no such file") from None
    except ImageRefused:
        raise
    except (OSError, ValueError) as error:  # no permission, a NUL in the path, a loop of links
        raise ImageRefused(Reason.UNREADABLE_FILE, _why(error)) from error


def fetch(url: str, *, limit: int, allow_private: bool, seconds: float = FETCH_SECONDS) -> bytes:
    """Return what an http(s) address answers.

    A name is resolved once and that very address is connected to; a redirect is checked anew.
    """
    for _ in range(REDIRECTS + 1):
        parts = _checked_url(url)
        try:
            with _answer(parts, _addresses(parts, allow_private), seconds) as response:
                if response.status not in REDIRECTING:
                    return _body(response, limit)
                url = urljoin(url, response.getheader("Location", ""))
        except ImageRefused:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImageRefused(Reason.FETCH_FAILED, _why(error)) from error
    raise ImageRefused(Reason.FETCH_FAILED, f"more than {REDIRECTS} redirects")


def is_public(address: str) -> bool:
    """Tell whether an IP address is on the public internet, wherever it may be wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def image_hash(data: bytes) -> str:
    """Identify the bytes of a picture."""
    return digest(data)


def _unpacked(value: Mapping[str, Any]) -> tuple[str, Any]:
    data = value.get("bytes")
    return ("image_path", value.get("path")) if data is None else ("image", data)


def _decoded(value: Any) -> bytes:
    """Return the bytes that an `image` column holds, as they are or as base64 text."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ImageRefused(
            Reason.NOT_BASE64, f"image is {type(value).__name__}, not bytes or base64"
        )
    start, comma, rest = value.partition(",")
    encoded = rest if comma and start.startswith("data:") else value
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageRefused(
            Reason.NOT_BASE64,
            f"image begins with {value[:24]!r}, not bytes or base64: name a path in the column "
            "image_path, a URL in image_url",
        ) from error


def _bounded(real: str, limit: int) -> bytes:
    """Return the bytes of a resolved path; a link put there since is not followed."""
    handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # no waiting for a pipe
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ImageRefused(Reason.UNREADABLE_FILE, "it is no regular file")
        if status.st_size > limit:
            detail = f"{status.st_size:,} bytes: the limit is {limit:,}"
            raise ImageRefused(Reason.TOO_MANY_BYTES, detail)
        return os.read(handle, status.st_size)
    finally:
        os.close(handle)


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ImageRefused(Reason.BAD_URL, str(error)) from error
    if not known or parts.username is not None:
        raise ImageRefused(Reason.BAD_URL, "http(s)://host/path without a user name is expected")
    return parts


def _addresses(parts: SplitResult, allow_private: bool) -> list[tuple[str, int]]:
    """Resolve the host once; refuse it if any of its addresses is not public."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    private = [address for address in addresses if not is_public(address)]
    if private and not allow_private:
        raise ImageRefused(Reason.PRIVATE_ADDRESS, f"{parts.hostname} is {private[0]}")
    return [(address, port) for address in addresses]


class _Pinned(http.client.HTTPConnection):
    """A connection to checked addresses, whatever the host's name may resolve to by now."""

    def __init__(
        self, parts: SplitResult, addresses: Sequence[tuple[str, int]], seconds: float
    ) -> None:
        self._addresses, self._secure = addresses, parts.scheme == "https"
        self.default_port = 443 if self._secure else 80  # the Host header leaves this one out
        self._wire: socket.socket | None = None
        self.late = False
        super().__init__(str(parts.hostname), addresses[0][1], timeout=seconds)

    def connect(self) -> None:
        """Connect to the first address that answers; its certificate must be the host's."""
        for address in self._addresses:
            try:
                self._wire = socket.create_connection(address, self.timeout)
                break
            except OSError:
                if address == self._addresses[-1]:
                    raise
        if self._secure and self._wire:
            context = ssl.create_default_context()
            self._wire = context.wrap_socket(self._wire, server_hostname=self.host)
        self.sock = self._wire

    def cut(self) -> None:
        """End whatever the other side still has to say."""
        self.late = True
        with suppress(OSError):
            if self._wire:
                self._wire.shutdown(socket.SHUT_RDWR)


@contextmanager
def _answer(
    parts: SplitResult, addresses: Sequence[tuple[str, int]], seconds: float
) -> Iterator[http.client.HTTPResponse]:
    """Send a GET; cut the connection when its time is over, even amid the headers."""
    connection = _Pinned(parts, addresses, seconds)
    late = threading.Timer(seconds, connection.cut)
    late.daemon = True
    late.start()
    try:
        connection.request("GET", _target(parts), headers=HEADERS)
        with connection.getresponse() as response:
            yield response
        if connection.late:  # http.client takes the cut for the end of the answer
            raise TimeoutError(f"not complete within {seconds:g} seconds")
    finally:
        late.cancel()
        connection.close()


def _target(parts: SplitResult) -> str:
    """Return what a GET asks for: path and query, with the characters escaped that need it."""
    path, query = (quote(part, safe="/%:@!$&'()*+,;=?") for part in (parts.path, parts.query))
    return f"{path or '/'}?{query}" if query else path or "/"


def _body(response: http.client.HTTPResponse, limit: int) -> bytes:
    if response.status != 200:
        raise ImageRefused(Reason.FETCH_FAILED, f"the server answers {response.status}")
    data = response.read(limit + 1)
    if len(data) > limit:
        raise ImageRefused(Reason.TOO_MANY_BYTES, f"the limit is {limit:,} bytes")
    declared = response.getheader("Content-Length", "")
    if declared.isdigit() and len(data) < int(declared):
        raise ImageRefused(Reason.FETCH_FAILED, f"{len(data)} of {declared} bytes came")
    return data


def _why(error: BaseException) -> str:
    """Say what failed without numbers that differ from run to run."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
