"""The paper's three settings: each begins as the one before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.flow import Flow
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.promotion import NEW_STREAMS, deepen, promote

SHAPES = {"image": (4, 8, 8), "text": (24,)}
DATA = {"image": {"channels": 4}, "text": {"width": 24}}
CONTEXTS = {"image": {"width": 12}, "text": {"width": 12}}


def diffuser(stage: str, seed: int, contexts: dict[str, Any] = CONTEXTS, **changes: Any) -> MultiFlowUNet:
    """Of a stage, with random weights everywhere: fresh ones start as the identity, which would hide mistakes."""
    flows = [TASKS[name].flow for name in STAGES[stage]]
    size = {"width": 16, "multipliers": (1, 2), "depth": 1, "attends": (True, True), "heads": 2, "norm_groups": 4}
    unet = MultiFlowUNet(
        **{
            "data_streams": {m: DATA[m] for m in DATA if any(m == flow.data for flow in flows)},
            "context_streams": {m: contexts[m] for m in contexts if any(m in flow.contexts for flow in flows)},
        }
        | size
        | changes,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return unet.eval()


@torch.no_grad()
def output(unet: MultiFlowUNet, flow: Flow) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    latent = torch.randn(2, *SHAPES[flow.data], generator=generator)
    contexts = [Context(name, torch.randn(2, 5, 12, generator=generator)) for name in flow.contexts]
    return unet(latent, torch.tensor([10, 900]), contexts, data=flow.data)


@pytest.mark.parametrize("new_contexts", NEW_STREAMS)
@pytest.mark.parametrize(("before", "after"), list(pairwise(STAGES)))
def test_the_flows_of_the_stage_before_give_the_same_outputs(before: str, after: str, new_contexts: str) -> None:
    earlier, later = diffuser(before, 0), diffuser(after, 1)
    flows = [TASKS[name].flow for name in STAGES[before]]
    assert not any(torch.equal(output(earlier, flow), output(later, flow)) for flow in flows)
    promote(later, earlier, new_contexts)
    assert all(torch.equal(output(earlier, flow), output(later, flow)) for flow in flows)


def test_all_three_in_a_row() -> None:
    basic, dual, official = (diffuser(stage, seed) for seed, stage in enumerate(STAGES))
    promote(dual, basic)
    promote(official, dual)
    flow = TASKS["image-variation"].flow
    assert torch.equal(output(basic, flow), output(official, flow))


def test_a_new_context_stream_begins_as_the_one_there_is_and_a_new_data_stream_fresh() -> None:
    basic, dual, official = (diffuser(stage, seed) for seed, stage in enumerate(STAGES))
    assert promote(dual, basic) == ["context.text: copy of context.image"]
    for ours, theirs in zip(dual.context["text"].parameters(), basic.context["image"].parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs
    fresh = [p.clone() for p in official.data["text"].parameters()]
    assert promote(official, dual) == ["data.text: fresh"]
    assert all(torch.equal(a, b) for a, b in zip(fresh, official.data["text"].parameters(), strict=True))


def test_a_new_data_stream_begins_as_the_one_there_is_if_asked_to() -> None:
    data = {"image": {"channels": 4}, "audio": {"channels": 4}}
    earlier, later = diffuser("basic", 0), diffuser("basic", 1, data_streams=data)
    assert promote(later, earlier, new_data="copied") == ["data.audio: copy of data.image"]
    for ours, theirs in zip(later.data["audio"].parameters(), earlier.data["image"].parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs


def test_a_new_data_stream_of_more_channels_takes_over_all_layers_but_its_ends() -> None:
    data = {"image": {"channels": 4}, "audio": {"channels": 16}}
    earlier, later = diffuser("basic", 0), diffuser("basic", 1, data_streams=data)
    fresh = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in later.data["audio"]]
    assert promote(later, earlier, new_data="copied") == ["data.audio: copy of data.image but for 2 layers"]
    layers = [*zip(later.data["audio"], earlier.data["image"], fresh, strict=True)]
    for place, (ours, theirs, before) in enumerate(layers):
        wanted = before if place in (0, len(layers) - 1) else theirs.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["new_contexts", "new_data"])
def test_only_two_ways_to_begin_are_known(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'zeros'; allowed: fresh, copied"):
        promote(diffuser("dual_context", 1), diffuser("basic", 0), **{name: "zeros"})


def test_streams_of_another_form_begin_fresh() -> None:
    dual = diffuser("dual_context", 1, CONTEXTS | {"text": {"width": 20}})
    assert promote(dual, diffuser("basic", 0)) == ["context.text: fresh"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heads": 4}, "heads 2 there and 4 here"),
        ({"width": 32}, "differ in shape"),
        ({"contexts": {"image": {"width": 20}}}, "differ in shape"),
    ],
)
def test_a_diffuser_of_another_build_is_refused_and_nothing_changed(changes: dict[str, Any], told: str) -> None:
    dual = diffuser("dual_context", 1, **{"contexts": CONTEXTS} | changes)
    before = {name: value.clone() for name, value in dual.state_dict().items()}
    with pytest.raises(ValueError, match=told):
        promote(dual, diffuser("basic", 0))
    assert all(torch.equal(before[name], value) for name, value in dual.state_dict().items())


def test_there_is_no_way_back() -> None:
    with pytest.raises(ValueError, match="lacks"):
        promote(diffuser("basic", 0), diffuser("dual_context", 1))
    with pytest.raises(ValueError, match="fresh, copied"):
        promote(diffuser("dual_context", 0), diffuser("basic", 1), "random")


@pytest.mark.parametrize("depth", [1, 2, 3, [2, 1], [1, 3]])
@pytest.mark.parametrize("before", [1, [1, 1]])
def test_a_deeper_one_gives_the_same_outputs_until_it_is_trained(depth: Any, before: Any) -> None:
    earlier = diffuser("official", 0, depth=before)
    unet = deepen(earlier, depth, ["image", "text"]).eval()
    for task in STAGES["official"]:
        assert torch.equal(output(unet, TASKS[task].flow), output(earlier, TASKS[task].flow))
    assert len(unet.plan) == len(earlier.plan) + 2 * (sum(depth) - 2 if isinstance(depth, list) else 2 * depth - 2)
    assert set(deepen(earlier, depth, ["image"]).data) == {"image"}


def test_from_two_blocks_to_four() -> None:
    earlier = diffuser("official", 0, depth=2)
    unet = deepen(earlier, 4, ["image", "text"]).eval()
    for task in STAGES["official"]:
        assert torch.equal(output(unet, TASKS[task].flow), output(earlier, TASKS[task].flow))


def test_a_deeper_one_may_not_have_fewer_blocks() -> None:
    with pytest.raises(
        ValueError, match=r"depth is \[1, 2\]; each level needs at least as many residual blocks as before: \[2, 2\]"
    ):
        deepen(diffuser("official", 0, depth=2), [1, 2], ["image"])
