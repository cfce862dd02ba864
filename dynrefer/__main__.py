"""``python -m dynrefer``: the command ``dynrefer``, for torchrun, and where it is on no path."""

from dynrefer.commands.main import main

if __name__ == "__main__":
    main()
