"""CUDA gives the results of the CPU. Without a device the kernel runs in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp

triton = pytest.importorskip("triton", reason="Triton comes with torch for CUDA")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

NEURONS = {
    "if": tp.IF(),
    "burst": tp.Burst(5),
    "resolution": tp.Burst(4, mode="resolution"),
    "signed": tp.Signed(3),
    "telescoped": tp.Telescoped(2),
    "differential": tp.Differential(8, 2),
    "refining": tp.Refining(3, 2, period=2),
    "cyclic": tp.Cyclic(3, (1, 4, 2), initial_membrane=0.25),
    "staggered": tp.Staggered(3, window=3),
    "bits": tp.MultiThreshold(3),
    "signed bits": tp.MultiThreshold(3, signed=True),
}


def same_as_eager(device):
    """Check that the kernel equals torch bit for bit, for every neuron in every form."""
    from test_kernel import _identical, _problem, _run

    from transpike.simulation.engine import scan as scans

    def there(constants, population, chunk):
        moved = scans.Constants(constants.neuron, *(_to(v, device) for v in _fields(constants)))
        state = scans.Population(_to(population.membrane, device), _to(population.total, device))
        part = scans.Chunk(
            _to(chunk.current, device),
            _to(chunk.other, device),
            _to(chunk.out, device),
            _to(chunk.membranes, device),
            chunk.first,
        )
        counts = scans._on_cuda(moved, state, part)
        population.membrane = state.membrane.cpu()
        population.total = _to(state.total, "cpu")
        chunk.out.copy_(part.out)
        chunk.membranes.copy_(part.membranes)
        return counts.cpu()

    for seed, neuron in enumerate(NEURONS.values()):
        for flags in range(16):
            names = ("other", "bounded", "offset", "constant")
            forms = {name: bool(flags >> bit & 1) for bit, name in enumerate(names)}
            # Triton compiles an integer of 1 in another way, so one neuron alone is tried, too.
            for shape in ((3, 2, 700), (1, 1, 1)) if flags in (0, 15) else ((3, 2, 700),):
                problem = _problem(neuron, seed, *shape, **forms)
                length = shape[0]
                _identical(
                    _run(there, *problem, length, 5), _run(scans._eager, *problem, length, 5)
                )


def _fields(constants):
    return constants.step, constants.start, constants.offset, constants.bound


def _to(value, device):
    return None if value is None else value.to(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel itself is tested")
def test_kernel_in_the_interpreter_equals_torch():
    """Triton reads the setting when it is imported, so the check runs in a new process."""
    code = "import test_cuda; test_cuda.same_as_eager('cpu')"
    setting = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | setting, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@needs_cuda
def test_kernel_equals_torch_bit_for_bit():
    same_as_eager("cuda")


@needs_cuda
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("precision", ["exact", "split"])
def test_engine_on_cuda_equals_reference_on_the_cpu(neuron, precision):
    """Weights and steps have few bits, so every order of summation gives the same result."""
    snn = nets.dyadic_snn(nets.pooled_residual(), (2, 12, 12), NEURONS[neuron])
    x = nets.dyadic_input(3, 2, 12, 12)
    reference = tp.simulate_reference(snn, x, 7)
    moved = snn.to("cuda")
    for there in (
        tp.simulate(moved, x.cuda(), 7, chunk=3, precision=precision),
        tp.simulate_reference(moved, x.cuda(), 7),
    ):
        for name, counts in reference.counts_per_timestep.items():
            assert torch.equal(counts, there.counts_per_timestep[name].cpu())
        assert torch.equal(reference.output, there.output.cpu())


def _classifier(device):
    model = nets.Fn(
        lambda m, x: m.b(F.relu(m.a(x)).mean([2, 3])), a=nets.conv(2, 16), b=nn.Linear(16, 4)
    )
    x = torch.randn(48, 2, 12, 12, generator=torch.Generator().manual_seed(0)).to(device)
    return model.eval().to(device), x


@needs_cuda
def test_fast_on_cuda_is_close_to_exact():
    model, x = _classifier("cuda")
    snn = tp.convert(model, [x], neuron=tp.Signed(3))
    exact, fast = (tp.simulate(snn, x, 8, precision=p) for p in ("exact", "fast"))
    assert not torch.equal(exact.output, fast.output)
    assert (exact.output[-1] - fast.output[-1]).std() < 0.2 * exact.output[-1].std()
    assert fast.output.dtype == torch.float32


@needs_cuda
@pytest.mark.parametrize(
    "passes",
    [
        [tp.BiasCorrection()],
        [tp.MembraneCorrection()],
        [tp.SiteSearch()],
        [tp.DelayedReadout()],
        [tp.AllocateCounts(2.0)],
    ],
    ids=lambda passes: type(passes[0]).__name__,
)
def test_calibration_on_cuda_gives_what_the_cpu_gives(passes):
    model = nets.pooled_residual().eval()
    x = torch.randn(48, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", "cuda"):
        images = x.to(device)
        network = tp.capture(model.to(device), images[:2])
        recipe = tp.Recipe(8, tp.Signed(4), tp.LeastSquares(), tuple(passes))
        snn = recipe.convert(network, images.split(16))
        found.append(tp.simulate(snn, images, 8).output[-1].cpu())
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()


@needs_cuda
def test_evaluation_diagnosis_cost_and_tuning_run_on_cuda():
    model = nets.pooled_residual().eval().cuda()
    x = torch.randn(48, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    images = x.cuda()
    network = tp.capture(model, images[:2])
    target = network(images).argmax(1)
    snn = tp.convert(network, images.split(16), neuron=tp.Signed(2))
    pairs = [(part, truth) for part, truth in zip(x.split(16), target.cpu().split(16), strict=True)]
    result = tp.evaluate(snn, pairs, 16, early_stopping=tp.EarlyStopping("margin", 0.9))
    assert result.n == 48 and result.accuracy[-1] > 0.8
    assert tp.diagnose(snn, images.split(16), 8).sites
    assert tp.measure_cost(snn, images.split(16), 8).sites
    assert tp.tune(network, images.repeat(3, 1, 1, 1).split(16), timesteps=4, max_count=2).recipe
