"""`python -m visloom` is the command `visloom`."""

from visloom.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
