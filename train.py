"""The command ``dynrefer train`` in a checkout: python train.py --help."""

from dynrefer.commands.main import run

if __name__ == "__main__":
    run("train")
