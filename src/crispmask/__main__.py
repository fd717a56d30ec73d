"""``python -m crispmask`` is the command ``crispmask``."""

from crispmask.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
