"""The trained head beside a run's features: written, read, and refused where it cannot be."""

import numpy as np
import pytest
import torch
from torch import nn

from lpft.errors import InputError
from lpft.results.run import read_head_rows, write_head


@pytest.mark.parametrize("bias", [True, False])
def test_the_rows_come_back_as_they_were(tmp_path, bias):
    (tmp_path / "features").mkdir()
    head = nn.Linear(5, 3, bias=bias)
    write_head(tmp_path, head)
    found = read_head_rows(tmp_path)
    assert found.dtype == np.float32
    assert torch.equal(torch.from_numpy(found), head.weight.detach())


def test_a_missing_or_damaged_head_is_named(tmp_path):
    with pytest.raises(InputError, match=r"head.safetensors' is not there.*--save-features"):
        read_head_rows(tmp_path)
    (tmp_path / "features").mkdir()
    (tmp_path / "features/head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"head.safetensors' cannot be read .*train the run again"):
        read_head_rows(tmp_path)
