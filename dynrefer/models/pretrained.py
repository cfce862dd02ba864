"""A model as one folder, ours: ``model.save_pretrained(folder)``, ``DynRefer.from_pretrained``.

    config.yaml                     ``format_version``, ``weights`` (files), the model section, and
                                    how its views are chosen (``run.view_selector`` and the like)
    trainable.safetensors           parameters that training changes
    frozen.safetensors              the other tensors
    tags.txt, attributes.json, classes.json
    tokenizer/                      of the language model
    text_tokenizer/                 of the text encoder, where it has one
    text_encoder.safetensors        of one that is loaded from a file of its own
    text_embeddings/                of the vocabularies, where the model keeps them in a cache
    SHA256SUMS                      checksums of the files, the text embeddings apart

Large parts are split into shards ("trainable-00001-of-00003.safetensors") beside an index
("trainable.safetensors.index.json"). "./name" in config.yaml is a file of the folder, and "." under
``model.pretrained`` the folder itself, so that config.yaml is a configuration like any other. The
checkpoints of a run (``dynrefer.runners.checkpointing``) are such folders too: their config.yaml is
the run's, and names the files of frozen weights by where they lie from the folder ("./../..").
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dynrefer.checkpoints.configs import (
    FILES_OF_PARTS,
    folder_config,
    from_folder,
    outside,
    view_selectors,
)
from dynrefer.checkpoints.files import FROZEN, TRAINABLE
from dynrefer.checkpoints.folders import (
    CONFIG,
    MAX_SHARD_BYTES,
    TEXT_EMBEDDINGS,
    new_folder,
    write_json,
    write_tensors,
)
from dynrefer.checkpoints.loading import split_trainable, without_held_elsewhere
from dynrefer.checkpoints.places import LANGUAGE_MODEL, TEXT_ENCODER, VISION
from dynrefer.checkpoints.tokenizers import load_tokenizer, save_tokenizer
from dynrefer.config import FORMAT_VERSION
from dynrefer.config.schema import Config
from dynrefer.config.values import listed
from dynrefer.models.decoders.caption import CaptionDecoder, Generation, NoCaptionDecoder
from dynrefer.models.language_models import plain_fields
from dynrefer.models.text_encoder.embeddings import CachedTextEncoder, EmbeddingCache
from dynrefer.models.text_encoder.towers import TextEncoder
from dynrefer.registry import registry
from dynrefer.vocabulary import Vocabularies

Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """What of a model its folder holds.

    Attributes:
        config: of the model, where a configuration built it.
        view_selectors: keys of the run section that say how views are chosen, where it is known.
        held_elsewhere: plain own names of the tensors whose values are those of the files that
            ``config`` names, so that a folder may leave them there.
        learned: plain own names of what a file has given something learned.
    """

    config: DictConfig | None = None
    view_selectors: DictConfig | None = None
    held_elsewhere: Collection[str] = frozenset()
    learned: Collection[str] = frozenset()
    caption_decoder: CaptionDecoder | NoCaptionDecoder
    text_encoder: TextEncoder
    vocabularies: Vocabularies
    generation: Generation
    tag_threshold: float

    @classmethod
    def from_pretrained(
        cls: type[Model], directory: str | Path, overrides: Sequence[str] = (), device: str = "cpu"
    ) -> Model:
        """The model of a folder, in evaluation mode.

        Args:
            directory: written by ``save_pretrained``, or a checkpoint of a run.
            overrides: of its configuration, "model.tag_threshold=0.8".
            device: where the model shall be.

        Raises:
            FileNotFoundError: there is no such folder, or a file of it is missing.
            ValueError: a file is broken, of a newer version or of another architecture.
        """
        config = folder_config(directory, overrides)
        model = registry.get("model", config.model.arch)(config.model)
        model.view_selectors = view_selectors(config)
        return model.to(device).eval()

    def save_pretrained(
        self,
        directory: str | Path,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        frozen: bool = True,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Writes the model's folder: whole, or not at all.

        Args:
            directory: a new or empty folder.
            max_shard_bytes: of tensors in one file.
            frozen: False leaves frozen weights to the files that the configuration names for them.
            tensors: by own name, instead of the model's, whose parameters may then be on meta.

        Returns:
            The folder.

        Raises:
            FileExistsError: the folder holds something.
            OSError: it cannot be written.
            ValueError: the model has no configuration, or ``tensors`` lack one that trains.
        """
        if self.config is None:
            raise ValueError("a model composed by hand has no configuration; build_model gives one")
        if isinstance(self.caption_decoder, NoCaptionDecoder):
            raise ValueError("a model that was built without its caption decoder cannot be saved")
        trainable, others = split_trainable(self)
        if self.config.text_encoder.options.get("checkpoint"):  # the tower has a file of its own
            others = {name: others[name] for name in others if not name.startswith(TEXT_ENCODER)}
        with_tower = frozen and tensors is None
        if tensors is None:
            tensors = trainable | (others if frozen else without_held_elsewhere(self, others))
            if self._is_merged():  # no file holds the sum
                tensors |= {
                    name: t for name, t in others.items() if name.startswith(LANGUAGE_MODEL)
                }
        if missing := sorted(trainable.keys() - tensors.keys()):
            names = ", ".join(missing[:5])
            raise ValueError(f"{len(missing)} tensors that training changes are missing: {names}")
        left_out = others.keys() - tensors.keys()
        with new_folder(Path(directory)) as folder:
            for stem, part in ((TRAINABLE, trainable), (FROZEN, others)):
                named = ((name, tensors[name]) for name in part if name not in left_out)
                write_tensors(folder, stem, named, max_shard_bytes)
            own = self._folder_config(left_out, folder)
            self._save_text_encoder(own, folder, with_tower)
            weights = sorted(path.name for path in folder.glob("*.safetensors*"))
            run = self.view_selectors or view_selectors(OmegaConf.structured(Config))
            content = {"format_version": FORMAT_VERSION, "weights": weights, "model": own}
            content["run"] = OmegaConf.to_container(run)
            OmegaConf.save(OmegaConf.create(content), folder / CONFIG)
        return Path(directory)

    def _folder_config(self, left_out: Collection[str], folder: Path) -> DictConfig:
        """The configuration in the model's folder, which gets the other files that it names.

        Args:
            left_out: names of tensors that it lacks; their sources stay in the configuration.
        """
        own = self.config.copy()
        self.save_small_files(own, folder)
        own.generation, own.tag_threshold = asdict(self.generation), self.tag_threshold
        own.from_scratch = False
        for part in (VISION, LANGUAGE_MODEL):
            if source := OmegaConf.select(own, FILES_OF_PARTS[part]):
                is_needed = any(name.startswith(part) for name in left_out)
                OmegaConf.update(own, FILES_OF_PARTS[part], outside(source) if is_needed else None)
        if own.caption_decoder.language_model is None:
            own.caption_decoder.config = plain_fields(self.caption_decoder.language_model.config)
        if self._is_merged():
            own.caption_decoder.lora = None
        sources = map(outside, listed(own.pretrained)) if left_out else ()
        own.pretrained = [*sources, "."]
        return own

    def save_small_files(self, own: DictConfig, folder: Path) -> None:
        """Writes vocabularies and tokenizers, and names them in a model section."""
        own.vocabulary.update(_save_vocabularies(self.vocabularies, folder))
        save_tokenizer(self.caption_decoder.tokenizer, folder / "tokenizer")
        own.caption_decoder.tokenizer = "./tokenizer"
        if words := own.text_encoder.options.get("tokenizer"):
            tokenizer = load_tokenizer(words, "model.text_encoder.options.tokenizer")
            save_tokenizer(tokenizer, folder / "text_tokenizer")
            own.text_encoder.options.tokenizer = "./text_tokenizer"

    def _save_text_encoder(self, own: DictConfig, folder: Path, with_tower: bool) -> None:
        """Writes the text encoder's files and names them in the folder's configuration."""
        encoder, options = self.text_encoder, own.text_encoder.options
        source = options.get("checkpoint")
        if source and with_tower:
            tower = encoder.tower() if isinstance(encoder, CachedTextEncoder) else encoder
            named = ((TEXT_ENCODER + name, t) for name, t in sorted(tower.state_dict().items()))
            write_tensors(folder, "text_encoder", named, sys.maxsize)
            options.checkpoint = str(folder / "text_encoder.safetensors")
        if isinstance(encoder, CachedTextEncoder):
            kept = folder / TEXT_EMBEDDINGS
            encoder.keep(EmbeddingCache(kept, own.text_encoder.name, OmegaConf.to_object(options)))
            own.vocabulary.cache = f"./{TEXT_EMBEDDINGS}"
        elif own.vocabulary.cache:
            own.vocabulary.cache = None if with_tower else outside(own.vocabulary.cache)
        if source:
            options.checkpoint = "./text_encoder.safetensors" if with_tower else outside(source)

    def _is_merged(self) -> bool:
        """Whether the language model had adapters, which have become part of its weights."""
        return (
            self.config.caption_decoder.lora is not None and not self.caption_decoder.has_adapters
        )


def save_run_config(model: PretrainedModel, config: DictConfig, folder: Path) -> None:
    """Writes a run's configuration into a new checkpoint, so that it loads from anywhere.

    Vocabularies and tokenizers are copied; what else the model section names on this disk is named
    by where it lies from the folder.
    """
    own = config.copy()
    model.save_small_files(own.model, folder)
    for key in (*FILES_OF_PARTS.values(), "vocabulary.cache"):
        if value := OmegaConf.select(own.model, key):
            OmegaConf.update(own.model, key, from_folder(value, folder))
    sources = listed(own.model.pretrained)
    own.model.pretrained = [from_folder(path, folder) for path in sources] or None
    content = {"format_version": FORMAT_VERSION, **OmegaConf.to_container(own)}
    OmegaConf.save(OmegaConf.create(content), folder / CONFIG)


def _save_vocabularies(vocabularies: Vocabularies, folder: Path) -> dict[str, str]:
    """Writes the vocabularies; returns the values of ``model.vocabulary``."""
    tags = "".join(f"{name}\n" for name in vocabularies.tags.names)
    (folder / "tags.txt").write_text(tags, encoding="utf-8")
    write_json(folder / "attributes.json", [asdict(e) for e in vocabularies.attributes.entries])
    write_json(folder / "classes.json", list(vocabularies.classes.names))
    return {"tags": "./tags.txt", "attributes": "./attributes.json", "classes": "./classes.json"}
