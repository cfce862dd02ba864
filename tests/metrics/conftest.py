import json
from pathlib import Path

import pytest

from dynrefer.metrics.java import Meteor

DATA = Path(__file__).resolve().parents[1] / "data" / "metrics"


@pytest.fixture(scope="session")
def meteor():
    """One METEOR process for all tests: it takes seconds to start."""
    with Meteor() as running:
        yield running


@pytest.fixture(scope="session")
def reference():
    """Reads inputs and expected values of the published code, kept in tests/data/metrics."""
    return lambda name: json.loads((DATA / name).read_text(encoding="utf-8"))
