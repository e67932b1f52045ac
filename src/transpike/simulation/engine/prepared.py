"""The engine of a network, kept for as long as the network lives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from transpike.simulation.engine.engine import Engine
from transpike.spiking.spiking_network import SpikingNetwork

_SAMPLED = 4096  # numbers of a weight that are looked at for changes
# An entry goes with its network: an engine holds no reference to the network it was made from.
_ENGINES: WeakKeyDictionary[SpikingNetwork, tuple[object, Engine]] = WeakKeyDictionary()


def prepared(snn: SpikingNetwork, precision: str) -> Engine:
    """The engine of a network, made anew only where something of the network has changed.

    A change is seen by torch's count of changes. Behind its back (`tensor.data`, shared memory) any
    change of up to 4096 numbers (steps, starts, offsets) is seen, and one of a larger weight where
    it touches an even sample of 4096.
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
    if tensor.is_inference() or not alone:  # counts no changes, or is a view
        return tensor.data_ptr(), tensor.dtype, float(tensor.sum()), float(tensor.norm())
    step = -(-tensor.numel() // _SAMPLED) or 1
    sample = tensor.as_strided((-(-tensor.numel() // step),), (step,))
    seen = hash(sample.cpu().numpy().tobytes())
    return tensor.data_ptr(), tensor.dtype, tensor._version, seen
