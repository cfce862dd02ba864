"""What tests of several folders share."""

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from dynrefer.datasets.shapes import make_shapes
from tests.tiny_model import tiny_config, tiny_model


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], Path]:
    """``once(name, make)``: a folder that ``make`` filled for all workers of pytest-xdist.

    Its contents are only to be read.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with FileLock(root / f"once-{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def world(once) -> Path:
    """A shapes world of 12 training, 5 validation and 4 test images."""
    sizes = {"val_images": 5, "test_images": 4}
    return once("world", lambda folder: make_shapes(folder, 12, **sizes, seed=0, progress=False))


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """The tiny configuration; copy it before changing it."""
    return tiny_config(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def built_model(config):
    return tiny_model(config)


@pytest.fixture
def model(built_model):
    """A tiny model of the test's own, in evaluation mode."""
    return copy.deepcopy(built_model)


@pytest.fixture
def configured(config):
    """The model section of the tiny configuration with overrides, "freeze=[vision]"."""

    def of(*options):
        merged = config
        for option in options:  # one by one: a null empties a dictionary for what comes next
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([f"model.{option}"]))
        return merged.model

    return of
