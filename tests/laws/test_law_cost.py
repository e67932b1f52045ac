"""The counted synaptic operations equal those of plain Python loops over every single spike.

The loops use two things of the library only: the spike counts of the reference simulator, and the
rules stated in `transpike.measure.fanout`. An "event" is the place (channel, row, column) of one
spike. A list of events holds all spikes of one site over all samples and timesteps, so a place
occurs as often as its neuron fired.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from nets import Fn, captured
from transpike.measure.cost import measure_cost

BATCH, TIMESTEPS = 2, 5
NEURONS = (tp.IF(), tp.Signed(3), tp.Burst(4, mode="resolution"), tp.Refining(4))
NEURONS += (tp.Staggered(2, window=2),)


def thinned(module):
    """Set about a third of the weights to zero; a spike reaches nothing through these weights."""
    with torch.no_grad():
        module.weight.mul_(torch.rand_like(module.weight) > 0.33)
    return module


def converted(model, shape):
    """Return the model converted with every neuron of NEURONS, and a batch of inputs."""
    model = model.double().eval()
    torch.manual_seed(5)
    x = torch.randn(8, *shape, dtype=torch.float64)
    network = tp.capture(model, x[:2])
    calibration = tp.calibrate(network, [x])
    return [tp.convert(network, calibration, neuron=neuron) for neuron in NEURONS], x[:BATCH]


def events_of(snn, x, binary=False):
    """Return one list of events for each site, in execution order.

    A count of n gives |n| events. With `binary`, it gives one event for each bit set in |n|.
    """
    names = [site.name for site in snn.network.sites]
    run = tp.simulate_reference(snn, x, TIMESTEPS, record=tp.Record(sites=names))
    found = []
    for name in names:
        events = []
        counts = run.records[name].counts
        for where in itertools.product(*map(range, counts.shape)):
            count = abs(int(counts[where]))
            events += [where[2:]] * (bin(count).count("1") if binary else count)
        found.append(events)
    return found


def conv_reach(event, weight, size, stride=1, pad=0, dilation=1, groups=1):
    """Return the list of outputs that one event reaches through a convolution."""
    channel, row, column = event
    outputs, per_group, k = weight.shape[0], weight.shape[1], weight.shape[2]
    reached = []
    for out in range(outputs):
        group = out // (outputs // groups)
        if channel // per_group != group:
            continue
        for i, j in itertools.product(range(k), range(k)):
            up, left = row + pad - i * dilation, column + pad - j * dilation
            if up % stride or left % stride or weight[out, channel % per_group, i, j] == 0:
                continue
            y, x = up // stride, left // stride
            if 0 <= y < size[0] and 0 <= x < size[1]:
                reached.append((out, y, x))
    return reached


def transposed_reach(event, weight, size, stride, pad, groups=1):
    channel, row, column = event
    per_group, k = weight.shape[1], weight.shape[2]
    group = channel // (weight.shape[0] // groups)
    reached = []
    for out in range(per_group):
        for i, j in itertools.product(range(k), range(k)):
            y, x = row * stride - pad + i, column * stride - pad + j
            if 0 <= y < size[0] and 0 <= x < size[1] and weight[channel, out, i, j] != 0:
                reached.append((group * per_group + out, y, x))
    return reached


def pool_reach(event, size, kernel, stride, pad=0):
    channel, row, column = event
    return [
        (channel, y, x)
        for y, x in itertools.product(range(size[0]), range(size[1]))
        if 0 <= row - (y * stride - pad) < kernel and 0 <= column - (x * stride - pad) < kernel
    ]


def bilinear_reach(event, source, size):
    """Return the outputs that one event reaches through half-pixel bilinear interpolation.

    An event reaches an output if its coefficient is nonzero along both axes.
    """

    def axis(position, n, m):
        found = []
        for out in range(m):
            at = max(0.0, (out + 0.5) * n / m - 0.5)
            low = min(int(at), n - 1)
            high = min(low + 1, n - 1)
            part = at - low
            weight = (1 - part) * (low == position) + part * (high == position)
            if weight > 1e-9:
                found.append(out)
        return found

    channel, row, column = event
    rows, columns = axis(row, source[0], size[0]), axis(column, source[1], size[1])
    return [(channel, y, x) for y in rows for x in columns]


def through(events, reach):
    return [target for event in events for target in reach(event)]


def check(snns, x, expected):
    """Compare the accumulates with those that `expected` counts from the events of all sites.

    The readout takes one more accumulate for each event of the last site.
    """
    for snn in snns:
        cost = measure_cost(snn, [x], TIMESTEPS)
        for binary, total in (
            (False, cost.total.accumulates_unit),
            (True, cost.total.accumulates_binary),
        ):
            events = events_of(snn, x, binary)
            assert sum(map(len, events)) > 50
            assert total == (expected(events) + len(events[-1])) / BATCH
        assert cost.total.accumulates == cost.total.accumulates_unit
    return cost


@pytest.mark.parametrize(
    ("stride", "pad", "dilation", "groups"),
    [(1, 0, 1, 1), (1, 3, 1, 2), (2, 1, 1, 1), (2, 2, 2, 4), (3, 1, 1, 2)],
)
def test_convolution(stride, pad, dilation, groups):
    second = thinned(nn.Conv2d(4, 8, 3, stride, pad, dilation, groups))
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), second, nn.ReLU(), nn.Conv2d(8, 2, 1))
    snns, x = converted(model, (2, 8, 7))
    size = snns[0].network.sites[1].shape[1:]
    check(snns, x, lambda e: len(through(e[0], lambda v: conv_reach(
        v, second.weight, size, stride, pad, dilation, groups))))  # fmt: skip


@pytest.mark.parametrize(("stride", "pad", "groups"), [(1, 0, 1), (2, 1, 2), (3, 0, 1), (2, 0, 4)])
def test_transposed_convolution(stride, pad, groups):
    up = thinned(nn.ConvTranspose2d(4, 8, 3, stride, pad, output_padding=stride - 1, groups=groups))
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(8, 2, 1))
    snns, x = converted(model, (2, 6, 5))
    size = snns[0].network.sites[1].shape[1:]
    check(snns, x, lambda e: len(through(e[0], lambda v: transposed_reach(
        v, up.weight, size, stride, pad, groups))))  # fmt: skip


def test_residual_block_and_linear():
    """The events of both branches arrive one by one; each event of the skip is one accumulate."""
    inner, after = thinned(nn.Conv2d(4, 4, 3, padding=1)), thinned(nn.Conv2d(4, 3, 2))
    head = thinned(nn.Linear(3 * 4 * 4, 6))
    model = Fn(
        lambda m, x: m.last(m.head((lambda a: m.after(
            (lambda r: r + F.relu(m.inner(r) + r))(F.relu(m.c(x)))).relu())(x).flatten(1)).relu()),
        c=nn.Conv2d(2, 4, 3, padding=1), inner=inner, after=after, head=head, last=nn.Linear(6, 2),
    )  # fmt: skip
    snns, x = converted(model, (2, 5, 5))

    def expected(e):
        block = len(through(e[0], lambda v: conv_reach(v, inner.weight, (5, 5), pad=1))) + len(e[0])
        both = len(through(e[0] + e[1], lambda v: conv_reach(v, after.weight, (4, 4))))
        flat = [c * 16 + y * 4 + x for c, y, x in e[2]]
        return block + both + sum(int((head.weight[:, i] != 0).sum()) for i in flat)

    check(snns, x, expected)


def test_concat_padding_and_upsampling():
    deep, joined = thinned(nn.Conv2d(4, 3, 2, stride=2)), thinned(nn.Conv2d(7, 4, 3))

    def forward(m, x):
        a = F.relu(m.c(x))
        b = F.relu(m.deep(a))
        up = F.interpolate(b, scale_factor=2, mode="nearest")
        return m.last(F.relu(m.joined(F.pad(torch.cat([a, up], 1), (1, 0, 0, 2)))))

    model = Fn(forward, c=nn.Conv2d(2, 4, 1), deep=deep, joined=joined, last=nn.Conv2d(4, 2, 1))
    snns, x = converted(model, (2, 6, 6))

    def expected(e):
        first = len(through(e[0], lambda v: conv_reach(v, deep.weight, (3, 3), stride=2)))
        up = [
            (4 + c, 2 * y + i, 2 * x + j)
            for c, y, x in e[1]
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        padded = [(c, y, x + 1) for c, y, x in e[0] + up]
        return first + len(through(padded, lambda v: conv_reach(v, joined.weight, (6, 5))))

    check(snns, x, expected)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_average_pooling_costs_one_per_window_and_goes_on(kernel, stride, pad):
    after = thinned(nn.Conv2d(4, 3, 2))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(kernel, stride, pad), after,
        nn.ReLU(), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    snns, x = converted(model, (2, 7, 6))
    height, width = snns[0].network.sites[1].shape[1:]
    pooled = (height + 1, width + 1)

    def expected(e):
        reached = through(e[0], lambda v: pool_reach(v, pooled, kernel, stride, pad))
        on = through(reached, lambda v: conv_reach(v, after.weight, (height, width)))
        return len(reached) + len(on)

    check(snns, x, expected)


def test_bilinear_upsampling():
    after = thinned(nn.Conv2d(4, 3, 2))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Upsample(size=(7, 8), mode="bilinear"), after,
        nn.ReLU(), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    snns, x = converted(model, (2, 6, 6))

    def expected(e):
        reached = through(e[0], lambda v: bilinear_reach(v, (4, 4), (7, 8)))
        return len(reached) + len(through(reached, lambda v: conv_reach(v, after.weight, (6, 7))))

    check(snns, x, expected)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pooling_sends_the_changes_of_its_maxima(kernel, stride, pad):
    after = thinned(nn.Conv2d(4, 3, 2))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel, stride, pad), after,
        nn.ReLU(), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    snns, x = converted(model, (2, 7, 6))
    first = snns[0].network.sites[0].name
    height, width = snns[0].network.sites[1].shape[1:]

    def changes(counts, binary, ratio):
        """Return the events behind the pool; running sums are in units of the current step."""
        events = []
        for b, c in itertools.product(range(BATCH), range(4)):
            sums = [[0] * 6 for _ in range(7)]
            before = {}
            for t in range(TIMESTEPS):
                for row, column in itertools.product(range(7), range(6)):
                    sums[row][column] *= ratio
                    sums[row][column] += int(counts[t, b, c, row, column])
                for y, x in itertools.product(range(height + 1), range(width + 1)):
                    inside = [
                        sums[i][j]
                        for i in range(max(0, y * stride - pad), min(7, y * stride - pad + kernel))
                        for j in range(max(0, x * stride - pad), min(6, x * stride - pad + kernel))
                    ]
                    change = abs(max(inside) - ratio * before.get((y, x), 0))
                    before[y, x] = max(inside)
                    events += [(c, y, x)] * (bin(change).count("1") if binary else change)
        return events

    for snn in snns:
        counts = (
            tp.simulate_reference(snn, x, TIMESTEPS, record=tp.Record(sites=[first]))
            .records[first]
            .counts
        )
        cost = measure_cost(snn, [x], TIMESTEPS)
        for binary, total in (
            (False, cost.total.accumulates_unit),
            (True, cost.total.accumulates_binary),
        ):
            a, b = events_of(snn, x, binary)
            sent = changes(counts, binary, snn.neurons[first].schedule.ratio)
            on = through(sent, lambda v: conv_reach(v, after.weight, (height, width)))
            assert total == (len(a) + len(on) + len(b)) / BATCH


def test_weights_without_a_neuron_between_cost_macs_at_every_timestep():
    first, second = thinned(nn.Conv2d(4, 4, 3, padding=1, groups=4)), thinned(nn.Conv2d(4, 5, 1))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), first, second, nn.ReLU(), nn.Conv2d(5, 1, 1)
    )
    snns, x = converted(model, (2, 5, 5))

    def expected(e):
        return len(through(e[0], lambda v: conv_reach(v, first.weight, (5, 5), pad=1, groups=4)))

    cost = check(snns, x, expected)
    # Only a channel with a weight gets a current, and the number below counts every channel.
    assert all(bool((first.weight[c] != 0).any()) for c in range(4))
    assert cost.total.macs_current == 25 * int((second.weight != 0).sum()) * TIMESTEPS


def test_totals_equal_sums():
    network, calibration = captured("unet")
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = torch.randn(4, *network.input_shape, dtype=torch.float64)
    cost = measure_cost(snn, [x[:3], x[3:]], TIMESTEPS)
    content = cost.to_dict()
    for name, value in content["total"].items():
        assert value == pytest.approx(sum(row["counts"][name] for row in content["operations"]))
    run = tp.simulate(snn, x, TIMESTEPS)
    spikes = sum(float(count.double().mean()) for count in run.spike_counts.values())
    assert cost.spikes_per_neuron == pytest.approx(spikes / cost.neurons)
    assert cost.n == 4 and cost.total.neuron_updates == network.neurons * TIMESTEPS
    for row, table in zip(content["energy"], content["energy_tables"].values(), strict=True):
        total = content["total"]
        mac = table["multiply_pj"] + table["add_pj"]
        macs = total["macs_input"] + total["macs_readout"] + total["macs_current"]
        adds = total["accumulates"] + total["additions"] + total["comparisons"]
        assert row["snn_pj"] == pytest.approx(macs * mac + adds * table["add_pj"])


def test_cost_does_not_depend_on_the_batches():
    """The cost of one batch equals the cost of the same samples in several batches."""
    network, calibration = captured("unet")
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = torch.randn(5, *network.input_shape, dtype=torch.float64)
    assert measure_cost(snn, [x], 3) == measure_cost(snn, list(x.split(2)), 3)
