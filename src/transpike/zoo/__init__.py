"""Models by name, training recipes for them, and the demo."""
