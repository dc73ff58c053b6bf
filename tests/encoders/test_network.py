"""Networks run by torch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from encoders import feed
from encoders.encoder import Encoder, Item
from encoders.machine import Machine
from encoders.network import TorchNetwork
from encoders.registry import Tower, tower
from tests.encoders.pictures import encoded, gradient
from tests.encoders.scripts import SAMPLES

ITEMS = [
    Item(text=text, image=encoded(gradient(50 + row, 70)))
    for row, text in enumerate([*SAMPLES.values()][::9])
]


class Scaled(nn.Module):
    """A network of one layer, which may have a precision, and a factor, which keeps its own."""

    factor: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.model = nn.Linear(8, 4)
        self.register_buffer("factor", torch.tensor([1.001]))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.model(rows.to(self.model.weight.dtype)).float() * self.factor


ROWS = np.arange(24, dtype=np.int64).reshape(3, 8)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)]
)
def test_features_are_float32_whatever_the_weights_are(precision: str, tolerance: float) -> None:
    with torch.inference_mode():
        expected = Scaled()(torch.from_numpy(ROWS)).numpy()
    features = TorchNetwork(Scaled(), precision=precision)(ROWS)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=tolerance, atol=5 * tolerance)


def test_what_lies_outside_the_model_keeps_its_precision() -> None:
    module = Scaled()
    TorchNetwork(module, precision="bfloat16")
    assert module.model.weight.dtype == torch.bfloat16
    assert module.factor.dtype == torch.float32


def test_int8_is_answered_with_what_has_it() -> None:
    with pytest.raises(ValueError, match='set runtime = "openvino"'):
        TorchNetwork(Scaled(), precision="int8")


def test_a_network_may_be_called_from_several_threads_at_once() -> None:
    network = TorchNetwork(Scaled())
    batches = [np.full((1 + row % 3, 8), row) for row in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, batches))
    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_array_equal(features, network(batch))


@pytest.mark.slow  # kernels are compiled for a minute
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("name", ["bert", "timm_vit"])
def test_compiled_kernels_give_the_same_vectors(
    named: Callable[[str], Tower], loaded: Callable[[str], Encoder], name: str
) -> None:
    known = named(name)
    compiled = tower(known.choice, known.modality, Machine(compiled=True)).load()
    vectors = feed.encode(compiled, ITEMS)
    np.testing.assert_allclose(vectors, feed.encode(loaded(name), ITEMS), atol=1e-5)
