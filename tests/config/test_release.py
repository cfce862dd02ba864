"""The release's configuration files, their keys and their ways."""

import pytest
from omegaconf import OmegaConf

from dynrefer.config import ConfigError, load_config
from tests.config.test_loading import write

# The release's keys and values, as its files spell them.
RELEASE_MODEL = """
model:
  arch: dynrefer_t5
  num_views: 3
  finetune_llm: False
  vit_model: "eva_clip_g"
  img_size: 224
  drop_path_rate: 0
  use_grad_checkpoint: False
  vit_precision: "fp16"
  freeze_vit: True
  tag_bert_config: "somewhere/tag_bert_config.json"
  tag_list: "somewhere/ram_tag_list.txt"
  num_query_token: 32
  t5_model: "google/flan-t5-xl"
  tag_thr: 0.7
  first_word_control: False
  apply_lemmatizer: False
  max_txt_len: 32
  num_return_sequences: 1
  do_sample: False
  num_beams: 2
  max_new_tokens: 20
  min_length: 1
  length_penalty: 0
  repetition_penalty: 1.5
  top_p: 0.9
  temperature: 1
"""
RELEASE_DATASET = """
datasets:
  vg1.2:
    vis_processor:
      train: {name: dynrefer, image_size: 224}
      eval: {name: dynrefer, image_size: 224}
    text_processor:
      train: {name: blip_caption}
      eval: {name: blip_caption}
    build_info:
      num_views: 3
      with_seg: False
      max_imgs: 1e7
      max_objs: 1e7
      obj_lvl: True
      tag_list: "somewhere/ram_tag_list.txt"
      annotations:
        train: [ "data/vg/train.json" ]
        val: [ "data/vg/test.json" ]
"""
RELEASE_RUN = """
run:
  task: dynrefer
  lr_sched: "linear_warmup_cosine_lr"
  init_lr: 1e-4
  min_lr: 0
  weight_decay: 0.05
  max_epoch: 5
  batch_size_train: 64
  batch_size_eval: 64
  num_workers: 4
  warmup_steps: 5000
  seed: 42
  output_dir: "output/train"
  amp: True
  resume_ckpt_path: null
  evaluate: False
  eval_dataset_name: "vg1.0"
  load_ckpt_path: null
  report_metric: True
  visualize: False
  train_splits: ["train"]
  valid_splits: ["val"]
  device: "cuda"
  world_size: 1
  dist_url: "env://"
  distributed: True
"""
RELEASE_TRAINING = """
base: ["base/run.yaml",
       "base/model.yaml",
       "base/dataset.yaml",
]

model:
  tag_thr: 0.76

run:
  max_epoch: 3
  eval_dataset_name: "vg1.2"
"""


@pytest.fixture
def release(tmp_path):
    write(tmp_path, "base/run.yaml", RELEASE_RUN)
    write(tmp_path, "base/model.yaml", RELEASE_MODEL)
    write(tmp_path, "base/dataset.yaml", RELEASE_DATASET)
    return write(tmp_path, "train.yaml", RELEASE_TRAINING)


def test_release_files(release):
    config = load_config(release)
    model = config.model
    assert model.vision.name == "eva_giant_patch14_clip_224"
    assert (model.vision.precision, model.vision.freeze) == ("fp16", True)
    assert model.vision.gradient_checkpointing is False
    assert (model.image_size, model.num_views) == (224, 3)
    assert model.qformer.num_query_tokens == 32
    assert model.caption_decoder.language_model == "google/flan-t5-xl"
    assert model.caption_decoder.max_text_length == 32
    assert model.vocabulary.tags == "somewhere/ram_tag_list.txt"
    assert model.tag_threshold == 0.76
    assert (model.generation.num_beams, model.generation.max_new_tokens) == (2, 20)
    assert (model.generation.length_penalty, model.generation.temperature) == (0.0, 1.0)
    assert list(config.datasets) == ["vg1.2"]
    build_info = config.datasets["vg1.2"].build_info
    assert build_info.max_imgs == 1e7 and build_info.annotations.val == ["data/vg/test.json"]
    assert config.datasets["vg1.2"].vis_processor.train.image_size == 224
    assert (config.run.max_epoch, config.run.init_lr, config.run.warmup_lr) == (3, 1e-4, -1)
    assert config.run.eval_dataset_name == "vg1.2" and config.run.device == "cuda"


def test_release_pairs_as_options(release):
    options = ["run.max_epoch", "7", "model.num_beams", "5", "run.load_ckpt_path", "a=b.pth"]
    config = load_config(release, options)
    assert (config.run.max_epoch, config.model.generation.num_beams) == (7, 5)
    assert config.run.load_ckpt_path == "a=b.pth"


@pytest.mark.parametrize("name", ["vicuna", "t5"])
def test_release_language_models(tmp_path, name):
    key = {"vicuna": "llm_model", "t5": "t5_model"}[name]
    path = write(tmp_path, "a.yaml", f"model: {{arch: dynrefer_{name}, {key}: some/model}}")
    assert load_config(path).model.caption_decoder.language_model == "some/model"


@pytest.mark.parametrize("entry", ["True", "False"])
def test_release_lora(tmp_path, entry):
    path = write(tmp_path, "a.yaml", f"model: {{finetune_llm: {entry}}}")
    lora = load_config(path, ["model.finetune_llm=True"]).model.caption_decoder.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (64, 128, 0)
    assert (load_config(path).model.caption_decoder.lora is None) is (entry == "False")


def test_release_split_size_moves_to_the_run(tmp_path):
    assert load_config(write(tmp_path, "a.yaml", "model: {split_size: 7}")).run.split_size == 7


@pytest.mark.parametrize("entry", ["drop_path_rate: 0.1", "first_word_control: True"])
def test_release_values_that_are_not_supported(tmp_path, entry):
    path = write(tmp_path, "a.yaml", f"model: {{{entry}}}")
    with pytest.raises(ConfigError, match=rf"a.yaml: model.{entry.split(':')[0]}: .*; only "):
        load_config(path)


def test_options_take_release_keys(tmp_path):
    empty = write(tmp_path, "empty.yaml", "run: {}")
    config = load_config(empty, ["model.vit_model=eva_clip_g", "model.tag_thr=0.8"])
    assert config.model.vision.name == "eva_giant_patch14_clip_224"
    assert config.model.tag_threshold == 0.8


def test_saved_configuration_loads_as_it_was(release, tmp_path):
    config = load_config(release, ["run.tasks=[region_captioning]"])
    OmegaConf.save(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
