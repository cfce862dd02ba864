"""What tests of several folders share."""

import copy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dynrefer.datasets.shapes import make_shapes
from tests.tiny_model import tiny_config, tiny_model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shapes world of 12 training, 5 validation and 4 test images; only to be read."""
    folder = tmp_path_factory.mktemp("shapes") / "world"
    make_shapes(folder, 12, val_images=5, test_images=4, seed=0, progress=False)
    return folder


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
