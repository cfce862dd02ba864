"""Trains a model from a configuration; alone or under torchrun.

python train.py --cfg-path configs/train/shapes.yaml [--options run.max_epoch=3 ...]
torchrun --standalone --nproc_per_node=2 train.py --cfg-path configs/train/shapes.yaml
"""

from dynrefer.runners.entry import entry_point, parser_of, train_main

if __name__ == "__main__":
    arguments = parser_of(__doc__).parse_args()
    entry_point(train_main, arguments)
