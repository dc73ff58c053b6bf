"""torchvision becomes importable beside a torch that its operators were not built for."""

import subprocess
import sys

DECLARED = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_needs_torchvision_can_be_imported_afterwards() -> None:
    code = """
from encoders.vision_ops import ensure_torchvision
ensure_torchvision(); ensure_torchvision()
import timm, torchvision.transforms
print("imported")
"""
    assert run(code) == "imported"


def test_a_torchvision_that_imports_by_itself_is_left_alone() -> None:
    code = (
        DECLARED
        + """
from encoders import vision_ops
vision_ops.ensure_torchvision()
import torchvision
print(len(vision_ops._declared), torchvision.__name__)
"""
    )
    assert run(code) == "0 torchvision"
