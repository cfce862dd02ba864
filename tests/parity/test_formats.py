"""The reference cases through files of every format that can hold them, by configurations.

Where a library has the model, the library itself takes the tensors by its names and writes the
files, so that these names do not come from our tables alone.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.places import without_memory
from dynrefer.checkpoints.translation import to_published
from dynrefer.config.schema import ModelConfig
from dynrefer.models.builders import build_model
from dynrefer.models.decoders.caption_t5 import untie_output
from dynrefer.models.dynrefer import DynRefer
from dynrefer.registry import registry
from tests.parity.official import CASES, Case, SeededTextEncoder, SeededValues, load_case

Values = dict[str, Any]
# The reference towers have all their blocks; files of whole towers hold one more.
DEEPER = {"vision.drop_last_blocks": 1, "vision.options.depth": 4}


@registry.register("text_encoder", "seeded_for_parity")
def seeded_text_encoder(seed: int, width: int) -> SeededTextEncoder:
    return SeededTextEncoder(SeededValues(seed), width)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


@pytest.fixture(scope="module")
def t5() -> Case:
    return load_case("official_tiny")


def build(case: Case, values: Values) -> DynRefer:
    """The model of a case from a configuration; ``values`` stand at dotted keys."""
    sizes = case.description["config"]
    options = {**sizes["vit"], "global_pool": "token"}
    config = OmegaConf.structured(ModelConfig)
    known = config.generation.keys()
    section = {
        "arch": CASES[case.folder.name],
        "num_views": sizes["num_views"],
        "image_size": options.pop("img_size"),
        "vision": {"drop_last_blocks": 0, "options": options, "precision": "fp32"},
        "qformer": {
            **sizes["qformer"],
            "num_query_tokens": sizes["num_query_token"],
            "dropout": 0.0,
        },
        "tag_decoder": {"dropout": 0.0},
        "region_text_decoder": {"dropout": 0.0},
        "text_encoder": {
            "name": "seeded_for_parity",
            "options": {"seed": sizes["seed"], "width": sizes["text_dim"]},
        },
        "caption_decoder": {"tokenizer": str(case.folder / "tokenizer"), "precision": "fp32"},
        "vocabulary": {
            "tags": str(case.folder / "tags.txt"),
            "attributes": str(case.folder / "attributes.json"),
            "classes": str(case.folder / "classes.json"),
        },
        "generation": {key: value for key, value in sizes["generate"].items() if key in known},
        "tag_threshold": sizes["tag_thr"],
    }
    changes = OmegaConf.create()
    for key, value in values.items():
        OmegaConf.update(changes, key, value)
    return build_model(OmegaConf.merge(config, section, changes))


def assert_agrees(case: Case, model: DynRefer) -> None:
    loaded = replace(case, model=model)
    loaded.assert_forward_stages()
    loaded.assert_captions()
    loaded.assert_losses()


def untrained(case: Case) -> Values:
    """A language model of the case's size without weights."""
    sizes = case.description["config"]
    fields = {**sizes["t5"], "dropout_rate": 0.0} if "t5" in sizes else sizes["llama"]
    return {"caption_decoder.config": fields}


def language_model(case: Case, folder: Path) -> Values:
    """A folder of transformers, in shards."""
    case.model.caption_decoder.language_model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return {"caption_decoder.language_model": str(folder)}


def part(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def tower(case: Case) -> dict[str, Tensor]:
    """A whole EVA tower by names relative to it: one block more, final norm and projection."""
    state = part(case.state, "visual_encoder.")
    state = {name.removeprefix("visual_encoder."): tensor for name, tensor in state.items()}
    last = part(state, "blocks.2.")
    state |= {name.replace("blocks.2", "blocks.3"): -tensor for name, tensor in last.items()}
    width = state["cls_token"].shape[-1]
    state |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return state | {"head.weight": torch.zeros(24, width), "head.bias": torch.zeros(24)}


def release(case: Case, folder: Path) -> Values:
    """BLIP-2's file of LAVIS, and what DynRefer's training changed."""
    names = ("Qformer.", "query_tokens", "ln_vision.", "t5_proj.", "llm_proj.")
    torch.save({"model": part(case.state, *names)}, folder / "blip2_pretrained.pth")
    trained = {name: case.state[name] for name in case.description["trainable"]}
    content = {"model": trained, "optimizer": {"state": {}}, "scaler": None, "epoch": 4}
    torch.save(content, folder / "vg1.2_5e.pth")
    return {"pretrained": [str(folder / "blip2_pretrained.pth"), str(folder / "vg1.2_5e.pth")]}


def test_one_file_with_everything(case: Case, tmp_path: Path) -> None:
    torch.save({"model": case.state}, tmp_path / "all.pth")
    model = build(case, {**untrained(case), "pretrained": str(tmp_path / "all.pth")})
    assert_agrees(case, model)


def eva_vit_g(case: Case, folder: Path) -> Path:
    torch.save(tower(case), folder / "eva_vit_g.pth")
    return folder / "eva_vit_g.pth"


def eva_clip(case: Case, folder: Path) -> Path:
    state = {f"visual.{name}": tensor for name, tensor in tower(case).items()}
    state |= {"text.logit_scale": torch.ones(()), "text.ln_final.bias": torch.ones(3)}
    torch.save(state, folder / "eva_clip_psz14.pt")
    return folder / "eva_clip_psz14.pt"


def open_clip_folder(case: Case, folder: Path) -> Path:
    state = {f"visual.trunk.{name}": tensor for name, tensor in tower(case).items()}
    sizes = open_clip.get_model_config("EVA01-g-14")
    del sizes["custom_text"]
    with without_memory():
        published = CustomTextCLIP(**sizes)
    names = {name for name in published.state_dict() if name.startswith("visual.")}
    assert {name for name in names if not is_block(name, range(4, 40))} == set(state)
    state |= {"logit_scale": torch.ones(()), "text.ln_final.bias": torch.ones(3)}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def is_block(name: str, numbers: range) -> bool:
    return any(f".blocks.{number}." in name for number in numbers)


@pytest.mark.parametrize("write", [eva_vit_g, eva_clip, open_clip_folder])
def test_the_files_of_the_release(
    case: Case, tmp_path: Path, write: Callable[[Case, Path], Path]
) -> None:
    values = {**release(case, tmp_path), **language_model(case, tmp_path / "language_model")}
    model = build(case, {**values, **DEEPER, "vision.checkpoint": str(write(case, tmp_path))})
    assert_agrees(case, model)


def transformers_blip2(case: Case) -> Blip2ForConditionalGeneration:
    """transformers' own BLIP-2 with the weights of the case."""
    sizes = case.description["config"]
    vit = sizes["vit"]
    width = vit["embed_dim"]
    config = Blip2Config(
        vision_config={
            "hidden_size": width,
            "intermediate_size": int(width * vit["mlp_ratio"]),
            "num_hidden_layers": vit["depth"],
            "num_attention_heads": vit["num_heads"],
            "image_size": vit["img_size"],
            "patch_size": vit["patch_size"],
        },
        qformer_config={**sizes["qformer"], "vocab_size": 50, "encoder_hidden_size": width},
        text_config=case.model.caption_decoder.language_model.config.to_dict(),
        num_query_tokens=sizes["num_query_token"],
    )
    model = Blip2ForConditionalGeneration(config).eval()
    untie_output(model.language_model)
    kept = ("vision.", "qformer.", "caption_decoder.language_model.", "caption_decoder.projection.")
    own = part(case.model.state_dict(), *kept)
    model.load_state_dict(to_published(own, FORMATS["transformers_blip2"]))
    return model


def test_blip2_of_transformers(t5: Case, tmp_path: Path) -> None:
    blip2 = transformers_blip2(t5)
    tokens = blip2.vision_model(t5.batch.crops).last_hidden_state
    np.testing.assert_allclose(tokens.detach(), t5.expected["vision_tokens"], rtol=0, atol=1e-4)
    folder = tmp_path / "blip2"
    blip2.save_pretrained(folder, max_shard_size="200KB")
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(places.values())) > 3
    assert "vision_model.encoder.layers.2.self_attn.qkv.bias" in places
    trained = release(t5, tmp_path)["pretrained"][1]
    values = {"pretrained": [str(folder), trained]}
    assert_agrees(t5, build(t5, {**values, **untrained(t5)}))
    assert_agrees(t5, build(t5, {**values, "caption_decoder.language_model": str(folder)}))
    parts = {"vision.checkpoint": str(folder), "caption_decoder.language_model": str(folder)}
    assert_agrees(t5, build(t5, {**parts, **release(t5, tmp_path)}))


def test_blip2_with_opt_is_refused(t5: Case, tmp_path: Path) -> None:
    state = {
        name: tensor
        for name, tensor in transformers_blip2(t5).state_dict().items()
        if not name.startswith("language_model.")
    }
    state["language_model.model.decoder.embed_tokens.weight"] = torch.zeros(30, 64)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors|another architecture") as error:
        build(t5, {**untrained(t5), "pretrained": str(tmp_path)})
    assert "file: language_model.model.decoder.embed_tokens.weight" in str(error.value)


def test_language_model_in_files_of_torch(t5: Case, tmp_path: Path) -> None:
    """As old folders on the hub: files of torch with an index, which repeat the embedding."""
    folder = tmp_path / "language_model"
    values = language_model(t5, folder)
    for path in folder.glob("model*"):
        path.unlink()
    state = t5.model.caption_decoder.language_model.state_dict()
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    state[unread] = torch.zeros(32, 4)
    places = {name: f"pytorch_model-{len(name) % 3}.bin" for name in state}
    for file in set(places.values()):
        torch.save({name: state[name] for name in state if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    values |= {**release(t5, tmp_path), "vision.checkpoint": str(eva_vit_g(t5, tmp_path)), **DEEPER}
    assert_agrees(t5, build(t5, values))


def test_adapters(case: Case, tmp_path: Path) -> None:
    """Weights under peft's names; the adapters' second halves are zero, so nothing changes."""
    is_t5 = "t5" in case.description["config"]
    prefix, layers = ("t5_model.", "qv") if is_t5 else ("llm_model.", ("q_proj", "v_proj"))
    lora = {"caption_decoder.lora": {"rank": 4, "target_modules": list(layers)}, **untrained(case)}
    state = {name: tensor for name, tensor in case.state.items() if not name.startswith(prefix)}
    for name, tensor in build(case, lora).caption_decoder.language_model.state_dict().items():
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        draw = torch.zeros_like if "lora_B" in name else torch.randn_like
        state[prefix + name] = draw(tensor) if "lora_" in name else case.state[prefix + plain]
    torch.save({"model": state}, tmp_path / "all.pth")
    model = build(case, {**lora, "pretrained": str(tmp_path / "all.pth")})
    loaded = model.caption_decoder.language_model.state_dict()
    adapters = [name for name in loaded if "lora_A" in name]
    assert len(adapters) >= 4
    assert all(torch.equal(loaded[name], state[prefix + name]) for name in adapters)
    assert_agrees(case, model)


def test_own_folder(case: Case, tmp_path: Path) -> None:
    torch.save({"model": case.state}, tmp_path / "all.pth")
    model = build(case, {**untrained(case), "pretrained": str(tmp_path / "all.pth")})
    model.save_pretrained(tmp_path / "own", max_shard_bytes=200_000)
    assert_agrees(case, DynRefer.from_pretrained(tmp_path / "own"))
