import pytest
import torch
from omegaconf import OmegaConf

from dynrefer.runners.precision import autocast, autocast_dtype


def config(precision, amp=True):
    return OmegaConf.create({"run": {"precision": precision, "amp": amp}})


@pytest.mark.parametrize(
    ("precision", "amp", "device", "dtype"),
    [
        ("bf16", True, "cuda", torch.bfloat16),
        ("fp16", True, "cuda", torch.float16),
        ("fp32", True, "cuda", None),
        ("bf16", False, "cuda", None),
        ("bf16", True, "cpu", None),
    ],
)
def test_autocast_dtype(precision, amp, device, dtype):
    assert autocast_dtype(config(precision, amp), torch.device(device)) == dtype


def test_no_autocast_on_the_cpu():
    with autocast(config("bf16"), torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
