"""Transformers with pooling as torch modules, read from a folder of safetensors.

Imports torch and transformers: seconds, paid by who builds a network from weights.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from encoders.quiet import quiet
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError, refuse_missing

ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "GELU": nn.GELU, "ReLU": nn.ReLU}


class Pooled(nn.Module):
    """ids, mask int64 [n, t] -> features float32 [n, dim]: mean, first ("cls") or last token.

    Texts are padded on the right. dense: layers that follow pooling, as sentence-transformers
    keeps them.
    """

    def __init__(self, model: nn.Module, pooling: str, dense: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.dense = dense or nn.Identity()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the model and pool its last layer, in float32."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        hidden = hidden.float()
        if self.pooling == "mean":
            weight = attention_mask[:, :, None].float()
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            last = attention_mask.sum(1) - 1
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.dense(pooled)


def load_pooled(folder: Path, pooling: str, dense: list[str]) -> Pooled:
    """Load a transformer from its folder; `dense` names the subfolders of layers behind it."""
    ensure_torchvision()
    from transformers import AutoModel  # it imports torchvision where it can

    try:
        with quiet():
            model, found = AutoModel.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                dtype=torch.float32,
            )
    except Exception as error:  # readers fail in dozens of ways on files that are none of theirs
        raise WeightsError(
            f"{folder.name} is no text model that transformers reads: {error}"
        ) from error
    refuse_missing(folder, [key for key in found["missing_keys"] if not key.startswith("pooler.")])
    model.loss_type = "ForCausalLM"  # tracing reads every property, and this one warns of nothing
    model.config.use_cache = False  # of past tokens: there are none
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    layers = [_dense(folder / name) for name in dense]
    return Pooled(model, pooling, nn.Sequential(*layers) if layers else None)


def _dense(folder: Path) -> nn.Module:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    activation = config.get("activation_function", "torch.nn.Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise WeightsError(f"{folder.name}: the activation {activation} is not known here")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    try:
        stored = load_file(folder / "model.safetensors")
        layer.load_state_dict({name.removeprefix("linear."): t for name, t in stored.items()})
    except Exception as error:
        raise WeightsError(f"{folder.name} does not hold that layer's weights: {error}") from error
    return nn.Sequential(layer, ACTIVATIONS[activation]())


def example() -> dict[str, NDArray[np.int64]]:
    """Return inputs to trace a Pooled with."""
    ids = np.ones((2, 9), np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
