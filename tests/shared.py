"""Where the reference data of development lies, for the tests that compare against it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(relative: str) -> Path:
    """Path of a file in ``../shared``; skips the calling test where it is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference data ../shared/{relative} is not on this machine")
    return path
