"""Accuracy and spikes of every conversion method."""
