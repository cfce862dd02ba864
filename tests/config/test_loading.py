from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from dynrefer.config import ConfigError, load_config, require, to_plain
from dynrefer.config.schema import Config, SelectorConfig
from dynrefer.config.values import Valid


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def empty(tmp_path):
    return write(tmp_path, "empty.yaml", "run: {}\n")


def test_bases_in_order_and_the_file_last(tmp_path):
    write(tmp_path, "one.yaml", "run: {seed: 1, max_epoch: 1, batch_size_train: 1}")
    write(tmp_path, "two.yaml", "run: {max_epoch: 2, batch_size_train: 2}")
    path = write(tmp_path, "a.yaml", "base: [one.yaml, two.yaml]\nrun: {batch_size_train: 3}")
    run = load_config(path).run
    assert (run.seed, run.max_epoch, run.batch_size_train) == (1, 2, 3)


def test_nested_bases_and_a_base_used_twice(tmp_path):
    write(tmp_path, "base/root.yaml", "run: {seed: 1, max_epoch: 1}\nmodel: {num_views: 2}")
    write(tmp_path, "base/left.yaml", "base: root.yaml\nrun: {seed: 2}")
    write(tmp_path, "base/right.yaml", "base: [root.yaml]\nrun: {max_epoch: 3}")
    path = write(tmp_path, "a.yaml", "base: [base/left.yaml, base/right.yaml]")
    config = load_config(path)
    assert (config.run.seed, config.run.max_epoch, config.model.num_views) == (1, 3, 2)


def test_bases_are_found_from_the_working_directory_first(tmp_path, monkeypatch):
    write(tmp_path, "work/base.yaml", "run: {seed: 1}")
    path = write(tmp_path, "work/inner/a.yaml", "base: base.yaml")
    beside = write(tmp_path, "work/inner/base.yaml", "run: {seed: 2}")
    monkeypatch.chdir(tmp_path / "work")
    assert load_config(path).run.seed == 1
    (tmp_path / "work/base.yaml").unlink()
    assert load_config(path).run.seed == 2
    beside.unlink()
    with pytest.raises(FileNotFoundError, match="no configuration file at base.yaml"):
        load_config(path)


def test_lists_and_named_datasets_merge(tmp_path):
    write(tmp_path, "one.yaml", "datasets: {a: {build_info: {annotations: {val: [x, y]}}}}")
    write(tmp_path, "two.yaml", "datasets: {a: {build_info: {annotations: {val: [z]}}}}")
    config = load_config(write(tmp_path, "a.yaml", "base: [one.yaml, two.yaml]"))
    assert config.datasets.a.build_info.annotations.val == ["z"]
    assert list(config.datasets) == ["a"]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"a.yaml": "base: a.yaml"}, "a.yaml: `base` refers back to itself"),
        (
            {"a.yaml": "base: b.yaml", "b.yaml": "base: c.yaml", "c.yaml": "base: b.yaml"},
            "b.yaml: `base` refers back to itself through .*c.yaml",
        ),
        ({"a.yaml": "run: [\n"}, "a.yaml: cannot be read as YAML"),
        (
            {"a.yaml": "run: {seed: 1}\nrun: {seed: 2}"},
            "a.yaml: cannot be read as YAML: .*duplicate key",
        ),
        ({"a.yaml": "- run\n- model"}, "a.yaml: a mapping with model, datasets and run"),
        ({"a.yaml": "just a text"}, "a.yaml: a mapping with model, datasets and run"),
        ({"a.yaml": "run: &a {tasks: *a}"}, "a.yaml: .* refers back to itself"),
        ({"a.yaml": b"run: {task: \xff}"}, "a.yaml: cannot be read as YAML"),
        ({"a.yaml": "base: {b: c}"}, "a.yaml: base: a list of files is expected"),
        ({"a.yaml": "base: [[b]]"}, "a.yaml: base: a list of files is expected"),
        ({"a.yaml": "model:"}, "a.yaml: model: a mapping is expected, found None"),
        ({"a.yaml": "model: 3"}, "a.yaml: model: a mapping is expected, found 3"),
        ({"a.yaml": "run: 3"}, "a.yaml: run: "),
        ({"a.yaml": "model: {vision: 3}"}, "a.yaml: model.vision: "),
        (
            {"a.yaml": "run: {max_epoch: many}"},
            "run.max_epoch: 'many'; valid is a whole number",
        ),
        ({"a.yaml": "run: {tasks: {a: b}}"}, "a.yaml: run.tasks: "),
        ({"a.yaml": "run: {view_selectors: {a: b}}"}, "a.yaml: run.view_selectors.a: "),
        ({"a.yaml": "run: {seed: '${nothing}'}"}, "a.yaml: run.seed: .*nothing"),
        ({"a.yaml": "run: {batch_size_eval: 0}"}, "run.batch_size_eval: 0; valid is .* from 1 on"),
        (
            {"a.yaml": "run: {seed: -1}"},
            "run.seed: -1; valid is a whole number from 0 to 429",
        ),
        ({"a.yaml": "run: {amp: 2}"}, "a.yaml: run.amp: 2; valid is true or false"),
        ({"a.yaml": "run: {seed: true}"}, "a.yaml: run.seed: .*'true'"),
        (
            {"a.yaml": "base: b.yaml", "b.yaml": "model: {tag_threshold: 5}"},
            "b.yaml: model.tag_threshold: 5.0; valid is a number from 0 to 1",
        ),
        (
            {"a.yaml": "base: b.yaml", "b.yaml": "run: {max_epoc: 1}"},
            "b.yaml: unknown key 'run.max_epoc'; did you mean 'max_epoch'",
        ),
        (
            {"a.yaml": "datasets: {x: {build_infos: {}}}"},
            "unknown key 'datasets.x.build_infos'; did you mean 'build_info'",
        ),
        ({"a.yaml": "modle: {}"}, "unknown key 'modle'; did you mean 'model'"),
        ({"a.yaml": "model: {vison: {}}"}, "unknown key 'model.vison'; did you mean 'vision'"),
        ({"a.yaml": "model: {tag_thrr: 1}"}, "unknown key 'model.tag_thrr'; did you mean 'tag_thr"),
    ],
)
def test_unusable_files(tmp_path, files, match):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no configuration file at"):
        load_config(tmp_path / name)


def test_missing_base(tmp_path):
    path = write(tmp_path, "a.yaml", "base: [nowhere/b.yaml]")
    with pytest.raises(FileNotFoundError, match="no configuration file at nowhere/b.yaml"):
        load_config(path)


def test_dotted_options(empty):
    config = load_config(
        empty,
        [
            "run.init_lr=2e-3",
            "run.tasks=[region_captioning,region_recognition]",
            "model.vision.options.depth=2",
            "datasets[vg1.2].build_info.max_imgs=10",
            "run.view_selector={name: task_prior, ratios: [0.5, 1.0]}",
            "run.load_ckpt_path=a.pth",
        ],
    )
    assert config.run.init_lr == 2e-3
    assert config.run.tasks == ["region_captioning", "region_recognition"]
    assert config.model.vision.options == {"depth": 2}
    assert config.datasets["vg1.2"].build_info.max_imgs == 10
    assert config.run.view_selector.ratios == [0.5, 1.0]
    assert config.run.load_ckpt_path == "a.pth"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["run.max_epoch"], "--options: 'run.max_epoch' has no value; write key=value"),
        (["run.seed", "1", "run.amp"], "--options: 'run.amp' has no value"),
        (["run.seed=1", "run.amp"], "--options: 'run.amp' is not of the form key=value"),
        (["run.max_epoch=x"], "--options: run.max_epoch: .*'x'"),
        (["run.max_epochs=3"], "--options: unknown key 'run.max_epochs'; did you mean 'max_epoch'"),
        (["run.tasks=[a"], r"--options: run.tasks=\[a: cannot be read"),
        (["=3"], "--options: unknown key ''; valid: datasets, model, run"),
        (["run.log_freq=0"], "run.log_freq: 0; valid is"),
    ],
)
def test_unusable_options(empty, options, match):
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        load_config(empty, options)


def test_require(empty):
    config = load_config(empty)
    assert require(config, "run.seed") == 42
    for key in ("run.output_dir", "model.vocabulary.tags", "run.load_ckpt_path"):
        with pytest.raises(ConfigError, match=rf"{key} is not set; .* --options {key}=..."):
            require(config, key)


def test_to_plain_holds_what_is_not_set(empty):
    plain = to_plain(load_config(empty))
    assert plain["run"]["output_dir"] == "???" and plain["run"]["seed"] == 42
    assert type(plain["model"]["vision"]) is dict


# Characters that YAML would take for something else.
TEXTS = ["2024_06_01", "71e9642", "007", "1.10", "no", "0x1f", "12:30", "a #2", "{a}", "[a", "'7'"]


@pytest.mark.parametrize("text", TEXTS)
def test_options_of_text_keys_are_the_characters_typed(empty, text):
    options = [f"run.output_dir={text}", f"run.load_ckpt_path={text}", f"run.valid_splits=[{text}]"]
    options += [f"datasets[{text}].build_info.image_root={text}", f"model.tag_list={text}"]
    if text == "[a":  # the beginning of a list, or of a key in brackets
        options = options[:1]
    config = load_config(empty, options)
    assert config.run.output_dir == text
    if len(options) > 1:
        assert config.run.load_ckpt_path == config.model.vocabulary.tags == text
        assert text in ("{a}", "'7'") or config.run.valid_splits == [text]
        assert config.datasets[text].build_info.image_root == text


@pytest.mark.parametrize("text", TEXTS[:6])
def test_files_keep_the_characters_of_text_keys(tmp_path, text):
    body = f"""
run:
  output_dir: {text}
  valid_splits: [{text}]
  load_ckpt_path: [{text}]
  eval_dataset_name: "{text}"
datasets: {{{text}: {{build_info: {{annotations: {{{text}: [{text}]}}}}}}}}
model: {{tag_list: {text}}}
"""
    config = load_config(write(tmp_path, "a.yaml", body))
    run, info = config.run, config.datasets[text].build_info
    assert run.output_dir == run.eval_dataset_name == config.model.vocabulary.tags == text
    assert run.valid_splits == run.load_ckpt_path == info.annotations[text] == [text]
    OmegaConf.save(config, tmp_path / "b.yaml")
    assert load_config(tmp_path / "b.yaml") == config


def test_other_keys_are_what_yaml_makes_of_them(tmp_path):
    body = "model: {vision: {options: {depth: 2, a: no, b: 1e-3, c: 1_0}}}"
    path = write(tmp_path, "a.yaml", body)
    options = ["model.vision.options.d=[1, x]", "model.vision.options.e={f: null}"]
    config = load_config(path, [*options, "run.threads=null", "run.eval_dataset_name="])
    values = {"depth": 2, "a": False, "b": 1e-3, "c": 10, "d": [1, "x"], "e": {"f": None}}
    assert config.model.vision.options == values
    assert config.run.threads is config.run.eval_dataset_name is None


def test_another_name_drops_the_arguments_of_the_one_before(tmp_path):
    write(
        tmp_path,
        "base.yaml",
        """
run:
  view_selector: {name: task_prior, ratios: [0.5, 1.0]}
  view_selectors: {ovad: {name: task_prior, ratios: [0.1, 0.2]}}
model: {vision: {name: a, options: {depth: 2}, freeze: false}, text_encoder: {options: {x: 1}}}
""",
    )
    path = write(
        tmp_path,
        "a.yaml",
        """
base: base.yaml
run: {view_selector: {name: image_prior}, view_selectors: {ovad: {name: stochastic}}}
model: {vision: {name: b}, text_encoder: {name: word, options: {y: 2}}}
""",
    )
    config = load_config(path)
    assert config.run.view_selector == SelectorConfig("image_prior")
    assert config.run.view_selectors.ovad == SelectorConfig("stochastic")
    assert config.model.vision.options == {} and config.model.vision.freeze is False
    assert config.model.text_encoder.options == {"y": 2}
    same = load_config(tmp_path / "base.yaml", ["run.view_selector.name=task_prior"])
    assert same.run.view_selector.ratios == [0.5, 1.0]
    options = ["run.view_selector.ratios=[0, 1]", "run.view_selector.name=task_prior"]
    assert load_config(path, options).run.view_selector.ratios == [0.0, 1.0]


def keys_with_limits(kind, section=""):
    """Every number and choice of the schema: its key and what it takes."""
    for field in fields(kind):
        hint = get_type_hints(kind)[field.name]
        inner = [one for one in (hint, *get_args(hint)) if is_dataclass(one)]
        if inner and "SelectorConfig" not in str(hint):
            name = "datasets.d" if field.name == "datasets" else f"{section}{field.name}"
            yield from keys_with_limits(inner[0], f"{name}.")
        elif inner:
            yield f"{section}{field.name}.ratios", hint, Valid(0, 1)
        elif {int, float} & {hint, *get_args(hint)} or "valid" in field.metadata:
            yield f"{section}{field.name}", hint, field.metadata.get("valid")


LIMITS = list(keys_with_limits(Config))


def test_every_number_of_the_schema_has_limits():
    assert len(LIMITS) > 50 and [key for key, _, valid in LIMITS if valid is None] == []


@pytest.mark.parametrize(("key", "hint", "valid"), LIMITS, ids=[key for key, _, _ in LIMITS])
def test_values_outside_of_the_limits_are_refused(empty, key, hint, valid):
    wrong = [-7, 10.0**12] if valid.most < 1e12 else [-7]
    if float in (hint, *get_args(hint)):
        wrong += ["nan", "inf", "-inf"]
    if valid.names or "SelectorConfig" in str(hint):
        wrong = ["[0.5, 1.5]"] if not valid.names else ["other"]
    if key.endswith("length_penalty"):
        wrong = [-101, 101, "nan"]
    for value in wrong:
        value = f"{value:.0f}" if isinstance(value, float) else value
        option = f"{key}={value}"
        if "view_selectors" in key:
            option = f"run.view_selectors.t={{name: task_prior, ratios: {value}}}"
        with pytest.raises(ConfigError, match=r"--options: [\w.]+: .*; valid is "):
            load_config(empty, [option])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["run.init_lr=0"], "run.init_lr: 0.0; valid is a number above 0 to 1"),
        (["run.num_workers=300"], "run.num_workers: 300; valid is a whole number from 0 to 128"),
        (["model.min_length=9", "model.max_new_tokens=8"], "min_length: 9; valid is at most max"),
        ([f"model.loss.{name}=0" for name in ("caption", "tag", "region_text")], "are all 0"),
        (["run.min_lr=1e-3"], "run.min_lr: 0.001; valid is at most init_lr, 0.0001"),
        (["run.warmup_lr=-0.5"], "run.warmup_lr: -0.5; valid is a number from 0 to 1, or -1"),
        (["model.tag_decoder.heads=3"], "model.tag_decoder.width: 256; valid is a multiple of he"),
        (["model.qformer.hidden_size=5"], "model.qformer.hidden_size: 5; valid is a multiple"),
        (["datasets.d.build_info.max_imgs=2.5"], "max_imgs: 2.5; valid is a whole number"),
        (["run.threads=${run.seed}", "run.seed=2000"], "run.threads: 2000; valid is a whole num"),
        (["run.precision=fp8"], "run.precision: fp8; valid is bf16, fp32, fp16"),
        (["run.max_epoch=2.5"], "--options: run.max_epoch: '2.5'; valid is a whole number$"),
        (["run.max_epoch="], "--options: run.max_epoch: None; valid is a whole number$"),
        (["run.threads=x"], "run.threads: 'x'; valid is a whole number or null$"),
        (["run.valid_splits=val"], r"run.valid_splits: 'val'; valid is a list, \[a, b\]$"),
        (["run.view_selector=stochastic"], "view_selector: 'stochastic'; valid is a mapping"),
        (["datasets.d=3"], "datasets.d: 3; valid is a mapping"),
        (["run.output_dir=a\0b"], r"run.output_dir: 'a\\x00b'; valid is text in UTF-8"),
        (["run.tasks=[\udcff]"], r"run.tasks: '\\udcff'; valid is text in UTF-8"),
        (["run..seed=1"], "unknown key 'run..seed'"),
        (["run[seed=1"], "unknown key"),
        (
            [
                "datasets.coco.build_info.annotations={val: [a.json]}",
                "datasets.coca.build_info.max_imgs=3",
            ],
            "datasets.coca has neither annotations nor shards; did you mean 'coco'",
        ),
    ],
)
def test_values_that_make_no_sense(empty, options, match):
    with pytest.raises(ConfigError, match=match):
        load_config(empty, options)
