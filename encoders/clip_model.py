"""open_clip models as torch modules, read from a configuration and a checkpoint.

Imports torch and open_clip: seconds, paid by who builds a network from weights. Checkpoints are
read as tensors only; a file that needs code to load is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from encoders.framing import Framing, Mode, Resample
from encoders.vision_ops import ensure_torchvision
from encoders.weights import TENSORS, WeightsError

_FRAMING_KEYS = ("mean", "std", "interpolation", "resize_mode")
_ENDS = 2  # tokens that open and close every text
_TOKENIZER_KEYS = ("clean", "strip_sep_token")

Config = Mapping[str, Any]  # a model configuration, as in open_clip's JSON files
Half = Literal["text", "image"]


class Features(nn.Module):
    """One half of a model: tokens int64 [n, t], or float pixels, to features [n, dim]."""

    def __init__(self, model: Any, half: Half) -> None:
        super().__init__()
        self.model = model
        self._encode: Callable[[torch.Tensor], torch.Tensor] = getattr(model, f"encode_{half}")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the half."""
        return self._encode(inputs)


def load_model(config: Config, checkpoint: Path) -> Any:
    """Build an open_clip architecture in float32 and load a checkpoint of it, tensors only."""
    if checkpoint.suffix not in TENSORS:
        raise WeightsError(f"{checkpoint.name}: a checkpoint ends in {', '.join(TENSORS)}")
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
    for key, known in (("resize_mode", get_args(Mode)), ("interpolation", get_args(Resample))):
        if wanted[key] not in known:
            raise WeightsError(f"{key} {wanted[key]!r} is not known here: {', '.join(known)} are")
    side = _square_side(config["vision_cfg"].get("image_size", default.size))
    return Framing(
        size=side,
        resize=side,
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        mode=wanted["resize_mode"],
        resample=wanted["interpolation"],
    )


class ClipTokenizer:
    """Texts to int64 [t], t being the model's context; counts what does not fit.

    source: a folder that holds tokenizer.json, or None for the tokenizer that open_clip brings.
    """

    def __init__(self, text: Config, source: Path | None) -> None:
        ensure_torchvision()
        from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

        self.length: int = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
        given = text.get("tokenizer_kwargs", {})
        options = {key: given[key] for key in _TOKENIZER_KEYS if key in given}
        self._lock = Lock()  # fast tokenizers refuse to be used by two threads at once
        if source is None:
            self._tokenize: Any = SimpleTokenizer(context_length=self.length, **options)
            self._count = lambda text: len(self._tokenize.encode(text)) + _ENDS
            return
        self._tokenize = HFTokenizer(
            str(source),
            context_length=self.length,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
        self._count = self._count_all

    def __call__(self, text: str) -> tuple[NDArray[np.int64], int]:
        """Return the tokens of a text, and how many more it has."""
        with self._lock:
            tokens = self._tokenize([text])[0].numpy()
            return tokens, max(0, self._count(text) - self.length)

    def _count_all(self, text: str) -> int:
        clean = self._tokenize.clean_fn(text)
        return len(self._tokenize.tokenizer(clean, truncation=False, verbose=False).input_ids)


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


def token_example(text: Config) -> dict[str, NDArray[np.int64]]:
    """Return tokens to trace the text half with."""
    tokens = np.zeros((2, text.get("context_length", 77)), np.int64)
    tokens[:, 0] = text.get("vocab_size", 3) - 1
    return {"inputs": tokens}
