"""Run the command line as ``python -m opslib.cli``."""

import sys

from opslib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
