#!/usr/bin/env bash
# The demo on a held-out image: the first of the test split with three regions or more, its first
# three. Arguments go to demo.py: bash scripts/demo_shapes.sh --out picture.png
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -r -a regions < <(.venv/bin/python - data/shapes/test.json <<'PYTHON'
import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
content = json.loads(path.read_text())
for image in content["images"]:
    boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
    if len(boxes) >= 3:
        break
file = path.parent / content["dataset"]["image_root"] / image["file_name"]
print("--image", file, *(f"--box {x} {y} {x + w:.2f} {y + h:.2f}" for x, y, w, h in boxes[:3]))
PYTHON
)
.venv/bin/python demo.py "${regions[@]}" "$@"
