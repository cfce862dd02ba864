"""The command ``dynrefer demo`` in a checkout: python demo.py --help."""

from dynrefer.commands.main import run

if __name__ == "__main__":
    run("demo")
