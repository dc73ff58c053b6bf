"""Vision networks as torch modules that take squares of pixels: timm's, and EfficientNet-Lite0.

Imports torch and timm: seconds, paid by who builds a network from weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from encoders.framing import Framing
from encoders.vision_ops import ensure_torchvision
from encoders.weights import TENSORS, WeightsError


class Pixels(nn.Module):
    """uint8 [n, size, size, 3] -> features [n, dim]: shifts pixels to the model's range first."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """Normalise in float32, run the model in the precision of its weights."""
        pixels = (squares.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.model(pixels.to(next(self.model.parameters()).dtype))


def timm_model(source: str, checkpoint: Path | None = None) -> tuple[Any, Framing]:
    """Return a timm model without its classifier, and how it wants its pictures.

    source: "local-dir:FOLDER", or the name of an architecture, whose weights are in `checkpoint`.
    """
    ensure_torchvision()
    import timm  # torchvision is importable now
    from timm.data.config import resolve_model_data_config

    if checkpoint is not None and checkpoint.suffix not in TENSORS:
        raise WeightsError(f"{checkpoint.name}: a checkpoint ends in {', '.join(TENSORS)}")
    overlay = {} if checkpoint is None else {"file": str(checkpoint)}
    model = _created(timm, source, pretrained=True, pretrained_cfg_overlay=overlay)
    model.reset_classifier(0)
    return model, timm_framing(resolve_model_data_config(model))


def timm_dim(source: str) -> int:
    """Return how long the features of a timm model are, without reading its weights."""
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model = _created(timm, source, pretrained=False)
    return int(getattr(model, "head_hidden_size", 0) or model.num_features)


def _created(timm: Any, source: str, **options: Any) -> Any:
    try:
        return timm.create_model(source, **options)
    except Exception as error:  # readers fail in dozens of ways on files that are none of theirs
        raise WeightsError(f"{source} is no model that timm reads: {error}") from error


def timm_framing(config: dict[str, Any]) -> Framing:
    """Return a data configuration of timm as a framing."""
    height, width = config["input_size"][1:]
    modes = {"center": "shortest", "squash": "squash", "border": "longest"}
    filters = ("bicubic", "bilinear")
    if (
        height != width
        or config["crop_mode"] not in modes
        or config["interpolation"] not in filters
    ):
        raise WeightsError(
            f"pictures of {height} x {width}, {config['crop_mode']}, {config['interpolation']}: "
            f"square ones are prepared here, {', '.join(modes)}, {', '.join(filters)}"
        )
    mode = modes[config["crop_mode"]]
    return Framing.keeping(
        config["crop_pct"],
        height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        mode=mode,
        resample=config["interpolation"],
        fill=tuple(round(255 * level) for level in config["mean"])
        if mode == "longest"
        else (0,) * 3,
    )


def efficientnet_lite0(weights: Path) -> Any:
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


def example(size: int) -> dict[str, NDArray[np.uint8]]:
    """Return squares to trace a Pixels with."""
    return {"squares": np.zeros((2, size, size, 3), np.uint8)}
