"""Renders a shapes world: ``python -m dynrefer.datasets.shapes --out DIR``."""

import signal
import sys

from dynrefer.datasets.shapes.world import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # after cleaning up
    main()
