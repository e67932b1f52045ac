"""Spiking neurons and the spiking network."""
