"""Where picture bytes may come from: inside the catalogue, and from the web only when allowed."""

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from assets.images import ImageRefused, fetch, is_public, read, read_file, source
from assets.rules import Reason
from assets.settings import Ingest

LIMIT = 1000


def refusal(call, *args, **options) -> Reason:
    with pytest.raises(ImageRefused) as caught:
        call(*args, **options)
    return caught.value.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "shop"
    (inside / "images").mkdir(parents=True)
    (inside / "images" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    (tmp_path / "shop-too").mkdir()
    (tmp_path / "shop-too" / "a.jpg").write_bytes(b"outside")
    return inside


@pytest.mark.parametrize("path", ["images/a.jpg", "./images//a.jpg", "images\\a.jpg"])
def test_a_relative_path_inside_the_catalogue_is_read(folder: Path, path: str):
    assert read_file(path, folder=folder, limit=LIMIT) == b"inside"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "images/../../secret.jpg",
        "images/../images/a.jpg",
        "..\\secret.jpg",
        "/etc/hostname",
        "C:\\secret.jpg",
        "\\\\server\\share\\a.jpg",
        "images/link.jpg",
        "linked/secret.jpg",
        "sibling/a.jpg",
    ],
)
def test_a_path_that_leaves_the_catalogue_is_refused(folder: Path, path: str):
    (folder / "images" / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "sibling").symlink_to(folder.parent / "shop-too")
    reason = refusal(read_file, path, folder=folder, limit=LIMIT)
    assert reason == Reason.OUTSIDE_CATALOGUE


def test_a_link_that_stays_inside_is_followed(folder: Path):
    (folder / "b.jpg").symlink_to("images/a.jpg")
    assert read_file("b.jpg", folder=folder, limit=LIMIT) == b"inside"


def test_a_catalogue_that_is_itself_a_link_is_read(folder: Path, tmp_path: Path):
    (tmp_path / "current").symlink_to(folder)
    assert read_file("images/a.jpg", folder=tmp_path / "current", limit=LIMIT) == b"inside"


def test_what_cannot_be_read_is_refused_without_waiting(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "round.jpg").symlink_to("round.jpg")
    reasons = {
        path: refusal(read_file, path, folder=folder, limit=LIMIT)
        for path in ("pipe.jpg", "round.jpg", "images", "a\0b", "x" * 5000, "images/none.jpg")
    }
    assert reasons.pop("images/none.jpg") == Reason.MISSING_FILE
    assert set(reasons.values()) == {Reason.UNREADABLE_FILE}


def test_a_file_over_the_limit_is_not_read(folder: Path):
    (folder / "big.jpg").write_bytes(b"x" * (LIMIT + 1))
    assert refusal(read_file, "big.jpg", folder=folder, limit=LIMIT) == Reason.TOO_MANY_BYTES


def test_bytes_are_taken_as_they_are_or_from_base64(folder: Path):
    def data(value):
        return read("image", value, folder=folder, ingest=Ingest(max_image_bytes=LIMIT))

    assert data(b"raw") == b"raw"
    assert data(base64.b64encode(b"raw").decode()) == b"raw"
    assert data("data:image/png;base64," + base64.b64encode(b"raw").decode()) == b"raw"
    assert refusal(data, "no base64!") == Reason.NOT_BASE64
    with pytest.raises(ImageRefused, match=r"'images/7.jpg'.* image_path"):
        data("images/7.jpg")
    assert refusal(data, 7) == Reason.NOT_BASE64
    assert refusal(data, b"x" * (LIMIT + 1)) == Reason.TOO_MANY_BYTES


def test_the_first_column_that_a_row_fills_is_its_picture():
    assert source({"image": None, "image_path": " a.jpg ", "image_url": "http://b"}) == (
        "image_path",
        "a.jpg",
    )
    assert source({"image": {"bytes": b"x", "path": "a.jpg"}}) == ("image", b"x")
    assert source({"image": {"bytes": None, "path": "a.jpg"}}) == ("image_path", "a.jpg")
    assert source({"image_path": "", "image_url": float("nan")}) is None
    assert source({"image": b""}) == ("image", b"")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_that_is_not_public_is_seen_through_its_wrapping(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_a_public_address_is_public(address: str):
    assert is_public(address)


class Site(BaseHTTPRequestHandler):
    """A web site with every kind of bad habit."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/picture":
            self.reply(200, b"picture " + self.headers["Host"].encode())
        elif path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif path == "/short":
            self.reply(200, b"half", length=100)
        elif path == "/big":
            self.reply(200, b"x" * (LIMIT + 1))
        elif path == "/drip":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"X-Slow: yes\r\n"[:1])
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server that forgives a client that hangs up."""

    stopped = threading.Event()

    def handle_error(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_picture_is_fetched_when_private_addresses_are_allowed(site: str):
    host = site.removeprefix("http://").encode()
    assert fetch(f"{site}/picture", limit=LIMIT, allow_private=True) == b"picture " + host
    assert fetch(f"{site}/to//picture?a=b c", limit=LIMIT, allow_private=True) == b"picture " + host


def test_this_machine_is_refused_by_name_by_number_and_in_disguise(site: str):
    port = site.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        url = f"http://{host}:{port}/picture"
        assert refusal(fetch, url, limit=LIMIT, allow_private=False) == Reason.PRIVATE_ADDRESS


def test_a_redirect_is_checked_like_the_first_address(site: str):
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a", "//user:secret@127.0.0.1/"):
        url = f"{site}/to/{target}"
        assert refusal(fetch, url, limit=LIMIT, allow_private=True) == Reason.BAD_URL


def test_redirects_without_end_are_given_up(site: str):
    url = f"{site}/to/" * 6
    assert refusal(fetch, url, limit=LIMIT, allow_private=True) == Reason.FETCH_FAILED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/big", Reason.TOO_MANY_BYTES),
        ("/short", Reason.FETCH_FAILED),
        ("/nothing", Reason.FETCH_FAILED),
    ],
)
def test_what_a_site_should_not_send_is_refused(site: str, path: str, reason: Reason):
    assert refusal(fetch, site + path, limit=LIMIT, allow_private=True) == reason


def test_a_site_that_drips_is_cut_off(site: str):
    reason = refusal(fetch, f"{site}/drip", limit=LIMIT, allow_private=True, seconds=0.3)
    assert reason == Reason.FETCH_FAILED


@pytest.mark.parametrize(
    "url",
    ["ftp://a/b", "file:///etc/passwd", "http://", "a.jpg", "http://u:p@a/", "http://a:99999/", ""],
)
def test_what_is_no_web_address_is_refused(url: str):
    assert refusal(fetch, url, limit=LIMIT, allow_private=True) == Reason.BAD_URL


def test_nothing_is_fetched_unless_the_settings_say_so(folder: Path, site: str):
    reason = refusal(read, "image_url", f"{site}/picture", folder=folder, ingest=Ingest())
    assert reason == Reason.URLS_NOT_ALLOWED
    allowed = Ingest(fetch_urls=True)
    reason = refusal(read, "image_url", f"{site}/picture", folder=folder, ingest=allowed)
    assert reason == Reason.PRIVATE_ADDRESS
    private = Ingest(fetch_urls=True, allow_private_addresses=True)
    assert read("image_url", f"{site}/picture", folder=folder, ingest=private).startswith(b"pic")
