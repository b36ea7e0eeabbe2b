"""`python -m scratchgen` is the command `scratchgen`."""

from scratchgen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
