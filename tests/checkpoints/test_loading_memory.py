"""Host memory while a model of half a GB is built from files in another precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from dynrefer.checkpoints.places import without_memory
from dynrefer.config import load_config
from tests.tiny_model import tiny_config, tiny_model

ROOT = Path(__file__).parents[2]
SHARD = 2**26
VISION = {"embed_dim": 1024, "depth": 2, "num_heads": 16}
LANGUAGE_MODEL = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 6, "num_heads": 16}

# Measures what a model takes beyond the memory after a tiny one was loaded, by a process that has
# imported nothing else before.
PROGRAM = """
import sys
from dynrefer.models.dynrefer import DynRefer
assert DynRefer.from_pretrained(sys.argv[1]).config.image_size == 32
from dynrefer.checkpoints import tensor_files
from dynrefer.config import load_config
from dynrefer.models.builders import build_model

def memory(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

tensor_files._WINDOW //= 4
before = memory("VmRSS")
model = build_model(load_config(sys.argv[2]).model)
parameters = dict(model.named_parameters())
for name, parameter in parameters.items():
    if name.startswith(("vision.tower.", "caption_decoder.language_model.")):
        assert str(parameter.dtype) == "torch.bfloat16", name
        assert (parameter[:1] == len(name) % 7).all(), name
print(sum(p.nbytes for p in parameters.values()), memory("VmHWM") - before)
"""


def filled(module: nn.Module, own: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors for a module without memory; their values tell their names in the whole model."""
    return {
        name: torch.full(tensor.shape, len(own + name) % 7, dtype=dtype)
        for name, tensor in module.state_dict().items()
    }


def write_language_model(folder: Path, tokenizer: Path) -> None:
    """A T5 of 0.23 B parameters: shards with an index, tokenizer, configuration."""
    config = T5Config(**LANGUAGE_MODEL, vocab_size=200, feed_forward_proj="gated-gelu")
    config.save_pretrained(folder)
    with without_memory():
        language_model = T5ForConditionalGeneration(config)
    state = filled(language_model, "caption_decoder.language_model.", torch.float16)
    places: dict[str, str] = {}
    while state:
        shard: dict[str, Tensor] = {}
        while state and sum(tensor.nbytes for tensor in shard.values()) < SHARD:
            name = next(iter(state))
            shard[name] = state.pop(name)
        file = f"model-{len(places)}.safetensors"
        save_file(shard, folder / file)
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def write_tower(path: Path) -> None:
    """A vision tower with one block more than is used, and its classifier, as EVA-CLIP's file."""
    with without_memory():
        tower = timm.create_model("eva_giant_patch14_clip_224", img_size=56, **VISION)
    torch.save(filled(tower, "vision.tower.", torch.float32), path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by /proc")
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    write_language_model(tmp_path / "t5", Path(config.model.caption_decoder.tokenizer))
    write_tower(tmp_path / "eva_vit_g.pth")
    vision = {
        "name": "eva_giant_patch14_clip_224",
        "drop_last_blocks": 1,
        "options": {**VISION, "patch_size": 14},
        "freeze": True,
        "precision": "bf16",
        "checkpoint": str(tmp_path / "eva_vit_g.pth"),
    }
    caption_decoder = {
        "language_model": str(tmp_path / "t5"),
        "config": None,
        "freeze": True,
        "precision": "bf16",
    }
    parts = {"image_size": 56, "vision": vision, "caption_decoder": caption_decoder}
    config = OmegaConf.merge(config, {"model": parts})
    OmegaConf.save(config, tmp_path / "large.yaml")
    tiny_model(load_config(tmp_path / "tiny.yaml")).save_pretrained(tmp_path / "tiny")
    files = [tmp_path / "tiny", tmp_path / "large.yaml"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights, peak = map(int, done.stdout.split())
    assert weights > 4 * 10**8
    assert peak < 1.25 * weights, f"{peak / weights:.2f} times the weights"
