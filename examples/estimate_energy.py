"""Counts the operations of a spiking network and estimates its energy beside the original."""

import transpike as tp
from transpike.zoo.demo import train

TIMESTEPS = 4

model, digits = train(seed=0)  # a small network and scikit-learn's digits
snn = tp.convert(model, digits.train.subset(512, seed=0).batches(64), neuron=tp.Signed(1))

# The estimate comes from counted operations and a published table of energies per operation. It is
# not a measurement on hardware; the last lines of the output say what it leaves out.
print(tp.measure_cost(snn, digits.test.subset(100, seed=0).batches(50), timesteps=TIMESTEPS))
