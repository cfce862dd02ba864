import pytest
import torch

from scripts import benchmark_deformable


@pytest.mark.parametrize("name", list(benchmark_deformable.FORMS))
def test_forms_agree(name: str) -> None:
    data = benchmark_deformable.inputs(2, 16, 5, 4, torch.float32, "cpu")
    form = benchmark_deformable.FORMS[name]
    assert benchmark_deformable.disagreement(form, data, 4, 5) < 1e-5
