"""open_clip towers, on small real models saved by the tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from encoders import feed
from encoders.clip_model import ClipTokenizer, framing_of, load_model
from encoders.encoder import Encoder, Item, Vectors
from encoders.machine import Machine
from encoders.published import published_file
from encoders.registry import Tower, tower
from encoders.vision_ops import ensure_torchvision
from encoders.weights import Hub, WeightsError
from tests.encoders import tiny_text, tiny_vision
from tests.encoders.pictures import encoded, gradient
from tests.encoders.tiny_vision import CLIP

TEXTS = ["a bottle of red wine", "", "Ein Glas Weißwein 🍷", "wine and cheese " * 30]
PICTURES = [gradient(64, 64), gradient(90, 60, shift=50), gradient(40, 100, shift=90)]


def spec(folder: Path, file: str = "tiny.safetensors") -> str:
    return f"open_clip:{folder}/tiny.json@{folder}/{file}"


def texts(encoder: Encoder, *found: str) -> Vectors:
    return feed.encode(encoder, [Item(text=text) for text in found])


def pictures(encoder: Encoder) -> Vectors:
    return feed.encode(encoder, [Item(image=encoded(picture)) for picture in PICTURES])


@pytest.fixture
def copied(tiny_clip: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed."""
    return Path(shutil.copytree(tiny_clip, tmp_path / "copy"))


def write_config(folder: Path, **changes: Any) -> None:
    (folder / "tiny.json").write_text(json.dumps(CLIP | changes))


def test_both_halves_are_in_one_space(tiny_clip: Path) -> None:
    towers = [tower(spec(tiny_clip), half) for half in ("text", "image", "multimodal")]
    assert {each.dim for each in towers} == {CLIP["embed_dim"]}
    assert len({each.digest for each in towers}) == 3


@pytest.mark.parametrize(
    ("name", "config"), [("clip", CLIP), ("coca", tiny_vision.COCA)], ids=["clip", "coca"]
)
def test_the_vectors_are_open_clips_own(
    loaded: Callable[[str], Encoder], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    ensure_torchvision()
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    folder = tiny_vision.save_clip(config, tmp_path)
    model = load_model(config, folder / "tiny.safetensors")
    transform: Any = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    with torch.inference_mode():
        tokens = open_clip.tokenize(TEXTS, context_length=24)
        text = model.encode_text(tokens, normalize=True).numpy()
        pixels = torch.stack([transform(picture) for picture in PICTURES])
        image = model.encode_image(pixels, normalize=True).numpy()
    np.testing.assert_allclose(texts(loaded(f"{name}_text"), *TEXTS), text, atol=1e-5)
    np.testing.assert_allclose(pictures(loaded(f"{name}_image")), image, atol=1e-2)


def test_a_published_folder_is_read_as_open_clip_reads_it(
    named: Callable[[str], Tower], loaded: Callable[[str], Encoder]
) -> None:
    ensure_torchvision()
    import open_clip

    source = f"local-dir:{named('siglip_text').choice.tower.partition(':')[2]}"
    model, transform = open_clip.create_model_from_pretrained(source)
    tokenize: Any = open_clip.get_tokenizer(source)
    model.eval()
    with torch.inference_mode():
        text = nn.functional.normalize(model.encode_text(tokenize(TEXTS))).numpy()
        pixels = torch.stack([transform(picture) for picture in PICTURES])
        image = nn.functional.normalize(model.encode_image(pixels)).numpy()
    np.testing.assert_allclose(texts(loaded("siglip_text"), *TEXTS), text, atol=1e-5)
    np.testing.assert_allclose(pictures(loaded("siglip_image")), image, atol=1e-3)


@pytest.mark.parametrize("name", ["clip", "coca", "siglip"])
def test_an_item_of_one_modality_has_the_vector_of_that_half(
    loaded: Callable[[str], Encoder], name: str
) -> None:
    joint = loaded(f"{name}_multimodal")
    np.testing.assert_allclose(
        texts(joint, *TEXTS), texts(loaded(f"{name}_text"), *TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(pictures(joint), pictures(loaded(f"{name}_image")), atol=1e-6)


def test_an_item_of_both_modalities_lies_in_the_middle_of_its_halves(
    loaded: Callable[[str], Encoder],
) -> None:
    both = [
        Item(text=text, image=encoded(picture))
        for text, picture in zip(TEXTS, PICTURES, strict=False)
    ]
    halves = feed.encode(loaded("clip_text"), both) + feed.encode(loaded("clip_image"), both)
    middle = halves / np.linalg.norm(halves, axis=1, keepdims=True)
    np.testing.assert_allclose(feed.encode(loaded("clip_multimodal"), both), middle, atol=1e-6)


def test_safetensors_and_torch_checkpoints_give_the_same_vectors(tiny_clip: Path) -> None:
    one, other = (
        texts(tower(spec(tiny_clip, file), "text").load(), *TEXTS)
        for file in ("tiny.safetensors", "tiny.pt")
    )
    np.testing.assert_array_equal(one, other)


def test_the_digest_follows_the_bytes_and_not_the_path(tiny_clip: Path, copied: Path) -> None:
    first = tower(spec(tiny_clip), "image").digest
    assert tower(spec(copied), "image").digest == first
    assert tower(spec(copied, "tiny.pt"), "image").digest != first


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}),
        ("tiny.json", {**CLIP, "quick_gelu": True}),
    ],
)
def test_the_digest_follows_what_lies_beside_the_checkpoint(
    tiny_clip: Path, copied: Path, file: str, content: dict[str, Any]
) -> None:
    (copied / file).write_text(json.dumps(content))
    assert tower(spec(copied), "image").digest != tower(spec(tiny_clip), "image").digest


def test_the_configuration_beside_a_checkpoint_decides_the_preprocessing(copied: Path) -> None:
    plain = pictures(tower(spec(copied), "image").load())
    beside = {"preprocess_cfg": {"resize_mode": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}}
    (copied / "open_clip_config.json").write_text(json.dumps(beside))
    assert np.abs(pictures(tower(spec(copied), "image").load()) - plain).max() > 1e-2


@pytest.mark.parametrize(
    "preprocess", [{"resize_mode": "random"}, {"interpolation": "nearest"}], ids=str
)
def test_preprocessing_that_cannot_be_done_is_refused(
    copied: Path, preprocess: dict[str, str]
) -> None:
    beside = {"preprocess_cfg": preprocess}
    (copied / "open_clip_config.json").write_text(json.dumps(beside))
    with pytest.raises(WeightsError, match="is not known here"):
        tower(spec(copied), "image").load()


def test_pictures_that_are_not_square_are_refused(copied: Path) -> None:
    write_config(copied, vision_cfg={**CLIP["vision_cfg"], "image_size": [32, 48]})
    with pytest.raises(WeightsError, match="only square ones are prepared here"):
        tower(spec(copied), "image").load()


def test_published_weights_decide_the_preprocessing_where_they_agree() -> None:
    config = {"vision_cfg": {"image_size": 224}}
    siglip = framing_of(config, None, "ViT-B-16-SigLIP", "")
    assert (siglip.mode, siglip.mean) == ("squash", (0.5, 0.5, 0.5))
    assert framing_of(config, None, "ViT-B-32", "").mode == "shortest"
    assert framing_of(config, None, "ViT-L-14", "laion2b_s32b_b82k").mean == (0.5, 0.5, 0.5)


def test_published_weights_that_disagree_ask_for_the_checkpoints_own_configuration() -> None:
    with pytest.raises(WeightsError, match=r"ViT-L-14 want different .* open_clip_config\.json"):
        framing_of({"vision_cfg": {}}, None, "ViT-L-14", "")


# Published weights


@pytest.mark.parametrize("download", [False, True])
def test_published_weights_are_not_downloaded_unasked_nor_offline(
    monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = tower("open_clip:ViT-B-32@laion2b_s34b_b79k", "text", Machine(download=download))
    with pytest.raises(WeightsError, match=r"`hf download \S+ \S+`, or set download = true"):
        found.load()


def test_published_weights_that_were_fetched_before_are_found(hub: Path) -> None:
    from open_clip.pretrained import get_pretrained_cfg

    tag = "laion2b_s34b_b79k"
    repository, _, name = get_pretrained_cfg("ViT-B-32", tag)["hf_hub"].rpartition("/")
    published = tiny_text.publish(repository, lambda folder: folder)
    file = published.folder / (name or "open_clip_model.safetensors")
    file.parent.mkdir(parents=True)
    file.touch()
    found = published_file("ViT-B-32", tag, quick_gelu=False, download=False)
    shutil.rmtree(hub / f"models--{repository.replace('/', '--')}")
    assert found == file


def test_an_unknown_tag_is_answered_with_the_published_ones() -> None:
    with pytest.raises(WeightsError, match=r"'nonesuch' is neither .* ViT-B-32 \(openai, "):
        tower("open_clip:ViT-B-32@nonesuch", "text").load()


def test_a_tag_trained_with_another_activation_is_refused() -> None:
    with pytest.raises(WeightsError, match="were trained with QuickGELU, unlike ViT-B-32: "):
        tower("open_clip:ViT-B-32@openai", "text").load()


def test_a_repository_that_was_fetched_before_is_read_from_the_cache(
    loaded: Callable[[str], Encoder],
) -> None:
    def save(folder: Path) -> Path:
        folder.mkdir(parents=True)
        return tiny_vision.save_siglip(folder)

    tiny_text.publish("someone/tiny-siglip", save)
    found = tower("open_clip:hf-hub:someone/tiny-siglip", "text")
    expected = texts(loaded("siglip_text"), *TEXTS)
    np.testing.assert_array_equal(texts(found.load(), *TEXTS), expected)


def test_a_repository_that_is_absent_says_how_to_fetch_it() -> None:
    with pytest.raises(WeightsError, match="`hf download someone/absent` fetches it"):
        assert tower("open_clip:hf-hub:someone/absent", "text").dim


# Checkpoints that are none


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt: the file does not exist"):
        tower(f"open_clip:ViT-B-32@{tmp_path}/none.pt", "text").load()


@pytest.mark.parametrize("file", ["tiny.pt", "tiny.safetensors"])
def test_a_checkpoint_of_another_architecture_is_refused(copied: Path, file: str) -> None:
    write_config(copied, embed_dim=8)
    with pytest.raises(WeightsError, match=rf"{file} is no checkpoint of this architecture"):
        tower(spec(copied, file), "image").load()


def test_a_checkpoint_of_an_unknown_kind_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.npz").touch()
    with pytest.raises(WeightsError, match=r"tiny\.npz: a checkpoint ends in \.safetensors, "):
        tower(f"open_clip:{tiny_clip}/tiny.json@{tmp_path}/tiny.npz", "text").load()


def test_a_folder_without_its_configuration_is_refused(tiny_clip: Path) -> None:
    with pytest.raises(WeightsError, match=r"no open_clip_config\.json: write open_clip:MODEL@"):
        assert tower(f"open_clip:{tiny_clip}", "text").dim


# Tokenizers


def test_a_tokenizer_that_open_clip_lacks_is_read_from_beside_the_checkpoint(copied: Path) -> None:
    text = {**CLIP["text_cfg"], "hf_tokenizer_name": "someone/some-tokenizer"}
    write_config(copied, text_cfg=text)
    with pytest.raises(WeightsError, match="needs the tokenizer of someone/some-tokenizer: put "):
        tower(spec(copied), "text").load()
    tiny_text.save_tokenizer(copied)
    vectors = texts(tower(spec(copied), "text").load(), "red", "wine")
    assert vectors[0] @ vectors[1] < 0.9999


@pytest.fixture(scope="module")
def tokenize() -> ClipTokenizer:
    """The tokenizer that open_clip brings, with a short context."""
    return ClipTokenizer({"context_length": 24}, None)


@given(words=st.integers(0, 200))
def test_tokens_beyond_the_context_are_counted(tokenize: ClipTokenizer, words: int) -> None:
    tokens, cut = tokenize("wine " * words)
    assert tokens.shape == (24,)
    assert cut == max(0, words + 2 - 24)  # beside words there are a start and an end


@pytest.mark.parametrize("mark", ["?", "!"])  # the token of ! within a word is 0
def test_every_mark_is_counted_as_a_token(tokenize: ClipTokenizer, mark: str) -> None:
    assert tokenize(f"{mark}% " * 100)[1] == 202 - 24


def test_a_tokenizer_that_pads_with_its_end_counts_too(tmp_path: Path) -> None:
    """SigLIP's does."""
    tiny_text.save_tokenizer(tmp_path, pad_token="[SEP]")
    tokenize = ClipTokenizer({"context_length": 24}, tmp_path)
    short, long = tokenize("wine " * 10), tokenize("wine " * 100)
    assert short[1] == 0
    assert long[1] > 70


def test_a_text_half_of_transformers_that_is_absent_says_how_to_fetch_it(copied: Path) -> None:
    write_config(copied, text_cfg={"hf_model_name": "someone/absent", "context_length": 24})
    with pytest.raises(WeightsError, match="`hf download someone/absent` fetches it"):
        tower(spec(copied), "image").load()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_the_digest_follows_the_text_half_that_is_read_from_elsewhere(
    named: Callable[[str], Tower], file: str
) -> None:
    known = named("clip_xlm_roberta")
    said = Hub("tiny-xlm-roberta").folder(download=False) / file
    choice, before, text = known.choice, known.digest, said.read_text()
    pictures = tower(choice, "image").digest
    try:
        said.write_text(text + " ")
        assert tower(choice, "multimodal").digest != before
        assert tower(choice, "image").digest == pictures
    finally:
        said.write_text(text)
    assert tower(choice, "multimodal").digest == before
