"""`python -m mpt` is the command `mpt`."""

import sys

from mpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
