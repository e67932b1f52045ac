"""Random networks against an independent oracle. Run it with `python -m benchmarks.fuzz`."""
