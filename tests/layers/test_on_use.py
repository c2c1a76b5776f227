"""Weights that are read when their layer first runs."""

from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from safetensors.torch import save_file
from torch import nn

from versatile_diffusion.interop.read.tensors import open_tensors
from versatile_diffusion.layers.on_use import LoadsOnUse, unread


class Pair(LoadsOnUse, ConfigMixin):
    """Two layers of which one may be used alone, and a buffer."""

    @register_to_config
    def __init__(self, width: int = 3):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.register_buffer("mean", torch.zeros(width))


def waiting(weights) -> Pair:
    with torch.device("meta"):
        pair = Pair()
    pair.mean = torch.zeros(3)
    return pair.load_on_use(weights)


@pytest.fixture
def whole() -> Pair:
    torch.manual_seed(0)
    pair = Pair()
    pair.mean += 1
    return pair


def test_only_what_runs_is_read(whole):
    pair, x = waiting(whole.state_dict()), torch.randn(2, 3)
    assert set(pair.unread) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert torch.equal(pair.mean, whole.mean)
    assert torch.equal(pair.first(x), whole.first(x))
    assert set(pair.unread) == {"second.weight", "second.bias"}
    assert not pair.first._forward_pre_hooks
    assert torch.equal(pair.second(pair.first(x)), whole.second(whole.first(x)))
    assert not pair.unread


def test_moves_reach_what_is_not_read_yet(whole):
    pair = waiting(whole.state_dict())
    pair.first(torch.randn(1, 3))
    pair.to(torch.float16)
    assert (pair.device, pair.dtype) == (torch.device("cpu"), torch.float16)
    pair.load_now()
    assert {tensor.dtype for tensor in pair.state_dict().values()} == {torch.float16}
    assert torch.equal(pair.second.weight, whole.second.weight.half())


def test_a_parent_moves_it_too(whole):
    parent = nn.ModuleDict({"pair": waiting(whole.state_dict())})
    parent.half()
    assert set(unread(parent)) == {f"pair.{name}" for name in whole.state_dict() if name != "mean"}
    parent["pair"].load_now()
    assert torch.equal(parent["pair"].first.bias, whole.first.bias.half())


def test_saving_reads_all_and_a_folder_can_be_opened_on_use(whole, tmp_path):
    waiting(whole.state_dict()).save_pretrained(tmp_path)
    pair = Pair.from_pretrained(tmp_path, on_use=open_tensors, dtype=torch.float16)
    assert (pair.first.weight.is_meta, pair.training) == (True, False)
    assert torch.equal(pair.mean, whole.mean.half())
    assert torch.equal(pair.load_now().first.weight, whole.first.weight.half())
    assert torch.equal(Pair.from_pretrained(tmp_path).second.bias, whole.second.bias)


def test_a_linear_map_stored_as_a_convolution(whole):
    state = whole.state_dict()
    state["first.weight"] = state["first.weight"][..., None, None]
    assert torch.equal(waiting(state).load_now().first.weight, whole.first.weight)


def test_misfits_are_named_before_anything_is_read(whole, tmp_path):
    state = whole.state_dict()
    del state["first.bias"]
    state |= {"second.weight": torch.zeros(3, 4), "third.weight": torch.zeros(1)}
    save_file(state, tmp_path / "x.safetensors")
    said = r"first.bias is missing; second.weight is \(3, 4\), not \(3, 3\); third.weight is unknown"
    with pytest.raises(ValueError, match=said):
        waiting(open_tensors(tmp_path / "x.safetensors"))
