import pytest

import dynrefer.tags  # noqa: F401  (as do converters)
from dynrefer.registry import KINDS, Registry, UnknownNameError, nearest, registry
from dynrefer.runners import entry  # noqa: F401  (registers every part)

RELEASE_NAMES = {
    "model": ["dynrefer_t5", "dynrefer_vicuna"],
    "processor": ["blip_caption", "dynrefer"],
    "lr_schedule": ["linear_warmup_cosine_lr"],
    "dataset": ["dynrefer"],
    "view_selector": ["image_prior", "stochastic", "task_prior"],
    "task": [
        "attribute_detection",
        "dense_captioning",
        "region_captioning",
        "region_recognition",
    ],
    "runner": ["epoch"],
    "text_encoder": ["eva_clip"],
    "tag_parser": ["rules", "spacy"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_entry_points_register_every_part(kind):
    assert set(RELEASE_NAMES[kind]) <= set(registry.names(kind))


def test_get_returns_what_was_registered():
    parts = Registry()

    @parts.register("task", "counting")
    class Counting:
        pass

    assert parts.get("task", "counting") is Counting
    assert parts.names("task") == ["counting"]
    assert parts.names("model") == []


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(KeyError, match="no task is registered as 'region_captionin'; did you mean"):
        registry.get("task", "region_captionin")
    with pytest.raises(KeyError) as error:
        registry.get("model", "zzz")
    assert "did you mean" not in str(error.value) and "dynrefer_t5" in str(error.value)


def test_the_error_reads_as_it_is_written():
    with pytest.raises(UnknownNameError) as error:
        registry.get("runner", "epochs")
    assert (
        str(error.value)
        == "no runner is registered as 'epochs'; did you mean 'epoch'? valid: epoch"
    )


def test_unknown_kind_suggests_the_nearest():
    for use in (registry.names, lambda kind: registry.get(kind, "x")):
        with pytest.raises(KeyError, match="unknown kind 'modell'; did you mean 'model'"):
            use("modell")
    with pytest.raises(KeyError, match="unknown kind 'views'"):
        registry.register("views", "x")


def test_a_name_is_taken_once():
    parts = Registry()
    part = parts.register("model", "one")(object())
    assert parts.register("model", "one")(part) is part
    with pytest.raises(KeyError, match="model 'one' is registered already"):
        parts.register("model", "one")(object())
    assert parts.get("model", "one") is part


def test_kinds_do_not_share_names():
    parts = Registry()
    parts.register("model", "dynrefer")("a model")
    parts.register("dataset", "dynrefer")("a dataset")
    assert parts.get("model", "dynrefer") == "a model"


def test_nearest_without_valid_names():
    assert nearest("anything", []) == "valid: (none)"
