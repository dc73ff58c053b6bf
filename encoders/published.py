"""Published open_clip weights: found in the local cache, or downloaded where that is allowed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encoders.weights import WeightsError

_DEFAULT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def published_file(architecture: str, tag: str, *, quick_gelu: bool, download: bool) -> Path:
    """Return the checkpoint of a pretrained tag. The network is used only with `download`.

    quick_gelu: whether the architecture has that activation; weights were trained for one or the
    other, and load into both.
    """
    published = _known(architecture, tag, quick_gelu=quick_gelu)
    from huggingface_hub import constants  # open_clip needs what _known has made sure of
    from open_clip.pretrained import download_pretrained

    repository, _, name = published["hf_hub"].rpartition("/")
    names = [name] if name else list(_DEFAULT_FILES)
    if cached := _cached(repository, names):
        return cached
    if download and not constants.HF_HUB_OFFLINE:
        return Path(download_pretrained(published))
    fetch = f"`hf download {repository} {names[0]}`" if repository else "its publisher"
    raise WeightsError(
        f"the weights {tag} of {architecture} are not on this machine: get them with {fetch}, or "
        "set download = true under [encoders]"
    )


def _known(architecture: str, tag: str, *, quick_gelu: bool) -> dict[str, Any]:
    """Return what open_clip knows of a tag; WeightsError where it has none that fit."""
    from encoders.vision_ops import ensure_torchvision  # torch: 1.6 s

    ensure_torchvision()
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    published = get_pretrained_cfg(architecture, tag)
    if not published:
        known = ", ".join(list_pretrained_tags_by_model(architecture)) or "none is published"
        raise WeightsError(
            f"{tag!r} is neither a file nor published weights of {architecture} ({known})"
        )
    if published.get("quick_gelu", False) != quick_gelu:
        raise WeightsError(
            f"the weights {tag} were trained {'without' if quick_gelu else 'with'} QuickGELU, "
            f"unlike {architecture}: name the architecture with or without -quickgelu"
        )
    return published


def _cached(repository: str, names: Sequence[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in names if repository else []:
        if isinstance(found := try_to_load_from_cache(repository, name), str):
            return Path(found)
    return None
