"""Converts a checkpoint between the published format and a folder of our own; no bit is changed.

python scripts/convert_checkpoint.py --from published --to own --cfg-path CONFIG \\
    --input vg1.2_5e.pth --output vg_model
python scripts/convert_checkpoint.py --from own --to published --input vg_model --output vg.pth

A folder needs a configuration; the frozen weights that a published file leaves out stay with the
files that it names, or with --whole are put into the folder as well. A published file gets all that
a folder holds, under "model"; the weights are read from and written to disk one by one.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import config_parser, entry_point


def conversion_parser() -> argparse.ArgumentParser:
    """The arguments of the conversion."""
    parser = config_parser(__doc__, required=False)
    formats = ("published", "own")
    parser.add_argument("--from", dest="source", choices=formats, required=True)
    parser.add_argument("--to", dest="target", choices=formats, required=True)
    parser.add_argument("--input", type=Path, required=True, help="file, or folder of our own")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or new file")
    parser.add_argument(
        "--whole", action="store_true", help="put the frozen weights into the folder too"
    )
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    arguments = conversion_parser().parse_args()

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from dynrefer.checkpoints import translation
from dynrefer.checkpoints.configs import folder_config, view_selectors
from dynrefer.checkpoints.files import open_checkpoint
from dynrefer.checkpoints.folders import MAX_SHARD_BYTES
from dynrefer.checkpoints.formats import FORMATS, Format
from dynrefer.checkpoints.loading import Source, open_source
from dynrefer.checkpoints.places import without_memory
from dynrefer.config import ConfigError, load_config
from dynrefer.config.values import listed
from dynrefer.files import whole_file
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer
from dynrefer.models.language_models import language_model_config, plain_fields

# Architectures that the published code has.
PUBLISHED = ("dynrefer_t5", "dynrefer_vicuna")
# Text encoders that never train; the published code loads them from their own files.
TEXT_TOWERS = ("eva_clip", "clip_vit_l")


def without_weights(config: DictConfig) -> DynRefer:
    """The model of a configuration (the model's); nothing is read, its parameters lie on meta."""
    plain = OmegaConf.to_container(config, resolve=True)
    bare = OmegaConf.create(plain)
    bare.pretrained = bare.vision.checkpoint = bare.vocabulary.cache = None
    if "checkpoint" in bare.text_encoder.options:
        bare.text_encoder.options.checkpoint = None
    decoder = bare.caption_decoder
    if decoder.language_model:
        decoder.config = plain_fields(language_model_config(decoder.language_model))
        decoder.tokenizer = decoder.tokenizer or decoder.language_model
        decoder.language_model = None
    with without_memory():
        model = build_model(bare)
    model.config = OmegaConf.create(plain)
    return model


class Renamed(Mapping[str, Tensor]):
    """Tensors of a checkpoint by other names; each is read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def published_format(config: DictConfig) -> Format:
    """The published format of a model's configuration; ConfigError where there is none."""
    if config.arch not in PUBLISHED:
        raise ConfigError(
            f"model.arch: '{config.arch}' has no published format; valid: {', '.join(PUBLISHED)}"
        )
    return FORMATS[config.arch]


def to_own(
    file: Path,
    config: DictConfig,
    directory: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    selectors: DictConfig | None = None,
) -> dict[str, str]:
    """Writes a published file as a folder of our own.

    Args:
        config: the model's; it keeps the sources of the weights that the file leaves out.
        selectors: how its views are chosen, see ``view_selectors``.

    Returns:
        Names of the tensors that were left out, and why.

    Raises:
        FileNotFoundError, ValueError: the file is missing, broken, or of another architecture.
        OSError: the folder has content, or cannot be written.
    """
    table = published_format(config)
    model, checkpoint = without_weights(config), open_source(file).tensors
    model.view_selectors = selectors
    plan = Source(checkpoint, table, str(file)).plan(model)
    names = {
        place.name: published
        for match, places in reversed(plan.steps)  # the first name of a shared tensor counts
        for place, published in zip(places, match.published, strict=True)
    }
    model.save_pretrained(directory, max_shard_bytes, tensors=Renamed(checkpoint, names))
    return plan.report.dropped


def to_published(directory: Path, file: Path) -> dict[str, str]:
    """Writes a folder of our own as a published file.

    Returns:
        Names of the tensors that were left out, and why.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
        FileNotFoundError, ValueError: the folder is not complete, or has weights for which the
            published model has no place.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists; choose another name")
    config = folder_config(directory).model
    table = published_format(config)
    state, left_out = mapped(directory), {}
    if config.text_encoder.name in TEXT_TOWERS:
        reason = "the published code reads the text tower from its own file"
        left_out = {name: reason for name in state if name.startswith("text_encoder.")}
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    try:
        named = translation.to_published(kept, table)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    # Published adapters lie beside the layers, not around them.
    named = {name.replace(".base_layer.", "."): tensor for name, tensor in named.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part, part.open("wb") as stream:
        torch.save({"model": named}, stream)
    return left_out


def mapped(directory: Path) -> dict[str, Tensor]:
    """The tensors of a complete folder, mapped from its files: they take no memory of their own."""
    names = open_checkpoint(directory)
    state: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        state |= {name: tensor for name, tensor in load_file(file).items() if name in names}
    return state


def main(arguments: argparse.Namespace) -> None:
    """Converts, and prints what was left out."""
    source, output = arguments.input, arguments.output
    if arguments.source == arguments.target:
        raise ValueError(f"--from and --to are both '{arguments.source}'; nothing is to be done")
    if arguments.target == "published":
        left_out = to_published(source, output)
    elif arguments.cfg_path is None:
        raise ValueError("--to own needs the model's configuration; give --cfg-path")
    else:
        config = load_config(arguments.cfg_path, arguments.options)
        selectors, config = view_selectors(config), config.model
        if arguments.whole:
            config.pretrained = [*listed(config.pretrained), str(source)]
            model = build_model(config)
            model.view_selectors = selectors
            model.save_pretrained(output)
            left_out = {}
        else:
            left_out = to_own(source, config, output, selectors=selectors)
    for reason, count in Counter(left_out.values()).items():
        print(f"{count} tensors left out: {reason}")
    print(f"{source} -> {output}")


if __name__ == "__main__":
    entry_point(main, arguments)
