"""``python -m flowpar``."""

import sys

from flowpar.cli import main

if __name__ == "__main__":
    sys.exit(main())
