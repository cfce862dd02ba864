import json

import numpy as np
import pytest
from PIL import Image

from dynrefer.runners.checkpointing import Position, save_checkpoint
from tests.tiny_model import tiny_config, tiny_model


@pytest.fixture(scope="session")
def photos(once):
    """A tiny checkpoint, images/0.png ... 5.png, a mask, and regions.jsonl of 24 regions."""

    def make(folder):
        folder.mkdir()
        config = tiny_config(folder)
        config.model.generation.max_new_tokens = 3
        save_checkpoint(folder / "checkpoints", tiny_model(config), config, Position(), {})
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        lines = []
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{number}.png")
            starts = rng.integers(0, 20, (4, 2))
            boxes = np.hstack([starts, starts + rng.integers(5, 20, (4, 2))]).tolist()
            image = {"image": f"{number}.png"}
            lines += [{"id": 10 * number + i, **image, "box": boxes[i]} for i in range(2)]
            lines.append({"id": f"many {number}", **image, "boxes": boxes[2:]})
        (folder / "regions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        mask = np.zeros((40, 50), dtype=np.uint8)
        mask[10:20, 5:25] = 255
        Image.fromarray(mask).save(folder / "mask.png")

    return once("photos", make)
