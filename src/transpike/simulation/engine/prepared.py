"""The engine of a network, kept for as long as the network lives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from transpike.simulation.engine.engine import Engine
from transpike.spiking.spiking_network import SpikingNetwork

_SAMPLED = 4096  # Numbers of a weight that are compared to find changes.
# An entry disappears with its network, because an engine holds no reference to that network.
_ENGINES: WeakKeyDictionary[SpikingNetwork, tuple[object, Engine]] = WeakKeyDictionary()


def prepared(snn: SpikingNetwork, precision: str) -> Engine:
    """Return the engine of a network, and make a new one if the network has changed.

    PyTorch counts the changes of every tensor, and this count is compared. PyTorch does not count
    changes through `tensor.data` or shared memory. They are seen in all tensors of up to 4096
    numbers, such as steps, starts and offsets. In a larger weight they are seen if they touch one
    of 4096 numbers at even distances.
    """
    numbers = [
        (name, *_fingerprint(tensor))
        for name, tensor in snn.named_buffers()
        if tensor.is_floating_point()
    ]
    state = (precision, snn.coding, snn.readout_start, tuple(snn.neurons.items()), tuple(numbers))
    held = _ENGINES.get(snn)
    if held is None or held[0] != state:
        held = (state, Engine(snn, precision))
        _ENGINES[snn] = held
    return held[1]


def _fingerprint(tensor: Tensor) -> tuple[object, ...]:
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    if tensor.is_inference() or not alone:  # PyTorch counts no changes, or the tensor is a view.
        return tensor.data_ptr(), tensor.dtype, float(tensor.sum()), float(tensor.norm())
    step = -(-tensor.numel() // _SAMPLED) or 1
    sample = tensor.as_strided((-(-tensor.numel() // step),), (step,))
    seen = hash(sample.cpu().numpy().tobytes())
    return tensor.data_ptr(), tensor.dtype, tensor._version, seen
