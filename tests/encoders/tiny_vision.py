"""Small real models of timm and open_clip with random weights, saved as the libraries save them."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from encoders.vision_ops import ensure_torchvision
from tests.encoders import tiny_text

VIT = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 7}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP: dict[str, Any] = {
    "embed_dim": 96,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit3",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 900,
        "hf_tokenizer_name": "someone/some-tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
COCA: dict[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "multimodal_cfg": {
        "width": 32,
        "context_length": 24,
        "vocab_size": 49408,
        "layers": 1,
        "heads": 2,
        "n_queries": 8,
        "attn_pooler_heads": 2,
    },
    "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "output_tokens": True},
    "text_cfg": {**CLIP["text_cfg"], "embed_cls": True, "output_tokens": True},
}


def save_timm(architecture: str, options: dict[str, Any], folder: Path) -> Path:
    """A folder with config.json and model.safetensors, as timm writes it for the hub."""
    ensure_torchvision()
    import timm
    from timm.models import _hub

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = timm.create_model(architecture, pretrained=False, **options)
    _hub.save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def save_clip(
    config: dict[str, Any], folder: Path, weights: dict[str, torch.Tensor] | None = None
) -> Path:
    """A folder with tiny.json, tiny.safetensors and tiny.pt: a configuration and checkpoints."""
    weights = weights or _weights(config)
    (folder / "tiny.json").write_text(json.dumps(config))
    save_file(weights, folder / "tiny.safetensors")
    torch.save({"epoch": 1, "state_dict": weights}, folder / "tiny.pt")
    return folder


def save_siglip(folder: Path) -> Path:
    """A folder with open_clip_config.json, weights and tokenizer, as published ones are."""
    half = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    said = {"model_cfg": SIGLIP, "preprocess_cfg": {**half, "interpolation": "bicubic"}}
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    save_file(_weights(SIGLIP), folder / "open_clip_model.safetensors")
    tiny_text.save_tokenizer(folder)
    return folder


def save_hf_clip(folder: Path) -> Path:
    """A CLIP with XLM-RoBERTa for its text half, as open_clip's multilingual ones have."""
    half = tiny_text.publish("tiny-xlm-roberta", tiny_text.save_xlm_roberta)
    text = {
        "hf_model_name": half.name,
        "hf_tokenizer_name": half.name,
        "context_length": 24,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
    }
    local = {**text, "hf_model_name": str(half.folder), "hf_model_pretrained": False}
    return save_clip({**CLIP, "text_cfg": text}, folder, _weights({**CLIP, "text_cfg": local}))


def _weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    ensure_torchvision()
    import open_clip

    parts = deepcopy(config)
    custom = parts.pop("custom_text", "hf_model_name" in parts["text_cfg"])
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in parts else kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return {name: tensor.contiguous() for name, tensor in kind(**parts).state_dict().items()}
