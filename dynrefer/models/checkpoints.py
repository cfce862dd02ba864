"""Names of published checkpoints and our own, as data, with nothing lost between them.

A rule is a pair of templates (published, own); each ``*`` stands for the same text on both sides.
The first rule that matches a name translates it, in either direction.
"""

import functools
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TRAINABLE, FROZEN = "trainable.safetensors", "frozen.safetensors"

Rules = Sequence[tuple[str, str]]

_CROSS_ATTENTION_LAYER: Rules = [
    ("crossattention.output.dense.*", "output.*"),
    ("crossattention.output.LayerNorm.*", "attention_norm.*"),
    ("intermediate.dense.*", "expand.*"),
    ("output.dense.*", "contract.*"),
    ("output.LayerNorm.*", "mlp_norm.*"),
    ("crossattention.self.*", "*"),
]


def _text_query_decoder(published: str, own: str) -> Rules:
    """Rules of the tag decoder (``tag_*``) or the region-text decoder (``attr_*``)."""
    layer = [
        (f"{published}_head.encoder.layer.*.{theirs}", f"{own}.layers.*.{ours}")
        for theirs, ours in _CROSS_ATTENTION_LAYER
    ]
    return [
        *layer,
        (f"{published}_vision_proj.*", f"{own}.vision_projection.*"),
        (f"{published}_text_proj.*", f"{own}.text_projection.*"),
        (f"{published}_fc.*", f"{own}.classifier.*"),
    ]


_SHARED: Rules = [
    ("visual_encoder.*", "vision.tower.*"),
    ("ln_vision.*", "vision.norm.*"),
    ("query_tokens", "qformer.query_tokens"),
    ("Qformer.bert.embeddings.LayerNorm.*", "qformer.model.layernorm.*"),
    (
        "Qformer.bert.encoder.layer.*.attention.self.*",
        "qformer.model.encoder.layer.*.attention.attention.*",
    ),
    (
        "Qformer.bert.encoder.layer.*.crossattention.self.*",
        "qformer.model.encoder.layer.*.crossattention.attention.*",
    ),
    ("Qformer.bert.encoder.layer.*", "qformer.model.encoder.layer.*"),
    ("cvem_align.*", "fusion.alignment.*"),
    ("cvem_mlp.*", "fusion.mlp.*"),
    *_text_query_decoder("tag", "tag_decoder"),
    *_text_query_decoder("attr", "region_text_decoder"),
    ("attr_t", "region_text_decoder.log_scale"),
    ("attr_b", "region_text_decoder.bias"),
    ("cem_memory", "caption_decoder.control_memory"),
]

PUBLISHED_T5: Rules = [
    *_SHARED,
    ("t5_model.*", "caption_decoder.language_model.*"),
    ("t5_proj.*", "caption_decoder.projection.*"),
]

PUBLISHED_VICUNA: Rules = [
    *_SHARED,
    ("llm_model.*", "caption_decoder.language_model.*"),
    ("llm_proj.*", "caption_decoder.projection.*"),
]

# Published names that no part of the model reads, with the reason.
DROPPED: Mapping[str, str] = {
    r"Qformer\.bert\.embeddings\.(word|position)_embeddings\..*": "Q-Former text branch",
    r"Qformer\.bert\.embeddings\.position_ids": "Q-Former text branch",
    r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*": "Q-Former text branch",
    r"Qformer\.cls\..*": "Q-Former text branch",
    r"(clip_embeds|att_embeds|ov_embeds)": "text embeddings, made anew from the vocabularies",
    r"text_encoder\..*": "the text tower is loaded from its own file",
}


def translate(name: str, rules: Rules, to_published: bool = False) -> str | None:
    """The name on the other side of the rules, or None where no rule matches."""
    for published, own in rules:
        source, target = (own, published) if to_published else (published, own)
        match = _pattern(source).fullmatch(name)
        if match:
            for part in match.groups():
                target = target.replace("*", part, 1)
            return target
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """A star inside a name is one level of it (a layer's number), a star at its end the rest."""
    inner = re.escape(template.removesuffix("*")).replace(r"\*", "([^.]+)")
    return re.compile(inner + ("(.+)" if template.endswith("*") else ""))


@dataclass(frozen=True)
class LoadReport:
    """What became of the names of a file and of the model.

    ``missing`` are names of the model that the file does not hold, ``unexpected`` names of the
    file that the model does not have, ``dropped`` those left out on purpose with the reason.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    dropped: dict[str, str]


def from_published(
    state: Mapping[str, Tensor], rules: Rules
) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    """Published state dict -> own names; also the names no rule knows and those dropped."""
    own: dict[str, Tensor] = {}
    unknown: list[str] = []
    dropped: dict[str, str] = {}
    for name, tensor in state.items():
        reason = next((why for pattern, why in DROPPED.items() if re.fullmatch(pattern, name)), "")
        if reason:
            dropped[name] = reason
            continue
        translated = translate(name, rules)
        if translated is None:
            unknown.append(name)
        else:
            own[translated] = tensor
    return own, unknown, dropped


def to_published(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Own state dict -> published names; raises KeyError for a name that no rule knows."""
    published = {}
    for name, tensor in state.items():
        translated = translate(name, rules, to_published=True)
        if translated is None:
            raise KeyError(f"'{name}' has no published name")
        published[translated] = tensor
    return published


def load_published(
    model: nn.Module, state: Mapping[str, Tensor], rules: Rules, source: str = "state dict"
) -> LoadReport:
    """Loads a published state dict, whole or in part, into a model.

    Raises:
        ValueError: a tensor has another shape than the model's; nothing is loaded then.
    """
    own, unknown, dropped = from_published(state, rules)
    missing, unexpected = load_named(model, own, source)
    return LoadReport(sorted(own), missing, unknown + unexpected, dropped)


def load_named(
    model: nn.Module, state: Mapping[str, Tensor], source: str
) -> tuple[list[str], list[str]]:
    """Loads tensors by own name; returns missing and unexpected names.

    Raises:
        ValueError: shapes differ, listed with both shapes; nothing is loaded then.
    """
    expected = model.state_dict()
    wrong = [
        f"  {name}: file {tuple(tensor.shape)}, model {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"{source} belongs to another architecture; {len(wrong)} tensors differ in shape:\n"
            + _head(wrong)
        )
    result = model.load_state_dict(dict(state), strict=False)
    return list(result.missing_keys), list(result.unexpected_keys)


def split_trainable(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that training changes, and the others, by own name; shared tensors come once."""
    names_of_trainable = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        parts[name not in names_of_trainable][name] = tensor.detach().contiguous()
    return parts


def load_directory(model: nn.Module, path: Path) -> None:
    """Loads a checkpoint folder of our own: trainable and, where there are any, frozen weights.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: a broken file, or names or shapes of another architecture; nothing is loaded.
    """
    state: dict[str, Tensor] = {}
    for name in (TRAINABLE, FROZEN):
        if not (path / name).is_file():
            if name == TRAINABLE:
                raise FileNotFoundError(f"no checkpoint at {path} ({TRAINABLE} is missing)")
            continue
        state |= _read_safetensors(path / name)
    expected = set(split_trainable(model)[0])
    missing = sorted(expected - set(state))
    unexpected = sorted(set(state) - set(model.state_dict()))
    if missing or unexpected:
        raise ValueError(
            f"{path} belongs to another architecture; it lacks {len(missing)} trainable tensors "
            f"and has {len(unexpected)} that the model has not:\n" + _head(missing + unexpected)
        )
    load_named(model, state, str(path))


def load_whole(part: nn.Module, path: Path, key: str) -> None:
    """Loads a safetensors file that holds exactly one part of the model.

    Args:
        key: the configuration key that names the file, for the error.

    Raises:
        FileNotFoundError, ValueError: no such file, a broken one, or one of another architecture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{key}: no file at {path}")
    state = _read_safetensors(path)
    missing, unexpected = load_named(part, state, str(path))
    if missing or unexpected:
        raise ValueError(
            f"{key}: {path} belongs to another architecture; it lacks {len(missing)} tensors and "
            f"has {len(unexpected)} others:\n" + _head(missing + unexpected)
        )


def load_file_or_directory(model: nn.Module, path: Path, rules: Rules) -> None:
    """Loads what ``run.load_ckpt_path`` names: our folder, or a published ``.pth`` file.

    A published file holds the trainable parameters under ``model``; names on either side that
    find no partner raise ValueError.
    """
    if path.is_dir():
        load_directory(model, path)
        return
    report = load_published(model, _tensors_of(read_checkpoint(path), path), rules, str(path))
    trainable = set(split_trainable(model)[0])
    left_over = report.unexpected + [name for name in report.missing if name in trainable]
    if left_over:
        raise ValueError(
            f"{path}: {len(left_over)} names find no partner between file and model:\n"
            + _head(f"  {name}" for name in left_over)
        )


def read_checkpoint(path: Path) -> dict[str, object]:
    """Reads a PyTorch checkpoint without running code that it might hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or holds objects other than tensors and plain containers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        mmap = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except PermissionError:
        raise
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        raise ValueError(
            f"{path} is not a readable PyTorch checkpoint: it is broken, or holds objects other "
            "than tensors and plain containers, which could run code"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a dictionary is expected")
    return content


def _tensors_of(content: dict[str, object], path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint: under ``model``, or the whole."""
    state = content.get("model", content)
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise ValueError(f"{path}: 'model' holds a {kind}; tensors by name are expected")
    other = next((name for name, value in state.items() if not torch.is_tensor(value)), None)
    if other is not None:
        raise ValueError(f"{path}: '{other}' is no tensor; tensors by name are expected")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is broken: {error}") from error


def _head(lines: Iterable[str], most: int = 8) -> str:
    listed = list(lines)
    more = [f"  ... and {len(listed) - most} more"] if len(listed) > most else []
    return "\n".join(listed[:most] + more)
