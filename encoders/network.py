"""What runs a model: arrays in, features out. Here by torch, on any device.

A network is a torch module from integer arrays to features [n, dim]; its attribute `model` is the
part whose weights have a precision. It knows arrays, not items.
"""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
Features: TypeAlias = NDArray[np.float32]


class Network(Protocol):
    """Integer arrays in, float32 [n, dim] out; safe to call from several threads."""

    def __call__(self, *arrays: NDArray[Any]) -> Features:
        """Run the network on a batch."""
        ...


def exact_float32() -> None:
    """Let float32 mean float32 on CUDA: torch rounds convolutions to ten bits otherwise."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class TorchNetwork:
    """A network run by torch."""

    def __init__(
        self,
        module: "nn.Module",
        *,
        device: str = "cpu",
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        import torch  # 1.6 s, and OpenVINO's networks do without

        if precision == "int8":
            raise ValueError('precision "int8" is OpenVINO\'s: set runtime = "openvino"')
        exact_float32()
        module = module.eval().to(device)
        module.get_submodule("model").to(getattr(torch, precision))
        self._torch = torch
        self._device = device
        self._run: Any = torch.compile(module, dynamic=True) if compiled else module

    def __call__(self, *arrays: NDArray[Any]) -> Features:
        """Run the network on a batch."""
        with self._torch.inference_mode():
            tensors = [self._torch.from_numpy(array).to(self._device) for array in arrays]
            return self._run(*tensors).float().cpu().numpy()
