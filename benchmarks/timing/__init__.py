"""Time, memory and rounding of the simulator."""
