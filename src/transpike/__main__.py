"""Runs the command line, as `python -m transpike`."""

from transpike.cli import main

if __name__ == "__main__":
    main()
