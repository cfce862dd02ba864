"""Every key that a configuration may hold, with its type and its default.

Dataclasses for OmegaConf's structured configurations: ``dynrefer.config`` merges YAML into them.
The release's flat model keys stay valid through :data:`RELEASE_KEYS`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class VisionConfig:
    """Vision tower: ``name`` is timm's, ``options`` go to ``timm.create_model``.

    ``checkpoint`` is a file or folder with the tower, of any format (docs/checkpoints.md). A frozen
    tower is held and runs in ``precision``; one that trains is held in fp32 and runs in that of the
    run.
    """

    name: str = "eva_giant_patch14_clip_224"
    drop_last_blocks: int = 1
    checkpoint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    freeze: bool = True
    precision: str = "fp16"
    gradient_checkpointing: bool = False


@dataclass
class QFormerConfig:
    """BLIP-2's Q-Former; ``num_query_tokens`` is the release's ``num_query_token``."""

    num_query_tokens: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    dropout: float = 0.1
    freeze_query_tokens: bool = True


@dataclass
class TextQueryDecoderConfig:
    """Tag decoder and region-text decoder."""

    width: int = 256
    heads: int = 4
    layers: int = 2
    intermediate: int = 1024
    dropout: float = 0.1


@dataclass
class TextEncoderConfig:
    """Registered text encoder; ``options`` are its arguments."""

    name: str = "eva_clip"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoraConfig:
    """LoRA adapters of the language model, as published.

    ``target_modules`` is a list of layer names or a regular expression over whole names; None takes
    the query and value projections, by the names that the architecture has for them.
    """

    rank: int = 64
    alpha: float = 128
    dropout: float = 0.0
    target_modules: Any = None


@dataclass
class CaptionDecoderConfig:
    """Language model: a name or directory in Hugging Face format, or built from ``config``.

    With ``config`` (fields of the transformers configuration) the model starts untrained and
    ``tokenizer`` names the directory of its tokenizer. ``freeze`` is about the language model's own
    weights: they are then held in ``precision``, else in fp32. ``lora`` adds adapters beside them.
    """

    language_model: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    freeze: bool = True
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    max_text_length: int = 32


@dataclass
class GenerationConfig:
    """Beam search of the caption decoder."""

    num_beams: int = 2
    max_new_tokens: int = 20
    min_length: int = 1
    length_penalty: float = 0.0
    repetition_penalty: float = 1.5
    num_return_sequences: int = 1
    do_sample: bool = False
    top_p: float = 0.9
    temperature: float = 1.0


@dataclass
class LossConfig:
    """Weights of the three losses; see ``dynrefer.models.dynrefer.LossWeights``."""

    caption: float = 1.0
    tag: float = 0.01
    region_text: float = 0.5
    reduction: str = "global"


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
    num_views: int = 3
    image_size: int = 224
    pretrained: Any = None
    strict: bool = True
    from_scratch: bool = False
    freeze: list[str] = field(default_factory=list)
    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    tag_decoder: TextQueryDecoderConfig = field(default_factory=TextQueryDecoderConfig)
    region_text_decoder: TextQueryDecoderConfig = field(default_factory=TextQueryDecoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    caption_decoder: CaptionDecoderConfig = field(default_factory=CaptionDecoderConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    tag_threshold: float = 0.7


@dataclass
class SelectorConfig:
    """Registered view selector; ``ratios`` are the task prior's V - 1 numbers in [0, 1]."""

    name: str = "image_prior"
    ratios: list[float] | None = None


@dataclass
class ProcessorConfig:
    """Registered processor of one split."""

    name: str = MISSING
    image_size: int | None = None


@dataclass
class SplitProcessorsConfig:
    """Processors of training and of evaluation."""

    train: ProcessorConfig = field(default_factory=ProcessorConfig)
    eval: ProcessorConfig = field(default_factory=ProcessorConfig)


@dataclass
class BuildInfoConfig:
    """What a dataset is built from.

    ``annotations`` maps train, val and test to lists of annotation files; ``instances`` maps a
    split to COCO's or LVIS's instances file, for box AP; ``max_imgs`` limits the images read. Where
    the annotations of a split are boxes of a detector, ``ground_truth`` maps it to the annotation
    file that they are judged by. ``shards`` maps a split to shards folders that take the place of
    its annotation files and images, for ``builder: dynrefer_shards``.
    """

    builder: str = "dynrefer"
    annotations: dict[str, list[str]] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    ground_truth: dict[str, list[str]] = field(default_factory=dict)
    image_root: str | None = None
    tag_list: str | None = None
    num_views: int | None = None
    with_seg: bool = False
    obj_lvl: bool = True
    max_imgs: float = 1e7
    max_objs: float = 1e7
    bad_records: str = "strict"
    full_drop_ratio: float = 0.5
    drop_ratio: float = 0.5


@dataclass
class DatasetConfig:
    """One dataset: its processors and what it is built from."""

    vis_processor: SplitProcessorsConfig = field(
        default_factory=lambda: SplitProcessorsConfig(
            ProcessorConfig("dynrefer"), ProcessorConfig("dynrefer")
        )
    )
    text_processor: SplitProcessorsConfig = field(
        default_factory=lambda: SplitProcessorsConfig(
            ProcessorConfig("blip_caption"), ProcessorConfig("blip_caption")
        )
    )
    build_info: BuildInfoConfig = field(default_factory=BuildInfoConfig)


@dataclass
class RunConfig:
    """Training, evaluation and where their files go.

    ``task`` "dynrefer" chooses by the name of the evaluated dataset, as the release does; ``tasks``
    lists tasks explicitly. ``view_selectors`` maps a task to its own selector in evaluation.
    ``report_regions`` is how many regions a task the page of an evaluation shows; 0 for no page.
    """

    runner: str = "epoch"
    task: str = "dynrefer"
    tasks: list[str] | None = None
    lr_sched: str = "linear_warmup_cosine_lr"
    init_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_lr: float = -1.0
    warmup_steps: int = 5000
    weight_decay: float = 0.05
    beta2: float = 0.999
    max_grad_norm: float | None = None
    max_epoch: int = 5
    batch_size_train: int = 64
    batch_size_eval: int = 64
    accum_grad_iters: int = 1
    split_size: int = 20
    num_workers: int = 4
    seed: int = 42
    output_dir: str = MISSING
    amp: bool = True
    precision: str = "bf16"
    resume_ckpt_path: str | None = None
    load_ckpt_path: Any = None
    evaluate: bool = False
    eval_dataset_name: str | None = None
    train_view_selector: SelectorConfig = field(
        default_factory=lambda: SelectorConfig("stochastic")
    )
    view_selector: SelectorConfig = field(default_factory=SelectorConfig)
    view_selectors: dict[str, SelectorConfig] = field(default_factory=dict)
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    valid_splits: list[str] = field(default_factory=lambda: ["val"])
    test_splits: list[str] = field(default_factory=list)
    eval_every: int = 1
    save_every: int | None = None
    log_freq: int = 50
    report_regions: int = 27
    wandb: bool = False
    device: str = "auto"
    threads: int | None = None


@dataclass
class Config:
    """The whole configuration; ``base`` lists files that are merged first."""

    model: ModelConfig = field(default_factory=ModelConfig)
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)


# The least value of the keys that are counts.
LEAST: dict[str, int] = {
    "model.num_views": 1,
    "model.image_size": 1,
    "run.max_epoch": 1,
    "run.batch_size_train": 1,
    "run.batch_size_eval": 1,
    "run.accum_grad_iters": 1,
    "run.split_size": 1,
    "run.eval_every": 1,
    "run.log_freq": 1,
    "run.num_workers": 0,
    "run.warmup_steps": 0,
    "run.seed": 0,
    "run.report_regions": 0,
}

# The release's flat model keys and where their values live here.
RELEASE_KEYS: dict[str, str] = {
    "model.vit_model": "model.vision.name",
    "model.img_size": "model.image_size",
    "model.vit_precision": "model.vision.precision",
    "model.freeze_vit": "model.vision.freeze",
    "model.use_grad_checkpoint": "model.vision.gradient_checkpointing",
    "model.num_query_token": "model.qformer.num_query_tokens",
    "model.t5_model": "model.caption_decoder.language_model",
    "model.llm_model": "model.caption_decoder.language_model",
    "model.finetune_llm": "model.caption_decoder.lora",
    "model.max_txt_len": "model.caption_decoder.max_text_length",
    "model.tag_list": "model.vocabulary.tags",
    "model.ovad_file": "model.vocabulary.attributes",
    "model.ov_file": "model.vocabulary.classes",
    "model.tag_thr": "model.tag_threshold",
    "model.split_size": "run.split_size",
    **{f"model.{key}": f"model.generation.{key}" for key in GenerationConfig.__dataclass_fields__},
}

# Release values that have another name here.
RELEASE_VALUES: dict[str, dict[Any, Any]] = {
    "model.vision.name": {
        "eva_clip_g": "eva_giant_patch14_clip_224",
        "clip_L": "vit_large_patch14_clip_quickgelu_224",
    },
    # What its list [embed_tokens, lm_head, q, v] comes to: LAVIS's T5 registers its embedding under
    # another name first, and Vicuna has no layers called q and v.
    "model.caption_decoder.lora": {
        True: {"target_modules": r"model\.embed_tokens|lm_head|.*\.(q|v)"},
        False: None,
    },
    "run.runner": {"dynrefer": "epoch"},
}

# Release keys that nothing depends on here, and the only values they may have.
RELEASE_FIXED: dict[str, tuple[Any, ...]] = {
    "model.tag_bert_config": (),
    "model.drop_path_rate": (0,),
    "model.first_word_control": (False,),
    "model.apply_lemmatizer": (False,),
    "run.report_metric": (True,),
    "run.visualize": (False,),
    # torchrun's environment says what these three say in the release
    "run.world_size": (),
    "run.dist_url": (),
    "run.distributed": (),
}
