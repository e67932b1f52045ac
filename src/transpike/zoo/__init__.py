"""Models by name, their training recipes and the demo."""
