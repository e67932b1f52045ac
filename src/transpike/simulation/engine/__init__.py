"""The engine behind `transpike.simulate`: a plan, a fused neuron update, bounded memory."""
