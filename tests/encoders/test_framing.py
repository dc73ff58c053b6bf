"""Pictures to squares: every square is what the model's own library makes of the picture."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders.framing import Framing, Mode, frame
from encoders.image import square
from encoders.images import LARGEST, open_picture
from encoders.pixels import timm_framing
from encoders.room import peak_bytes
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError
from tests.encoders.pictures import encoded, gradient

FRAMING = Framing(size=32, resize=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SIZES = [(64, 64), (96, 64), (50, 120), (33, 47), (32, 32), (20, 31), (500, 375), (160, 40)]
LEVELS = 2  # of 255, by which a pixel may differ: Pillow's filters and torch's round differently
DATA: dict[str, Any] = {  # how timm writes down what a model wants
    "input_size": (3, 32, 32),
    "crop_mode": "center",
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.5, 0.5),
}


def photo(width: int, height: int) -> Image.Image:
    """A picture of blots, so that every shift and scale shows."""
    shape = (max(2, height // 6), max(2, width // 6), 3)
    blots = np.random.default_rng(width * height).integers(0, 255, shape, dtype=np.uint8)
    return Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC)


def levels(tensor: Any, mean: Any, std: Any) -> np.ndarray:
    """A library's normalised [3, h, w] as [h, w, 3] from 0 to 255."""
    return 255 * (tensor.permute(1, 2, 0).numpy() * np.array(std) + np.array(mean))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_pictures_are_framed_as_open_clip_frames_them(
    mode: Mode, interpolation: Any, size: tuple[int, int]
) -> None:
    ensure_torchvision()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    wanted = PreprocessCfg(size=32, resize_mode=mode, interpolation=interpolation)
    transform: Any = image_transform_v2(wanted, is_train=False)
    theirs = levels(transform(photo(*size)), wanted.mean, wanted.std)
    framing = replace(FRAMING, resize=32, mode=mode, resample=interpolation)
    assert np.abs(frame(photo(*size), framing) - theirs).max() < LEVELS + 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.9, 1.0])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_pictures_are_framed_as_timm_frames_them(
    mode: str, share: float, size: tuple[int, int]
) -> None:
    ensure_torchvision()
    from timm.data import create_transform

    data = {**DATA, "crop_mode": mode, "crop_pct": share}
    transform: Any = create_transform(**data)
    theirs = levels(transform(photo(*size)), data["mean"], data["std"])
    assert np.abs(frame(photo(*size), timm_framing(data)) - theirs).max() < LEVELS + 0.5


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_framed_as_torchvision_frames_them(size: tuple[int, int]) -> None:
    ensure_torchvision()
    from torchvision.transforms import v2

    steps = [v2.Resize(36, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)]
    theirs = np.asarray(v2.Compose(steps)(photo(*size))).astype(int)
    assert np.abs(frame(photo(*size), FRAMING) - theirs).max() <= LEVELS


@pytest.mark.parametrize(
    "changes",
    [{"input_size": (3, 32, 48)}, {"crop_mode": "random"}, {"interpolation": "nearest"}],
)
def test_a_data_configuration_that_cannot_be_met_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="square ones are prepared here"):
        timm_framing({**DATA, **changes})


def test_the_kept_share_is_rounded_as_timm_rounds_it() -> None:
    framings = [timm_framing({**DATA, "crop_pct": share}) for share in (0.875, 0.9, 0.95, 1.0)]
    assert [framing.resize for framing in framings] == [36, 35, 33, 32]


@settings(max_examples=50)
@given(
    width=st.integers(2, 300),
    height=st.integers(2, 300),
    mode=st.sampled_from(["shortest", "squash", "longest"]),
    size=st.sampled_from([7, 32]),
)
def test_every_picture_becomes_a_square(width: int, height: int, mode: Mode, size: int) -> None:
    framing = replace(FRAMING, mode=mode, size=size, resize=size + 4)
    framed = frame(gradient(width, height), framing)
    assert (framed.shape, framed.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(2, 20_000), (20_000, 2)])
def test_a_banner_takes_no_more_memory_than_a_photo(mode: Mode, size: tuple[int, int]) -> None:
    framing = replace(FRAMING, mode=mode, size=224, resize=256)
    banner = gradient(*size)
    taken = peak_bytes("cpu", lambda: frame(banner, framing))
    assert taken < 32 << 20


@pytest.mark.parametrize("turn", [False, True])
def test_of_a_banner_the_middle_is_shown(turn: bool) -> None:
    banner = Image.new("RGB", (4000, 20), "white")
    banner.paste("red", (1900, 0, 2100, 20))
    banner = banner.transpose(Image.Transpose.ROTATE_90) if turn else banner
    assert (frame(banner, FRAMING) == (255, 0, 0)).all()


def test_longest_mode_shows_the_whole_picture_on_black() -> None:
    shown = frame(Image.new("RGB", (64, 32), "white"), replace(FRAMING, resize=32, mode="longest"))
    assert (shown[8:24] == 255).all()
    assert (shown[:8] == 0).all()
    assert (shown[24:] == 0).all()


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    picture = photo(32, 32)
    framing = replace(FRAMING, resize=32)
    np.testing.assert_array_equal(frame(picture, framing), np.asarray(picture))


def test_framing_leaves_the_picture_as_it_was() -> None:
    picture = photo(90, 60)
    before = np.array(picture)
    frame(picture, FRAMING)
    np.testing.assert_array_equal(np.asarray(picture), before)


def test_a_file_decoded_at_a_reduced_scale_shows_the_same_square() -> None:
    picture = photo(120, 96).resize((1200, 960), Image.Resampling.BICUBIC)
    data = encoded(picture, "JPEG", quality=95)
    full = frame(open_picture(data, max_pixels=LARGEST), FRAMING).astype(int)
    assert open_picture(data, min_side=FRAMING.min_side).size == (150, 120)
    assert np.abs(square(data, FRAMING) - full).mean() < 1
