"""The engine of a network, kept for as long as the network lives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from transpike.simulation.engine.engine import Engine
from transpike.spiking.spiking_network import SpikingNetwork

_SAMPLED = 4096  # Numbers of a weight that are compared to find changes.
_KEPT_SIZES = 4  # Engines that one network keeps, for inputs of different sizes.
_Engines = dict[tuple[int, ...], tuple[object, Engine]]
# An entry disappears with its network, because an engine holds no reference to that network.
_ENGINES: WeakKeyDictionary[SpikingNetwork, _Engines] = WeakKeyDictionary()


def prepared(snn: SpikingNetwork, precision: str, size: tuple[int, ...] | None = None) -> Engine:
    """Return the engine of a network, and make a new one if the network has changed.

    PyTorch counts the changes of every tensor, and this count is compared. PyTorch does not count
    changes through `tensor.data` or shared memory. They are seen in all tensors of up to 4096
    numbers, such as steps, starts and offsets. In a larger weight they are seen if they touch one
    of 4096 numbers at even distances.

    Args:
        snn: the converted network.
        precision: see `simulate`.
        size: the size of the inputs, such as height and width. None means the network's own.
            A network keeps an engine for each of the last four sizes.
    """
    sized = snn if size is None else snn.at(size)
    numbers = [
        (name, *_fingerprint(tensor))
        for name, tensor in snn.named_buffers()
        if tensor.is_floating_point()
    ]
    state = (precision, snn.coding, snn.readout_start, tuple(snn.neurons.items()), tuple(numbers))
    engines = _ENGINES.setdefault(snn, {})
    shape = sized.network.input_shape
    held = engines.pop(shape, None)
    if held is None or held[0] != state:
        held = (state, Engine(sized, precision))
    engines[shape] = held  # The most recent size comes last.
    while len(engines) > _KEPT_SIZES:
        del engines[next(iter(engines))]
    return held[1]


def _fingerprint(tensor: Tensor) -> tuple[object, ...]:
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    if tensor.is_inference() or not alone:  # PyTorch counts no changes, or the tensor is a view.
        return tensor.data_ptr(), tensor.dtype, float(tensor.sum()), float(tensor.norm())
    step = -(-tensor.numel() // _SAMPLED) or 1
    sample = tensor.as_strided((-(-tensor.numel() // step),), (step,))
    seen = hash(sample.cpu().numpy().tobytes())
    return tensor.data_ptr(), tensor.dtype, tensor._version, seen
