"""Makes `import torchvision` work beside a torch that its compiled operators were not built for.

timm, open_clip and transformers import torchvision for its Python parts alone. A torchvision wheel
built for CUDA cannot load its operators beside a CPU torch, and then fails to import at all,
because it describes two operators that nobody has declared. Declaring them is enough; calling one
of them still fails, as it should. Call this before one of the three is imported; it knows none.
"""

import importlib

import torch

_UNDECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library withdraws its operators when collected


def ensure_torchvision() -> None:
    """Import torchvision, declaring its operators only if the import fails for want of them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _UNDECLARED:
            library.define(schema)
        _declared.append(library)
        importlib.import_module("torchvision")
