from __future__ import annotations

import copy

import pytest
from torch import nn

from versatile_diffusion.diffuser.groups import Multipliers, parameter_counts, parameter_groups, streams_in

STREAMS = ["global", "data.image", "data.text", "context.image", "context.text"]


def test_groups_cover_every_parameter_once(unet):
    groups = parameter_groups(unet)
    assert list(groups) == STREAMS
    named = [name for members in groups.values() for name, _ in members]
    assert sorted(named) == sorted(name for name, _ in unet.named_parameters())
    assert all(name.startswith(group) for group, members in groups.items() if "." in group for name, _ in members)
    assert all(p is unet.get_parameter(name) for members in groups.values() for name, p in members)


def test_counts(unet):
    counts = parameter_counts(unet)
    assert counts["global"] == sum(p.numel() for p in unet.time_embed.parameters())
    assert sum(counts.values()) == sum(p.numel() for p in unet.parameters())


def test_a_parameter_outside_and_an_empty_stream_are_refused(unet):
    more = copy.deepcopy(unet)
    more.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight belongs to no group; they are global, data\.image"):
        parameter_groups(more)
    less = copy.deepcopy(unet)
    less.context["text"] = nn.ModuleList()
    with pytest.raises(ValueError, match=r"context\.text has no parameters"):
        parameter_groups(less)


def test_groups_and_streams_by_name():
    assert streams_in(["context", "data.text"], STREAMS) == ["data.text", "context.image", "context.text"]
    assert streams_in([], STREAMS) == []
    with pytest.raises(
        ValueError, match=r"no group or stream data\.audio; allowed: global, data, context, data\.image"
    ):
        streams_in(["data.audio", "global"], STREAMS)


def test_the_factors_of_a_group_and_a_stream_multiply():
    factors = Multipliers({"global": 0.5, "data": 0.1, "data.text": 4}).of(STREAMS)
    assert factors == pytest.approx(dict(zip(STREAMS, (0.5, 0.1, 0.4, 1, 1), strict=True)))


@pytest.mark.parametrize(
    ("factors", "mode", "told"), [({"data": -1}, "update", "0 or more"), ({}, "both", "update, gradient")]
)
def test_what_cannot_be_is_refused(factors, mode, told):
    with pytest.raises(ValueError, match=told):
        Multipliers(factors, mode)
