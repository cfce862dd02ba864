"""Files and folders that are put in place when they are whole."""

from collections.abc import Callable
from pathlib import Path


def part_of(target: Path) -> Path:
    """Where a file or folder lies until it is whole."""
    return target.with_name(target.name + ".part")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` make the file at ``part_of(path)``, then puts it in place.

    Where it raises, what was at ``path`` stays as it was, and the part stays for another try.
    """
    write(part_of(path))
    part_of(path).replace(path)
