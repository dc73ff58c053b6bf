"""Networks run by OpenVINO on a CPU. It knows graphs and threads, not models.

int8: the weights of matrix products as 8-bit integers with a scale per output; activations are
rounded in groups of 64 of a row as they come, so that nothing is calibrated. What that costs and
gains is in docs/decisions/0013-openvino-on-a-cpu.md.
"""

import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.network import Features

if TYPE_CHECKING:
    from openvino import Model
    from torch import nn

GROUP = 64  # activations that share a scale in int8
_TELEMETRY = "openvino_telemetry"
_importing = Lock()
_converting = Lock()  # torch traces one module at a time
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}


def silent_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report the import over the network.

    It does without where that package is missing; so it is, while the import lasts.
    """
    with _importing:
        if "openvino" in sys.modules or _TELEMETRY in sys.modules:
            import openvino

            return openvino
        sys.modules[_TELEMETRY] = None  # pyright: ignore[reportArgumentType]
        try:
            import openvino

            return openvino
        finally:
            del sys.modules[_TELEMETRY]


class OpenVinoNetwork:
    """A network run on this machine's cores, one forward per core."""

    def __init__(self, model: "Model | Path", *, precision: str, streams: int) -> None:
        openvino = silent_openvino()
        properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if precision == "int8" else 0,
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
        }
        # In a thread that ends: OpenVINO gives the calling one a signal stack of the smallest size,
        # on which Python's own handlers overflow (Ctrl-C, or a child's end, would be a crash).
        with ThreadPoolExecutor(1) as aside:
            compiling = aside.submit(openvino.Core().compile_model, model, "CPU", properties)
            self._compiled = compiling.result()
        self._requests = local()

    def __call__(self, *arrays: NDArray[Any]) -> Features:
        """Run the network on a batch."""
        request = getattr(self._requests, "mine", None)
        if request is None:
            request = self._requests.mine = self._compiled.create_infer_request()
        return np.array(request.infer(list(arrays), share_inputs=True)[0], np.float32)


def convert(module: "nn.Module", example: Mapping[str, NDArray[Any]], *, precision: str) -> "Model":
    """Convert a torch module by tracing it on an example of its inputs. Sizes stay open."""
    import torch

    openvino = silent_openvino()
    inputs = {name: torch.from_numpy(array) for name, array in example.items()}
    fused = torch.backends.mha.get_fastpath_enabled()
    with _converting, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing tells of every `if` that it has settled
        torch.backends.mha.set_fastpath_enabled(False)  # an operator of torch's that none else has
        try:
            model = openvino.convert_model(module.float().eval(), example_input=inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
    if precision == "int8":
        _round_weights(model)
    return model


def _round_weights(model: "Model") -> None:
    """Replace the constant factor of every matrix product by 8-bit integers and their scales."""
    openvino = silent_openvino()
    ops = openvino.opset13
    found = 0
    for node in model.get_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        weights = np.asarray(constant.get_data(), np.float32)
        scale = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-12) / 127
        rounded = ops.constant(np.round(weights / scale).astype(np.int8), openvino.Type.i8)
        restored = ops.multiply(ops.convert(rounded, "f32"), ops.constant(scale))
        node.input(1).replace_source_output(restored.output(0))
        found += 1
    if not found:
        raise ValueError('precision "int8" rounds matrix products, and this network has none')
