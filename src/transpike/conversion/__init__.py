"""From a captured network to a spiking one."""
