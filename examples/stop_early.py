"""Lets each image stop as soon as its answer is clear, and compares that with a fixed T."""

import transpike as tp
from transpike.zoo.demo import train

TIMESTEPS = 16

model, digits = train(seed=0)  # a small network and scikit-learn's digits
training = list(digits.train.batches(64))
snn = tp.convert(model, training, neuron=tp.Signed(1))

# The rule is fixed on training images: at most 0.5 % of their predictions may change.
rule = tp.fit_early_stopping(snn, training, timesteps=TIMESTEPS)
print(rule)

fixed = tp.evaluate(snn, digits.test.batches(100), timesteps=TIMESTEPS)
early = tp.evaluate(snn, digits.test.batches(100), timesteps=TIMESTEPS, early_stopping=rule)
print(f"fixed T:     accuracy {fixed.accuracy[-1]:.1%}, {TIMESTEPS} timesteps")
print(
    f"early stop:  accuracy {early.accuracy[-1]:.1%}, {early.computed_timesteps:.1f} timesteps "
    f"computed on average"
)
