import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.runtime.device import resolve_device


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        assert resolve_device("auto") == torch.device(expected)
        assert resolve_device("cpu") == torch.device("cpu")


def test_refuses_a_gpu_that_is_not_there_and_unknown_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda, but PyTorch finds no usable GPU: use device=cpu"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="device=cdua: did you mean 'cuda'"):
        resolve_device("cdua")
