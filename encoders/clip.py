"""open_clip towers: texts and pictures in one joint space, from a checkpoint file.

Knows no item id. Checkpoints are read as tensors only; a file that needs code to load is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from encoders.encoder import Item, Vectors, prepare_rows, text_of, unit_rows
from encoders.image import ImageEncoder
from encoders.images import Framing
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_BATCH = 16
_FRAMING_KEYS = ("mean", "std", "interpolation", "resize_mode")
_TOKENIZER_KEYS = ("clean", "strip_sep_token")

Config = Mapping[str, Any]  # a model configuration, as in open_clip's JSON files
Tokenize = Callable[[list[str]], torch.Tensor]


class ClipTextEncoder:
    """The text half of an open_clip model."""

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        tokenize: Tokenize,
        *,
        dim: int,
        digest: str,
    ) -> None:
        self.dim = dim
        self.digest = digest
        self._features = features
        self._tokenize = tokenize
        self._tokenizing = Lock()  # fast tokenizers refuse to be used by two threads at once

    @classmethod
    def load(
        cls, config: Config, checkpoint: Path, *, digest: str, tokenizer: Path | str | None = None
    ) -> Self:
        """Build the architecture and load the checkpoint into it.

        tokenizer: a folder that holds tokenizer.json, or a name to download; None is the one that
        comes with open_clip.
        """
        model = load_model(config, checkpoint)
        tokenize = _tokenizer(config["text_cfg"], tokenizer)
        return cls(model.encode_text, tokenize, dim=config["embed_dim"], digest=digest)

    def encode(self, items: Sequence[Item], /) -> Vectors:
        """Return float32 [len(items), dim]; row i is items[i]; every row has norm 1."""
        texts = prepare_rows(text_of, items)
        features = np.empty((len(items), self.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(items), _BATCH):
                with self._tokenizing:
                    tokens = self._tokenize(texts[start : start + _BATCH])
                features[start : start + _BATCH] = self._features(tokens).numpy()
        return unit_rows(features)


def load_image_encoder(
    config: Config, checkpoint: Path, framing: Framing, *, digest: str
) -> ImageEncoder:
    """Build the architecture, load the checkpoint into it, and take the image half."""
    model = load_model(config, checkpoint)
    return ImageEncoder(model.encode_image, framing, dim=config["embed_dim"], digest=digest)


def load_model(config: Config, checkpoint: Path) -> Any:
    """Build an open_clip architecture in float32 and load a checkpoint of it, tensors only."""
    if checkpoint.suffix not in SUFFIXES:
        raise WeightsError(f"{checkpoint.name}: a checkpoint ends in {', '.join(SUFFIXES)}")
    ensure_torchvision()
    import open_clip  # after torchvision has been made importable

    model: Any = _architecture(config)
    try:
        open_clip.load_checkpoint(model, str(checkpoint), strict=True, weights_only=True)
    except Exception as error:  # readers fail in dozens of ways on files that are none of theirs
        raise WeightsError(
            f"{checkpoint.name} is no checkpoint of this architecture, or needs code to load, "
            f"which is never run (save its state dict as safetensors): {error}"
        ) from error
    return model.eval()


def framing_of(config: Config, preprocess: Config | None, architecture: str, tag: str) -> Framing:
    """Return how the model wants its pictures.

    preprocess: what the checkpoint's own open_clip_config.json says, where there is one. Otherwise
    the pretrained tag decides, or what all published weights of the architecture have in common,
    or, for an architecture that open_clip does not know, open_clip's default.
    """
    ensure_torchvision()
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
    from open_clip.transform import PreprocessCfg

    tags = [tag] if tag else list_pretrained_tags_by_model(architecture)
    published = [_pick(get_pretrained_cfg(architecture, name)) for name in tags]
    if preprocess is None and any(found != published[0] for found in published):
        raise WeightsError(
            f"published weights of {architecture} want different preprocessing: put the "
            "open_clip_config.json that came with the checkpoint beside it"
        )
    default = PreprocessCfg()
    wanted = {key: getattr(default, key) for key in _FRAMING_KEYS}
    wanted |= (published[0] if published else {}) if preprocess is None else _pick(preprocess)
    return Framing(
        size=_square_side(config["vision_cfg"].get("image_size", default.size)),
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        mode=wanted["resize_mode"],
        resample=wanted["interpolation"],
    )


def _pick(preprocess: Config) -> dict[str, Any]:
    return {key: preprocess[key] for key in _FRAMING_KEYS if preprocess.get(key) is not None}


def _square_side(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise WeightsError(f"pictures of {size}: only square ones are prepared here")
    return sides.pop()


def _architecture(config: Config) -> nn.Module:
    from open_clip import CLIP, CoCa, CustomTextCLIP

    parts = deepcopy(dict(config))
    custom = parts.pop("custom_text", False)
    for part, switch in (
        ("vision_cfg", "timm_model_pretrained"),
        ("text_cfg", "hf_model_pretrained"),
    ):
        parts[part][switch] = False  # the checkpoint holds everything
    if "multimodal_cfg" in parts:
        return CoCa(**parts)
    return (CustomTextCLIP if custom or "hf_model_name" in parts["text_cfg"] else CLIP)(**parts)


def _tokenizer(text: Config, source: Path | str | None) -> Tokenize:
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    given = text.get("tokenizer_kwargs", {})
    options = {key: given[key] for key in _TOKENIZER_KEYS if key in given}
    if source is None:
        return SimpleTokenizer(context_length=length, **options)
    return HFTokenizer(
        str(source),
        context_length=length,
        tokenizer_mode=text.get("tokenizer_mode"),
        local_files_only=isinstance(source, Path),
        **options,
    )
