"""Where and how towers run: what a setting says once for all of them. It changes no numbers."""

from dataclasses import dataclass

from encoders.converted import Build, openvino_network
from encoders.feed import available_cores
from encoders.network import Network, TorchNetwork
from encoders.spec import Choice


@dataclass(frozen=True, slots=True)
class Machine:
    """A device, and what may be done there.

    device: "cpu", or torch's name of another one. compiled: let torch.compile make kernels first.
    download: whether weights may be fetched from the hub.
    """

    device: str = "cpu"
    compiled: bool = False
    download: bool = False

    def network(self, build: Build, *, name: str, options: Choice) -> Network:
        """Return what runs the module that `build` makes; `name` identifies it with its weights."""
        precision = options.precision or "float32"
        if options.runtime == "openvino":
            return openvino_network(
                build, name=name, precision=precision, streams=available_cores()
            )
        module, _ = build()
        return TorchNetwork(module, device=self.device, precision=precision, compiled=self.compiled)
