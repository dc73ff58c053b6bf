"""Image towers: the default one's weights and numbers, and what folders of timm say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from encoders import feed
from encoders.encoder import Encoder, Item
from encoders.framing import Framing, frame
from encoders.image_source import EfficientNetLite0
from encoders.images import open_picture
from encoders.pixels import efficientnet_lite0, renamed_by_position
from encoders.registry import Tower, tower
from encoders.spec import Choice
from encoders.vision_ops import ensure_torchvision
from encoders.weights import Package, WeightsError
from tests.encoders.conftest import folder_of
from tests.encoders.pictures import encoded, gradient

# The largest coordinates. torchvision's Resize and CenterCrop before the unfolded network give the
# same four digits.
GOLDEN = {113: 0.3417, 897: 0.3204, 747: 0.2211, 930: 0.2150, 455: 0.2127}
WRONG = [  # ImageNet's own, and pixels from 0 to 1
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
]


@pytest.fixture(scope="module")
def source() -> EfficientNetLite0:
    found = tower("efficientnet-lite0", "image").source
    assert isinstance(found, EfficientNetLite0)
    return found


def weights_of(package: Package) -> Path:
    return package.folder() / package.files[0][0]


@pytest.fixture(scope="module")
def network(source: EfficientNetLite0) -> nn.Module:
    """The network as published, without its classifier."""
    return efficientnet_lite0(weights_of(source.package))


@pytest.mark.parametrize("name", ["efficientnet", "efficientnet_torch"])
def test_a_fixed_picture_has_the_known_vector(loaded: Callable[[str], Encoder], name: str) -> None:
    vector = feed.encode(loaded(name), [Item(image=encoded(gradient(300, 200)))])[0]
    np.testing.assert_allclose(vector[list(GOLDEN)], list(GOLDEN.values()), atol=1e-4)
    assert np.linalg.norm(vector[list(GOLDEN)]) > 0.3


def test_all_247_tensors_find_their_place_by_position(source: EfficientNetLite0) -> None:
    ensure_torchvision()
    from timm.models.efficientnet import tf_efficientnet_lite0

    stored = torch.load(weights_of(source.package), weights_only=True)
    wanted = tf_efficientnet_lite0().state_dict()
    renamed = renamed_by_position(stored, wanted)
    trained = [name for name in wanted if not name.endswith("num_batches_tracked")]
    assert len(trained) == 247
    assert set(renamed) == set(wanted)
    assert torch.equal(renamed["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(renamed["classifier.bias"], stored["_fc.bias"])


def test_tensors_of_another_network_are_refused() -> None:
    wanted = {"a.weight": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"b\.weight \[3, 2\] does not fit a\.weight \[2, 3\]"):
        renamed_by_position({"b.weight": torch.zeros(3, 2)}, wanted)
    with pytest.raises(ValueError, match=r"b\.bias \[2, 3\] does not fit a\.weight"):
        renamed_by_position({"b.bias": torch.zeros(2, 3)}, wanted)
    with pytest.raises(ValueError, match="zip"):
        renamed_by_position({}, wanted)


def test_a_rotated_file_has_the_vector_of_the_rotated_picture(efficientnet: Encoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Item(image=encoded(gradient(300, 200), exif=exif))
    turned = Item(image=encoded(gradient(300, 200).transpose(Image.Transpose.ROTATE_270)))
    vectors = feed.encode(efficientnet, [stored, turned])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_the_stored_batch_norms_expect_pixels_from_minus_one_to_one(
    datasets: Path, network: nn.Module, source: EfficientNetLite0
) -> None:
    """Real pictures, rightly prepared, have the statistics that the network saw in training."""
    pictures = real_pictures(datasets, 8)
    stem, everywhere = divergence(network, pictures, source.framing)
    assert stem < 0.1
    for mean, std in WRONG:
        framing = replace(source.framing, mean=mean, std=std)
        wrong_stem, wrong_everywhere = divergence(network, pictures, framing)
        assert 5 * stem < wrong_stem
        assert 1.5 * everywhere < wrong_everywhere


def real_pictures(datasets: Path, count: int) -> list[bytes]:
    folders = [folder for folder in sorted(datasets.iterdir()) if (folder / "images").is_dir()]
    if not folders:
        pytest.skip(f"no real photographs under {datasets}")
    files: list[Path] = []
    for folder in folders:
        paths = pq.read_table(folder / "items.parquet", columns=["image_path"])["image_path"]
        found = [folder / path for path in paths.drop_null().to_pylist()]
        step = len(found) // (count // len(folders))
        files += found[::step][: count // len(folders)]
    return [file.read_bytes() for file in files]


def divergence(network: nn.Module, pictures: list[bytes], framing: Framing) -> tuple[float, float]:
    """KL(batch statistics || stored statistics) of the first batch norm, and mean over all 49.

    The median over channels stands for a layer: channels that never fire diverge without bound.
    """
    found: list[float] = []

    def compare(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        ratio = variance / (norm.running_var + norm.eps)
        shift = (mean - norm.running_mean) ** 2 / (norm.running_var + norm.eps)
        found.append(float((ratio + shift - 1 - ratio.log()).median() / 2))

    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    squares = np.stack([frame(open_picture(data), framing) for data in pictures])
    pixels = ((squares / 255 - framing.mean) / framing.std).astype(np.float32)
    with torch.inference_mode():
        network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    assert len(found) == len(norms) == 49
    return found[0], float(np.mean(found))


# timm


PICTURES = [gradient(90 + 9 * row, 120 - 9 * row, shift=30 * row) for row in range(4)]
ITEMS = [Item(image=encoded(picture)) for picture in PICTURES]


@pytest.mark.parametrize("name", ["timm_vit", "timm_convnext", "timm_mobilenet"])
def test_the_vectors_are_timms_own(named: Callable[[str], Tower], name: str) -> None:
    ensure_torchvision()
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model: Any = timm.create_model(f"local-dir:{folder_of(named(name))}", pretrained=True)
    model.reset_classifier(0)
    transform: Any = create_transform(**resolve_model_data_config(model))
    with torch.inference_mode():
        pixels = torch.stack([transform(picture) for picture in PICTURES])
        theirs = nn.functional.normalize(model.eval()(pixels)).numpy()
    np.testing.assert_allclose(feed.encode(named(name).load(), ITEMS), theirs, atol=2e-3)


def test_an_architecture_with_a_checkpoint_is_what_its_folder_is(
    named: Callable[[str], Tower],
) -> None:
    weights = folder_of(named("timm_mobilenet")) / "model.safetensors"
    found = tower(f"timm:mobilenetv4_conv_small_035@{weights}", "image").load()
    of_folder = feed.encode(named("timm_mobilenet").load(), ITEMS)
    np.testing.assert_allclose(feed.encode(found, ITEMS), of_folder, atol=1e-6)


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.99), ("float16", 0.9999)])
@pytest.mark.parametrize("name", ["timm_vit", "timm_convnext", "clip_image", "coca_image"])
def test_pictures_in_fewer_bits_point_where_float32_points(
    named: Callable[[str], Tower], name: str, precision: str, least: float
) -> None:
    choice = replace(named(name).choice, precision=precision)
    vectors = feed.encode(tower(choice, "image").load(), ITEMS)
    full = feed.encode(named(name).load(), ITEMS)
    assert (vectors * full).sum(axis=1).min() > least


def test_a_checkpoint_of_another_architecture_is_refused(named: Callable[[str], Tower]) -> None:
    weights = folder_of(named("timm_vit")) / "model.safetensors"
    with pytest.raises(WeightsError, match="test_convnext is no model that timm reads"):
        tower(f"timm:test_convnext@{weights}", "image").load()


def test_an_architecture_that_timm_does_not_know_is_refused(
    named: Callable[[str], Tower],
) -> None:
    weights = folder_of(named("timm_vit")) / "model.safetensors"
    with pytest.raises((ValueError, WeightsError), match="no_such"):
        tower(f"timm:no_such@{weights}", "image").load()


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt: the file does not exist"):
        tower(f"timm:test_vit@{tmp_path}/none.pt", "image").load()


def test_a_checkpoint_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").touch()
    with pytest.raises(WeightsError, match=r"weights\.npz: a checkpoint ends in \.safetensors"):
        tower(f"timm:test_vit@{tmp_path}/weights.npz", "image").load()


def test_a_folder_that_is_none_of_timms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match="is no model that timm reads"):
        tower(Choice(f"timm:{tmp_path}"), "image").load()


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match=r"config\.json"):
        tower(Choice(f"timm:{tmp_path}"), "image").load()
