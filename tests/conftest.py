"""What tests of several folders share."""

from pathlib import Path

import pytest

from dynrefer.datasets.shapes import make_shapes


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shapes world of 12 training, 5 validation and 4 test images; only to be read."""
    folder = tmp_path_factory.mktemp("shapes") / "world"
    make_shapes(folder, 12, val_images=5, test_images=4, seed=0, progress=False)
    return folder
