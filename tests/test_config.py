import pytest

from dynrefer.config import ConfigError, load_config, require, to_plain


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
    write(tmp_path, "two.yaml", "datasets: {b: {}, a: {build_info: {annotations: {val: [z]}}}}")
    config = load_config(write(tmp_path, "a.yaml", "base: [one.yaml, two.yaml]"))
    assert config.datasets.a.build_info.annotations.val == ["z"]
    assert set(config.datasets) == {"a", "b"}


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
        ({"a.yaml": "just a text"}, "a.yaml: unknown key 'just a text'; valid: datasets, model"),
        ({"a.yaml": "7"}, "a.yaml: cannot be read as YAML: .*int"),
        ({"a.yaml": b"run: {task: \xff}"}, "a.yaml: cannot be read as YAML"),
        ({"a.yaml": "base: {b: c}"}, "a.yaml: base: a list of files is expected"),
        ({"a.yaml": "base: [1]"}, "a.yaml: base: a list of files is expected"),
        ({"a.yaml": "model:"}, "a.yaml: model: a mapping is expected, found None"),
        ({"a.yaml": "model: 3"}, "a.yaml: model: a mapping is expected, found 3"),
        ({"a.yaml": "run: 3"}, "a.yaml: run: "),
        ({"a.yaml": "model: {vision: 3}"}, "a.yaml: model.vision: "),
        ({"a.yaml": "run: {max_epoch: many}"}, "a.yaml: run.max_epoch: .*'many'.*Integer"),
        ({"a.yaml": "run: {tasks: {a: b}}"}, "a.yaml: run.tasks: "),
        ({"a.yaml": "run: {view_selectors: {a: b}}"}, "a.yaml: run.view_selectors.a: "),
        ({"a.yaml": "run: {seed: '${nothing}'}"}, "a.yaml: run.seed: .*nothing"),
        ({"a.yaml": "run: {batch_size_eval: 0}"}, "run.batch_size_eval: 0; valid is .* from 1 on"),
        ({"a.yaml": "run: {seed: -1}"}, "run.seed: -1; valid is a whole number from 0 on"),
        ({"a.yaml": "model: {num_views: -1}"}, "model.num_views: -1; valid is"),
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
