"""Programs that measure transpike; README.md says which question each one answers."""
