"""Multimodal language models and their processors, read from a folder of safetensors.

Imports torch and transformers: seconds, paid by who loads a model.
"""

from pathlib import Path
from typing import Any

import torch

from encoders.network import exact_float32
from encoders.quiet import quiet
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError, refuse_missing


def load_model(folder: Path, precision: str, device: str) -> tuple[Any, Any]:
    """Return a model and its processor; pictures are not cut into tiles where that is optional."""
    ensure_torchvision()
    exact_float32()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            processor: Any = AutoProcessor.from_pretrained(folder, **options)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                output_loading_info=True,
                weights_only=True,
                dtype=getattr(torch, precision),
                **options,
            )
    except Exception as error:  # readers fail in dozens of ways on files that are none of theirs
        raise WeightsError(
            f"{folder.name} is no multimodal model that transformers reads: {error}"
        ) from error
    model, found = loaded
    refuse_missing(folder, found["missing_keys"])
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False  # 17 tiles of one thumbnail otherwise
    return model.eval().to(device), processor
