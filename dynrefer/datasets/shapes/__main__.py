"""Renders a shapes world: ``python -m dynrefer.datasets.shapes --out DIR``."""

from dynrefer.datasets.shapes.world import main

if __name__ == "__main__":
    main()
