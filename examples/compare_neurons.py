"""Compares four kinds of neuron on the same network, images and number of timesteps."""

import transpike as tp
from transpike.zoo.demo import train

TIMESTEPS = 8
NEURONS = {
    "integrate-and-fire": tp.IF(),
    "signed": tp.Signed(1),
    "burst, K = 4": tp.Burst(4, mode="resolution"),
    "signed, K = 4": tp.Signed(4),
}

model, digits = train(seed=0)  # a small network and scikit-learn's digits
example, _ = next(digits.train.batches(64))
network = tp.capture(model, example)
calibration = tp.calibrate(network, digits.train.subset(512, seed=0).batches(64))

print(f"{'neuron':20} {'T':>3} {'accuracy':>9} {'spikes per neuron':>18}")
for name, neuron in NEURONS.items():
    snn = tp.convert(network, calibration, neuron=neuron)
    result = tp.evaluate(snn, digits.test.batches(100), timesteps=TIMESTEPS)
    for t in (2, TIMESTEPS):
        accuracy, spikes = result.accuracy[t - 1], result.spikes_per_neuron[t - 1]
        print(f"{name:20} {t:3} {accuracy:9.1%} {spikes:18.2f}")
print(f"original network: {result.ann_accuracy:.1%} of {result.n} images")
