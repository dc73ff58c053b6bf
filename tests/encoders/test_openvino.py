"""Networks run by OpenVINO: their numbers, and the cache in which converted ones are kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from encoders import feed
from encoders.converted import cache_folder, openvino_network
from encoders.encoder import Encoder, Item
from encoders.openvino import OpenVinoNetwork, convert
from encoders.registry import Tower, tower
from encoders.spec import Choice
from tests.encoders.pictures import encoded, gradient
from tests.encoders.scripts import SAMPLES
from tests.encoders.sentences import SENTENCES

ITEMS = [
    Item(text=text, image=encoded(gradient(60 + row, 90 - row, shift=9 * row)))
    for row, text in enumerate([*SAMPLES.values()][::6])
]
CONVERTED = ["bert", "xlm_roberta", "qwen3", "dense", "timm_vit"]
CONVERTED += ["clip_text", "clip_image", "siglip_text", "clip_xlm_roberta"]


def variant(known: Tower, **options: str) -> Encoder:
    """The same tower with other options."""
    settled = {"runtime": known.choice.runtime, "precision": known.choice.precision, **options}
    return tower(replace(known.choice, **settled), known.modality).load()


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1)


@pytest.mark.parametrize("name", ["minilm_torch", "efficientnet_torch", *CONVERTED])
def test_openvinos_float32_is_torchs(name: str, named: Callable[[str], Tower]) -> None:
    expected = feed.encode(variant(named(name), runtime="torch"), ITEMS)
    vectors = feed.encode(variant(named(name), runtime="openvino"), ITEMS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.fixture(scope="module")
def full(loaded: Callable[[str], Encoder]) -> np.ndarray:
    """MiniLM's vectors of the sentences, in float32."""
    return feed.encode(loaded("minilm_torch"), [Item(text=text) for text in SENTENCES])


@pytest.mark.parametrize(
    ("runtime", "precision", "least"),
    [
        ("openvino", "int8", 0.997),
        ("openvino", "bfloat16", 0.999),
        ("torch", "bfloat16", 0.999),
        ("openvino", "float16", 0.9999),
        ("torch", "float16", 0.9999),
    ],
)
def test_minilm_in_fewer_bits_points_where_float32_points(
    full: np.ndarray, runtime: str, precision: str, least: float
) -> None:
    encoder = tower(Choice("minilm-l6", precision, runtime), "text").load()
    vectors = feed.encode(encoder, [Item(text=text) for text in SENTENCES])
    assert cosines(vectors, full).min() > least


def test_int8_keeps_the_nearest_neighbours(minilm: Encoder, full: np.ndarray) -> None:
    vectors = feed.encode(minilm, [Item(text=text) for text in SENTENCES])
    nearest = [(each @ each.T - 2 * np.eye(len(each))).argmax(axis=1) for each in (vectors, full)]
    assert (nearest[0] == nearest[1]).mean() > 0.9


def test_other_rows_of_a_forward_change_no_bit_in_int8(minilm: Encoder) -> None:
    texts = ["a bottle of red wine", "a box of white paper", "a pair of blue shoes"]
    contents = [minilm.prepare(Item(text=text)).content for text in texts]
    assert {len(windows[0]) for windows in contents} == {7}
    together = minilm.forward(minilm.collate(contents * 3))
    alone = [minilm.forward(minilm.collate([content]))[0] for content in contents]
    np.testing.assert_array_equal(together, alone * 3)


def test_padding_turns_a_vector_by_less_than_int8_does(minilm: Encoder, full: np.ndarray) -> None:
    items = [Item(text=text) for text in SENTENCES]
    alone = np.concatenate([feed.encode(minilm, [item]) for item in items])
    contents = [minilm.prepare(item).content for item in items]
    padded: Any = minilm.forward(minilm.collate(contents))
    assert cosines(np.stack(padded), alone).min() > 0.9998
    assert cosines(alone, full).min() < 0.9998


class Linear(nn.Module):
    """A network of one matrix product, or none."""

    def __init__(self, *, product: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Linear(8, 4) if product else nn.Softmax(dim=1)

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        return self.model(squares.float())


EXAMPLE = {"squares": np.arange(16, dtype=np.uint8).reshape(2, 8)}


def test_int8_of_a_network_without_matrix_products_is_refused() -> None:
    with pytest.raises(ValueError, match='"int8" rounds matrix products, and this network has no'):
        convert(Linear(product=False), EXAMPLE, precision="int8")


def test_int8_of_a_tower_of_convolutions_alone_is_refused(
    named: Callable[[str], Tower],
) -> None:
    choice = replace(named("timm_mobilenet").choice, runtime="openvino", precision="int8")
    with pytest.raises(ValueError, match='"int8" rounds matrix products, and this network has no'):
        tower(choice, "image").load()


# The cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of converted networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "itemnest" / "networks"


class Builds:
    """Builds a network, and counts how often it had to."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> tuple[nn.Module, dict[str, Any]]:
        self.count += 1
        return Linear(product=True), EXAMPLE


def network(build: Builds, name: str = "linear", precision: str = "float32") -> OpenVinoNetwork:
    return openvino_network(build, name=name, precision=precision, streams=1)


def test_the_cache_is_where_the_system_wants_caches(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/itemnest/networks")


def test_a_network_is_converted_once_and_kept(cache: Path) -> None:
    build = Builds()
    first, second = network(build), network(build)
    assert build.count == 1
    np.testing.assert_array_equal(first(EXAMPLE["squares"]), second(EXAMPLE["squares"]))


@pytest.mark.parametrize(("name", "precision"), [("other", "float32"), ("linear", "int8")])
def test_another_name_or_rounding_is_another_network(
    cache: Path, name: str, precision: str
) -> None:
    network(Builds())
    build = Builds()
    network(build, name, precision)
    assert build.count == 1
    assert len(list(cache.iterdir())) == 2


def test_precisions_that_share_weights_share_a_network(cache: Path) -> None:
    network(Builds())
    build = Builds()
    network(build, precision="bfloat16")
    assert build.count == 0


@pytest.mark.parametrize("file", ["network.xml", "network.bin", "seal.json"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_network_is_made_anew_and_kept_whole(
    cache: Path, file: str, damage: bytes | None
) -> None:
    build = Builds()
    expected = network(build)(EXAMPLE["squares"])
    (folder,) = cache.iterdir()
    (folder / file).unlink()
    if damage is not None:
        (folder / file).write_bytes(damage)
    np.testing.assert_array_equal(network(build)(EXAMPLE["squares"]), expected)
    network(build)
    assert build.count == 2


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build = Builds()
    assert network(build)(EXAMPLE["squares"]).shape == (2, 4)
    assert network(build)(EXAMPLE["squares"]).shape == (2, 4)
    assert build.count == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_leaves_nothing_half_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(file: Path, text: str) -> int:
        written.append(file)
        with open("/dev/full", "w", buffering=1) as device:
            return device.write(text + "\n")

    monkeypatch.setattr(Path, "write_text", full)
    assert network(Builds())(EXAMPLE["squares"]).shape == (2, 4)
    assert written
    assert list(cache.iterdir()) == []


def test_threads_that_keep_the_same_network_at_once_all_have_it(cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        networks = list(pool.map(network, [Builds() for _ in range(4)]))
    found = [each(EXAMPLE["squares"]) for each in networks]
    np.testing.assert_array_equal(found, [found[0]] * 4)
    assert [path.name[0] != "." for path in cache.iterdir()] == [True]


def test_a_network_may_be_called_from_several_threads_at_once(cache: Path) -> None:
    run = network(Builds())
    squares = [np.full((1 + row % 3, 8), row, np.uint8) for row in range(64)]
    expected = [run(each) for each in squares]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, squares))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# Other processes

RUN = """
import json, sys
from encoders import feed
from encoders.encoder import Item
from encoders.registry import tower
from encoders.spec import Choice

encoder = tower(Choice({tower!r}, runtime="openvino"), "text").load()
vector = feed.encode(encoder, [Item(text="a bottle of red wine")])[0]
heavy = {{"torch", "transformers", "timm", "open_clip"}} & set(sys.modules)
print(json.dumps({{"head": vector[:5].tolist(), "heavy": sorted(heavy)}}))
"""
CONVERT = """
import numpy as np
import torch
from encoders.converted import openvino_network

rows = np.zeros((2, 8), np.float32)
build = lambda: (torch.nn.Linear(8, 4), {"input": rows})
print(openvino_network(build, name="linear", precision="float32", streams=1)(rows).shape)
"""
WATCHED = """
import os, sys

def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen"):
        os.write(2, f"{event} {arguments}".encode())

sys.addaudithook(tell)
"""


def in_another_process(code: str, cache: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def test_a_kept_network_needs_no_torch(minilm: Encoder) -> None:
    expected = feed.encode(minilm, [Item(text="a bottle of red wine")])[0]
    done = in_another_process(RUN.format(tower="minilm-l6"), os.environ["XDG_CACHE_HOME"])
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    np.testing.assert_allclose(found["head"], expected[:5], atol=1e-6)


def test_converting_opens_no_connection_starts_no_process_and_prints_nothing(
    tmp_path: Path,
) -> None:
    done = in_another_process(WATCHED + CONVERT, str(tmp_path))
    assert len(list((tmp_path / "itemnest" / "networks").iterdir())) == 1
    assert (done.stdout, done.stderr) == ("(2, 4)\n", "")


@pytest.mark.slow  # two conversions in new processes at once
def test_processes_that_keep_the_same_network_at_once_all_have_it(
    named: Callable[[str], Tower], tmp_path: Path
) -> None:
    code = RUN.format(tower=named("xlm_roberta").choice.tower)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(in_another_process, [code] * 2, [str(tmp_path)] * 2))
    assert done[0].stdout == done[1].stdout
    assert len(list((tmp_path / "itemnest" / "networks").iterdir())) == 1


SIGNALS = """
import ctypes
from encoders import feed
from encoders.encoder import Item
from encoders.registry import tower

class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.at, found.flags, found.size

before = stack()
feed.encode(tower("minilm-l6", "text").load(), [Item(text="a bottle of red wine")])
print(stack() == before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are read by Linux's libc")
def test_signal_handlers_keep_the_stack_that_they_have() -> None:
    """OpenVINO gives who compiles a network one so small that Python's handlers overflow it."""
    assert in_another_process(SIGNALS, os.environ["XDG_CACHE_HOME"]).stdout == "True\n"
