"""The tables of names are one-to-one, and carry every tensor there and back unchanged."""

from __future__ import annotations

import pytest
import torch

from tests.diffuser.conftest import randomised, tiny
from versatile_diffusion.interop.names.keymap import DIFFUSER, to_official, to_ours
from versatile_diffusion.interop.official import build_diffuser

CONFIG = {
    "image_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "with_attn": [True, False],
    "second_dim": [4, 4],
    "num_heads": 2,
    "context_dim": 12,
    "text_channels": 24,
}


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    unet = tiny(
        context_streams={"image": {"width": 12}, "text": {"width": 12}}, width=32, attends=[True, False], norm_groups=32
    )
    return to_official(randomised(unet).state_dict())


def test_there_and_back_again(official):
    back = to_official(to_ours(official))
    assert list(back) == list(official)
    assert all(torch.equal(back[name], tensor) for name, tensor in official.items())


def test_every_name_is_known_to_exactly_one_row(official):
    for name in official:
        ours = [rule.to_ours(name) for rule in DIFFUSER if rule.to_ours(name) is not None]
        assert len(ours) == 1, name
        assert [rule.to_official(ours[0]) for rule in DIFFUSER if rule.to_official(ours[0]) is not None] == [name]


@pytest.mark.parametrize(
    ("official", "ours", "shape"),
    [
        ("diffuser.image.time_embed.2.bias", "time_embed.mlp.2.bias", (4,)),
        ("diffuser.image.data_blocks.3.0.op.weight", "data.image.3.down.weight", (4, 4, 3, 3)),
        ("diffuser.image.data_blocks.20.0.2.weight", "data.image.20.out.weight", (4, 4, 3, 3)),
        ("diffuser.text.data_blocks.7.0.in_layers.2.weight", "data.text.7.linear1.weight", (4, 4, 1, 1)),
        ("diffuser.text.data_blocks.0.0.weight", "data.text.0.project.weight", (4, 4)),
        ("diffuser.text.context_blocks.2.0.proj_in.weight", "context.text.2.proj_in.weight", (4, 4, 1, 1)),
    ],
)
def test_examples(official, ours, shape):
    tensor = torch.randn(shape)
    (name, converted), *rest = to_ours({official: tensor}).items()
    assert name == ours
    assert not rest
    assert torch.equal(converted, tensor.squeeze((2, 3)) if shape[2:] == (1, 1) else tensor)
    assert torch.equal(to_official({ours: converted})[official], tensor)


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"diffuser\.image\.data_blocks\.1\.0\.nonsense"):
        to_ours({"diffuser.image.data_blocks.1.0.nonsense.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"data\.audio\.0"):
        to_official({"data.audio.0.project.weight": torch.zeros(1)})


def test_a_checkpoint_of_fewer_flows_gives_fewer_streams(official):
    basic = {n: t for n, t in official.items() if n.startswith("diffuser.image.")}
    unet = build_diffuser(CONFIG, basic | {"vae.image.encoder.conv_in.bias": torch.zeros(1)})
    assert (list(unet.data), list(unet.context)) == (["image"], ["image"])
    assert to_official(unet.state_dict()).keys() == basic.keys()


def test_a_checkpoint_that_is_not_whole_is_refused(official):
    lacking = dict(official)
    lacking.pop("diffuser.text.context_blocks.0.0.norm.weight")
    with pytest.raises(ValueError, match=r"context\.text\.0\.norm\.weight"):
        build_diffuser(CONFIG, lacking)
    wrong = official | {"diffuser.image.data_blocks.0.0.bias": torch.zeros(7)}
    with pytest.raises(ValueError, match=r"data\.image\.0\.project\.bias"):
        build_diffuser(CONFIG, wrong)
    with pytest.raises(ValueError, match="positions at each level"):
        build_diffuser(CONFIG | {"second_dim": [4, 2]}, official)
