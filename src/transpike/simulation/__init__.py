"""Simulation of spiking networks, fast and by a slow reference."""
