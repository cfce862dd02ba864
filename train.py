"""Trains a model from a configuration; alone or under torchrun.

python train.py --cfg-path configs/train/shapes.yaml [--options run.max_epoch=3 ...]
torchrun --standalone --nproc_per_node=2 train.py --cfg-path configs/train/shapes.yaml
"""

import argparse

from dynrefer.command_line import config_parser, entry_point


def main(arguments: argparse.Namespace) -> None:
    """Trains; what takes seconds to import comes after the arguments."""
    from dynrefer.runners.entry import train_main

    train_main(arguments)


if __name__ == "__main__":
    entry_point(main, config_parser(__doc__).parse_args())
