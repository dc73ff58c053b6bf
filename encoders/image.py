"""Image towers: pictures through a network that is given. Knows no item id and no download."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from encoders.encoder import Item, Vectors, image_of, prepare_rows, unit_rows
from encoders.images import LARGEST, Framing, frame, normalise, open_picture
from encoders.vision_ops import ensure_torchvision

if TYPE_CHECKING:
    from timm.models.efficientnet import EfficientNet

_BATCH = 4  # buffers of larger ones are mapped anew for every operator: 16 took 1.3 times as long


class ImageEncoder:
    """Maps pictures to features, by a function from float32 [n, 3, size, size] to [n, dim]."""

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        framing: Framing,
        *,
        dim: int,
        digest: str,
    ) -> None:
        self.dim = dim
        self.digest = digest
        self._features = features
        self._framing = framing

    def encode(self, items: Sequence[Item], /) -> Vectors:
        """Return float32 [len(items), dim]; row i is items[i]; every row has norm 1."""
        squares = prepare_rows(self._square, items)
        features = np.empty((len(items), self.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(items), _BATCH):
                pixels = normalise(squares[start : start + _BATCH], self._framing)
                images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
                features[start : start + _BATCH] = self._features(images).numpy()
        return unit_rows(features)

    def _square(self, item: Item) -> NDArray[np.uint8]:
        framing = self._framing
        picture = open_picture(image_of(item), min_side=framing.min_side, max_pixels=LARGEST)
        return frame(picture, framing)


def load_image_encoder(weights: Path, framing: Framing, *, digest: str) -> ImageEncoder:
    """Return EfficientNet-Lite0's pooled features as an encoder."""
    model = efficientnet_lite0(weights)
    fold_batch_norms(model)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert isinstance(model.num_features, int)
    return ImageEncoder(model, framing, dim=model.num_features, digest=digest)


def efficientnet_lite0(weights: Path) -> "EfficientNet":
    """Return timm's network, without its classifier, with the weights of the 2020 PyTorch port."""
    ensure_torchvision()
    from timm.models.efficientnet import tf_efficientnet_lite0  # torchvision is importable now

    model = tf_efficientnet_lite0()
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict(renamed_by_position(stored, model.state_dict()))
    model.reset_classifier(0)
    return model.eval()


def renamed_by_position(
    stored: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Give the stored tensors the wanted names, by position.

    The two ports list the same tensors in the same order under other names. Shapes and last name
    parts prove it; counters of training steps are left as they are.
    """
    counters = {name: t for name, t in wanted.items() if name.endswith("num_batches_tracked")}
    names = [name for name in wanted if name not in counters]
    tensors = {k: t for k, t in stored.items() if not k.endswith("num_batches_tracked")}
    pairs = list(zip(names, tensors.items(), strict=True))
    for name, (old, tensor) in pairs:
        if tensor.shape != wanted[name].shape or old.split(".")[-1] != name.split(".")[-1]:
            raise ValueError(
                f"stored tensor {old} {list(tensor.shape)} does not fit {name} "
                f"{list(wanted[name].shape)}: the file holds another network"
            )
    return counters | {name: tensor for name, (_, tensor) in pairs}


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, in place.

    Outputs change by rounding only; the model runs 12 to 26 % shorter (2 shared cores, 5 trials).
    """
    for parent in list(model.modules()):
        conv: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = child
            elif isinstance(child, nn.BatchNorm2d) and conv is not None:
                _fold(conv, child)
                setattr(parent, name, getattr(child, "act", nn.Identity()))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None])
    bias = 0 if conv.bias is None else conv.bias
    conv.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
