"""The command ``dynrefer evaluate`` in a checkout: python evaluate.py --help."""

from dynrefer.commands.main import run

if __name__ == "__main__":
    run("evaluate")
