"""open_clip towers, on a small real model saved by the test."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.clip import framing_of, load_model
from encoders.encoder import Encoder, Item
from encoders.images import Framing, Mode, frame, normalise
from encoders.published import published_file
from encoders.registry import tower
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError
from tests.encoders.conftest import TINY
from tests.encoders.pictures import encoded, gradient

TEXTS = ["a bottle of red wine", "", "Ein Glas Weißwein 🍷"]


def spec(folder: Path, file: str = "tiny.safetensors") -> str:
    return f"open_clip:{folder}/tiny.json@{folder}/{file}"


def test_both_halves_are_in_one_space(
    tiny_clip: Path, clip_text: Encoder, clip_image: Encoder
) -> None:
    assert clip_text.dim == clip_image.dim == TINY["embed_dim"]
    assert tower(spec(tiny_clip), "text").digest != tower(spec(tiny_clip), "image").digest


def test_the_vectors_are_open_clips_own(
    tiny_clip: Path, clip_text: Encoder, clip_image: Encoder
) -> None:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    model = load_model(TINY, tiny_clip / "tiny.safetensors")
    picture = gradient(64, 64)
    transform: Any = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    with torch.inference_mode():
        tokens = open_clip.tokenize(TEXTS, context_length=24)
        text = model.encode_text(tokens, normalize=True).numpy()
        image = model.encode_image(transform(picture)[None], normalize=True).numpy()
    np.testing.assert_allclose(clip_text.encode([Item(text=t) for t in TEXTS]), text, atol=1e-5)
    np.testing.assert_allclose(clip_image.encode([Item(image=encoded(picture))]), image, atol=1e-2)


def test_safetensors_and_torch_checkpoints_give_the_same_vectors(tiny_clip: Path) -> None:
    items = [Item(text=text) for text in TEXTS]
    one, other = (
        tower(spec(tiny_clip, file), "text").load().encode(items)
        for file in ("tiny.safetensors", "tiny.pt")
    )
    np.testing.assert_array_equal(one, other)


def test_the_digest_follows_the_bytes_and_not_the_path(tiny_clip: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_clip, tmp_path / "copy")
    first = tower(spec(tiny_clip), "image").digest
    assert tower(spec(tmp_path / "copy"), "image").digest == first
    beside = {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "copy" / "open_clip_config.json").write_text(json.dumps(beside))
    assert tower(spec(tmp_path / "copy"), "image").digest != first
    assert tower(spec(tmp_path / "copy", "tiny.pt"), "image").digest != first


def test_the_configuration_beside_a_checkpoint_decides_the_preprocessing(
    tiny_clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_clip, folder)
    items = [Item(image=encoded(gradient(80, 40)))]
    plain = tower(spec(folder), "image").load().encode(items)
    beside = {"preprocess_cfg": {"resize_mode": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}}
    (folder / "open_clip_config.json").write_text(json.dumps(beside))
    assert np.abs(tower(spec(folder), "image").load().encode(items) - plain).max() > 1e-2


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (50, 120)])
def test_pictures_are_framed_as_open_clip_frames_them(mode: Mode, size: tuple[int, int]) -> None:
    ensure_torchvision()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    wanted = PreprocessCfg(size=32, resize_mode=mode)
    framing = Framing(size=32, mode=mode, mean=wanted.mean, std=wanted.std)
    transform: Any = image_transform_v2(wanted, is_train=False)
    theirs = transform(gradient(*size)).permute(1, 2, 0).numpy()
    ours = normalise([frame(gradient(*size), framing)], framing)[0]
    assert np.abs(ours - theirs).mean() < 0.03


def test_published_weights_decide_the_preprocessing_where_they_agree() -> None:
    config = {"vision_cfg": {"image_size": 224}}
    siglip = framing_of(config, None, "ViT-B-16-SigLIP", "")
    assert (siglip.mode, siglip.mean) == ("squash", (0.5, 0.5, 0.5))
    assert framing_of(config, None, "ViT-B-32", "").mode == "shortest"
    assert framing_of(config, None, "ViT-L-14", "laion2b_s32b_b82k").mean == (0.5, 0.5, 0.5)


def test_published_weights_that_disagree_ask_for_the_checkpoints_own_configuration() -> None:
    with pytest.raises(WeightsError, match=r"ViT-L-14 want different .* open_clip_config\.json"):
        framing_of({"vision_cfg": {}}, None, "ViT-L-14", "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of published weights, whatever this machine's own holds."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_published_weights_are_not_downloaded_unasked(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"hf download .* or pass allow_download=True"):
        tower("open_clip:ViT-B-32@laion2b_s34b_b79k", "text").load()


def test_published_weights_that_were_fetched_before_are_found(cache: Path) -> None:
    from open_clip.pretrained import get_pretrained_cfg

    tag = "laion2b_s34b_b79k"
    repository, _, name = get_pretrained_cfg("ViT-B-32", tag)["hf_hub"].rpartition("/")
    folder = cache / f"models--{repository.replace('/', '--')}"
    file = folder / "snapshots" / "abc" / (name or "open_clip_model.safetensors")
    file.parent.mkdir(parents=True)
    file.touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert published_file("ViT-B-32", tag, quick_gelu=False, download=False) == file


def test_an_unknown_tag_is_answered_with_the_published_ones() -> None:
    with pytest.raises(WeightsError, match=r"'nonesuch' is neither .* ViT-B-32 \(openai, "):
        tower("open_clip:ViT-B-32@nonesuch", "text").load()


def test_a_tag_trained_with_another_activation_is_refused() -> None:
    with pytest.raises(WeightsError, match="were trained with QuickGELU, unlike ViT-B-32: "):
        tower("open_clip:ViT-B-32@openai", "text").load()


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt: the file does not exist"):
        tower(f"open_clip:ViT-B-32@{tmp_path}/none.pt", "text").load()


def test_a_checkpoint_of_another_architecture_is_refused(tiny_clip: Path) -> None:
    with pytest.raises(WeightsError, match=r"tiny\.pt is no checkpoint of this architecture"):
        tower(f"open_clip:ViT-B-32@{tiny_clip}/tiny.pt", "image").load()


def test_a_checkpoint_that_would_run_code_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {}, "args": Runs(marker)}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="needs code to load, which is never run"):
        tower(f"open_clip:{tiny_clip}/tiny.json@{tmp_path}/evil.pt", "text").load()
    assert not marker.exists()


class Runs:
    """Creates a file when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_a_tokenizer_that_open_clip_lacks_is_read_from_beside_the_checkpoint(
    tiny_clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_clip, folder)
    text = TINY["text_cfg"] | {"hf_tokenizer_name": "someone/some-tokenizer"}
    (folder / "tiny.json").write_text(json.dumps(TINY | {"text_cfg": text}))
    with pytest.raises(WeightsError, match="needs the tokenizer someone/some-tokenizer: put its"):
        tower(spec(folder), "text").load()
    before = tower(spec(folder), "text").digest
    write_tokenizer(folder)
    assert tower(spec(folder), "text").digest != before
    vectors = tower(spec(folder), "text").load().encode([Item(text="red"), Item(text="wine")])
    assert vectors[0] @ vectors[1] < 0.9999


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: row for row, word in enumerate(["[PAD]", "[UNK]", "red", "wine"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_text_half_that_must_be_looked_up_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    text = TINY["text_cfg"] | {"hf_model_name": "someone/some-model"}
    (tmp_path / "hub.json").write_text(json.dumps(TINY | {"text_cfg": text}))
    with pytest.raises(WeightsError, match="someone/some-model's published configuration"):
        tower(f"open_clip:{tmp_path}/hub.json@{tiny_clip}/tiny.pt", "image").load()


def test_a_cut_off_picture_names_its_row(clip_image: Encoder) -> None:
    good = Item(image=encoded(gradient()))
    with pytest.raises(ValueError, match=r"row 1: image refused \(truncated\)"):
        clip_image.encode([good, Item(image=encoded(Image.new("RGB", (99, 99)))[:60])])
