"""Networks of torchvision, timm and segmentation_models_pytorch convert without any change.

Their weights are random.
"""

import pytest
import torch

import nets
import transpike as tp
from transpike.simulation.reference import _Stepwise

T, K, SIZE, SMALL = 4, 4, 64, 32


def _torchvision(name, **kw):
    import torchvision

    return torchvision.models.get_model(name, weights=None, **kw)


def _timm(name):
    import timm

    return timm.create_model(name, pretrained=False)


def _unet():
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet34", encoder_weights=None)


# The values are a factory, the number of sites, and the number of BatchNorms that stay unfolded.
MODELS = {
    "resnet18": (lambda: _torchvision("resnet18"), 17, 0),
    "mobilenet_v2": (lambda: _torchvision("mobilenet_v2"), 35, 0),
    "shufflenet_v2_x0_5": (lambda: _torchvision("shufflenet_v2_x0_5"), 37, 0),
    "squeezenet1_1": (lambda: _torchvision("squeezenet1_1"), 26, 0),
    "resnet50": (lambda: _torchvision("resnet50"), 49, 0),
    "vgg16_bn": (lambda: _torchvision("vgg16_bn"), 15, 0),
    "densenet121": (lambda: _torchvision("densenet121"), 121, 62),
    "googlenet": (
        lambda: _torchvision("googlenet", aux_logits=False, init_weights=False),
        57,
        0,
    ),
    "regnet_x_400mf": (lambda: _torchvision("regnet_x_400mf"), 67, 0),
    "fcn_resnet50": (lambda: _torchvision("fcn_resnet50", weights_backbone=None), 50, 0),
    "deeplabv3_resnet50": (
        lambda: _torchvision("deeplabv3_resnet50", weights_backbone=None),
        56,
        0,
    ),
    "resnet10t": (lambda: _timm("resnet10t"), 11, 0),
    "unet_resnet34": (_unet, 43, 0),
}
QUICK = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1")
CASES = [pytest.param(name, SMALL, id=f"{name}-{SMALL}") for name in QUICK]
CASES += [pytest.param(n, SIZE, marks=pytest.mark.slow, id=f"{n}-{SIZE}") for n in MODELS]


def _converted(name, size):
    """Return (name, model, telescoped network, one input per timestep)."""
    torch.manual_seed(0)
    model = nets.settle_batchnorm(MODELS[name][0](), torch.randn(16, 3, size, size)).double()
    before = nets.state_hash(model)
    network = tp.capture(model, torch.randn(2, 3, size, size, dtype=torch.float64))
    calibration = tp.calibrate(network, [torch.randn(4, 3, size, size, dtype=torch.float64)])
    snn = tp.convert(network, calibration, neuron=tp.Telescoped(max_count=K))
    assert nets.state_hash(model) == before
    return name, model, snn, torch.randn(T, 3, 3, size, size, dtype=torch.float64)


def _last(output):
    if isinstance(output, dict):
        return {key: value[-1] for key, value in output.items()}
    return output[-1]


def _check_identity(name, model, snn, frames):
    """Check in float64 that folding changes no output and that the telescoped law holds.

    The input of the simulation changes with time.
    """
    _, sites, affine = MODELS[name]
    assert len(snn.network.sites) == sites
    assert sum(node.op == "affine" for node in snn.network.nodes) == affine
    with torch.no_grad():
        assert nets.error(snn.network(frames[0]), model(frames[0])) < 1e-9
    run = tp.simulate_reference(snn, frames, T, time_axis=True, record=tp.Record(output_at=[T]))
    assert nets.error(_last(run.output), tp.quantized_ann(snn, frames.mean(0), T)) < 1e-9


class Forced(_Stepwise):
    """A float32 run in which every site sends the counts of the float64 reference."""

    def __init__(self, snn, reference):
        super().__init__(snn, tp.Record(sites=tuple(reference)))
        self.reference = reference

    def population(self, name, current, t):
        super().population(name, current, t)
        return self.reference[name][t - 1].to(current.dtype) * self.steps[name]


def _check_flips(snn, frames):
    """Check that fewer than 1e-5 of the counts differ if every site sends the reference counts."""
    names = [site.name for site in snn.network.sites]
    record = tp.Record(output_at=[T], sites=names)
    exact = tp.simulate_reference(snn, frames, T, time_axis=True, record=record)
    reference = {n: exact.records[n].counts for n in names}
    with torch.inference_mode():
        forced = Forced(snn.float(), reference).run(frames.float(), T, True, (T,))
    flips = total = 0
    for n in names:
        found = forced.records[n].counts.double()
        flips += int((found != reference[n]).sum())
        total += found.numel()
    assert flips / total < 1e-5, f"{flips} of {total}"
    assert nets.error(_last(forced.output), _as_float(_last(exact.output))) < 1e-4


def _as_float(output):
    if isinstance(output, dict):
        return {key: value.float() for key, value in output.items()}
    return output.float()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_unchanged_network_converts(name, size):
    name, model, snn, frames = _converted(name, size)
    _check_identity(name, model, snn, frames)
    _check_flips(snn, frames)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_unchanged_network_is_captured_in_float32(name, size):
    """Results may round differently at another batch size; this does not mean that samples mix."""
    torch.manual_seed(0)
    model = nets.settle_batchnorm(MODELS[name][0](), torch.randn(16, 3, size, size))
    assert len(tp.capture(model, torch.randn(2, 3, size, size)).sites) == MODELS[name][1]
