"""``python -m layershap``."""

import sys

from layershap.cli import main

if __name__ == "__main__":
    sys.exit(main())
