"""Scales, parts of the trajectory, regions and costs of several contexts, by their laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import MIXINGS, Cost, Guide, acts

DATA = "image"
T = torch.tensor([401, 401])
TIMESTEPS = [901, 701, 401, 201]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def latent() -> torch.Tensor:
    return draw(0, 2, 4, 4, 4)


@pytest.fixture
def unet(tiny_pipeline: Any) -> Any:
    return tiny_pipeline.unet


def guide(seed: int, stream: str, weight: float = 1.0, null_length: int = 5, **acting: Any) -> Guide:
    context = Context(stream, draw(seed, 2, 5, 192), weight)
    return Guide(context, draw(seed + 100, 2, null_length, 192), **acting)


def in_region(one: Guide, region: torch.Tensor) -> Guide:
    return replace(one, context=replace(one.context, region=region))


def ask(unet: Any, guides: list[Guide], latent: torch.Tensor, timestep: int = 401, **rules: Any) -> torch.Tensor:
    return guided(unet, guides, data=DATA, **rules)(latent, torch.full((2,), timestep))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(a, b, atol=tolerance * float(b.abs().max()))


def half(left: bool) -> torch.Tensor:
    region = torch.zeros(4, 4)
    region[:, slice(0, 2) if left else slice(2, 4)] = 1
    return region


class Additive:
    """A diffuser in which contexts act independently: the prediction is the mean of their tokens, by share."""

    dtype = torch.float32
    plan = ()

    def __init__(self) -> None:
        self.passes = 0

    def project(self, contexts: list[Context]) -> list[Context]:
        return contexts

    def __call__(self, latent: torch.Tensor, timestep: torch.Tensor, contexts: list[Context], **_: Any) -> torch.Tensor:
        self.passes += 1
        total = sum(context.weight for context in contexts)
        parts = [context.weight / total * context.tokens.mean((1, 2)) for context in contexts]
        return torch.stack(parts).sum(0)[:, None, None, None].expand_as(latent)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("scale", [0, 1, 3.5])
def test_equal_scales_of_contexts_are_the_scale_of_the_run(
    unet: Any, latent: torch.Tensor, mixing: str, scale: float
) -> None:
    guides = [guide(1, "text", 0.7), guide(2, "image", 0.3)]
    own = [replace(one, scale=scale) for one in guides]
    assert torch.equal(
        ask(unet, own, latent, scale=9.0, mixing=mixing), ask(unet, guides, latent, scale=scale, mixing=mixing)
    )


def test_scales_of_contexts_that_act_independently(latent: torch.Tensor) -> None:
    """Each context's own effect is multiplied by its own scale, whatever the order."""
    one, two, three = (guide(k, "text", w, scale=s) for k, w, s in ((1, 0.5, 2.0), (2, 0.3, 7.0), (3, 0.2, 0.0)))

    def effect(g: Guide) -> torch.Tensor:
        return g.context.weight * (g.context.tokens.mean((1, 2)) - g.null.mean((1, 2)))

    uncond = sum(g.context.weight * g.null.mean((1, 2)) for g in (one, two, three))
    expected = (uncond + 2 * effect(one) + 7 * effect(two))[:, None, None, None].expand_as(latent)
    assert close(ask(Additive(), [one, two, three], latent, mixing="attention"), expected)
    assert close(ask(Additive(), [three, one, two], latent, mixing="attention"), expected)


@pytest.mark.parametrize("null_length", [5, 3])
def test_two_scales_are_their_formula(unet: Any, latent: torch.Tensor, null_length: int) -> None:
    """In one pass of three times the batch, and in three where a null context has another length."""
    one, two = guide(1, "text", 0.7, null_length, scale=2.0), guide(2, "image", 0.3, scale=5.0)
    none, both, second = (
        unet(latent, T, contexts, data=DATA).detach()
        for contexts in ([one.absent, two.absent], [one.context, two.context], [one.absent, two.context])
    )
    expected = none + 2 * (both - none) + 3 * (second - none)
    assert close(ask(unet, [one, two], latent), expected)


def test_parts_of_the_trajectory_share_no_step_and_leave_none_out() -> None:
    for steps in (1, 2, 3, 7, 50):
        for cut in (0.1, 0.5, 0.77):
            assert all(acts(0, cut, step, steps) != acts(cut, 1, step, steps) for step in range(steps))
    assert [acts(0, 0.5, step, 4) for step in range(4)] == [True, True, False, False]


def test_a_context_acts_in_its_part_of_the_trajectory(unet: Any, latent: torch.Tensor) -> None:
    early, late = guide(1, "text", end=0.5), guide(2, "image", start=0.5)
    predict = guided(unet, [early, late], data=DATA, scale=3.0, timesteps=TIMESTEPS)
    for timestep in TIMESTEPS:
        alone = early if timestep > 500 else late
        now = torch.full((2,), timestep)
        expected = guided(unet, [replace(alone, start=0, end=1)], data=DATA, scale=3.0)(latent, now)
        assert torch.equal(predict(latent, now), expected)


def test_where_no_context_acts_the_null_one_does(unet: Any, latent: torch.Tensor) -> None:
    predict = guided(unet, [guide(1, "text", end=0.5)], data=DATA, scale=3.0, timesteps=TIMESTEPS)
    now = torch.full((2,), 201)
    expected = unet(latent, now, [guide(1, "text").absent], data=DATA)
    assert torch.equal(predict(latent, now), expected)
    assert predict.cost.passes == 1


def test_a_negative_does_not_act_where_no_context_does(unet: Any, latent: torch.Tensor) -> None:
    """Neither late, nor on the rest of the canvas: that would call up what is to be kept away."""
    blank, now = draw(300, 2, 5, 192), torch.full((2,), 201)
    one = guide(1, "text", end=0.5, blank=blank)
    resting = Context("text", blank)
    predict = guided(unet, [one], data=DATA, scale=3.0, timesteps=TIMESTEPS)
    assert torch.equal(predict(latent, now), unet(latent, now, [resting], data=DATA))
    placed = in_region(guide(1, "text", blank=blank), half(True))
    explicit = [in_region(guide(1, "text"), half(True)), in_region(Guide(resting, blank), half(False))]
    assert close(ask(unet, [placed], latent, scale=3.0), ask(unet, explicit, latent, scale=3.0))


def test_outside_of_its_interval_guidance_costs_one_pass(unet: Any, latent: torch.Tensor) -> None:
    one, rules = guide(1, "text"), {"data": DATA, "scale": 3.0}
    limited = guided(unet, [one], interval=(0.25, 0.75), timesteps=TIMESTEPS, **rules)
    for timestep, passes in zip(TIMESTEPS, (1, 2, 2, 1), strict=True):
        now, before = torch.full((2,), timestep), limited.cost.passes
        expected = guided(unet, [one], **(rules if passes == 2 else rules | {"scale": 1}))(latent, now)
        assert torch.equal(limited(latent, now), expected)
        assert limited.cost.passes - before == passes


def test_rescaling_is_that_of_diffusers(unet: Any, latent: torch.Tensor) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    one = guide(1, "text")
    plain, cond = ask(unet, [one], latent, scale=6.0), ask(unet, [one], latent, scale=1)
    assert close(ask(unet, [one], latent, scale=6.0, rescale=0.7), rescale_noise_cfg(plain, cond, 0.7))
    full = ask(unet, [one], latent, scale=6.0, rescale=1.0)
    assert torch.allclose(full.std((1, 2, 3)), cond.std((1, 2, 3)))
    assert torch.equal(ask(unet, [one], latent, scale=1, rescale=1.0), cond)


@pytest.mark.parametrize("mixing", ["attention", "model"])
class TestRegions:
    def test_a_region_of_everything_is_none(self, unet: Any, latent: torch.Tensor, mixing: str) -> None:
        guides = [guide(1, "text", 0.7), guide(2, "image", 0.3)]
        everywhere = [in_region(one, torch.ones(4, 4)) for one in guides]
        assert close(
            ask(unet, everywhere, latent, mixing=mixing, scale=3.0), ask(unet, guides, latent, mixing=mixing, scale=3.0)
        )

    def test_the_same_context_in_both_halves_is_that_context(
        self, unet: Any, latent: torch.Tensor, mixing: str
    ) -> None:
        one = guide(1, "text")
        halves = [
            in_region(one, half(True)),
            in_region(replace(one, context=replace(one.context, weight=3)), half(False)),
        ]
        assert close(ask(unet, halves, latent, mixing=mixing, scale=3.0), ask(unet, [one], latent, scale=3.0), 1e-4)

    def test_the_rest_of_the_canvas_is_left_to_the_null_context(
        self, unet: Any, latent: torch.Tensor, mixing: str
    ) -> None:
        """A context that is limited to a part is the same as one whose other part is filled with its null."""
        one = guide(1, "text")
        null = Guide(Context("text", one.null), one.null)
        explicit = [in_region(one, half(True)), in_region(null, half(False))]
        assert close(
            ask(unet, [in_region(one, half(True))], latent, mixing=mixing, scale=3.0),
            ask(unet, explicit, latent, mixing=mixing, scale=3.0),
        )

    def test_regions_act_where_they_are(self, unet: Any, latent: torch.Tensor, mixing: str) -> None:
        one, two = guide(1, "text"), guide(2, "image")
        mixed = ask(unet, [in_region(one, half(True)), in_region(two, half(False))], latent, mixing=mixing, scale=3.0)
        first, second = (ask(unet, [g], latent, scale=3.0) for g in (one, two))
        if mixing == "model":
            assert close(mixed, torch.cat([first[..., :2], second[..., 2:]], dim=-1))
        else:  # what a context does spreads a little through the layers
            assert (mixed - first)[..., 0].norm() < (mixed - second)[..., 0].norm()
            assert (mixed - second)[..., 3].norm() < (mixed - first)[..., 3].norm()


def test_joined_contexts_are_their_tokens_side_by_side(unet: Any, latent: torch.Tensor) -> None:
    one, two, words = guide(1, "image", 0.5), guide(2, "image", 0.25), guide(3, "text", 0.25)
    tokens = torch.cat([one.context.tokens, 0.5 * two.context.tokens], dim=1)
    nulls = torch.cat([one.null, 0.5 * two.null], dim=1)
    by_hand = [Guide(Context("image", tokens, 0.75), nulls), words]
    joined = ask(unet, [one, two, words], latent, mixing="join", scale=2.0)
    assert torch.equal(joined, ask(unet, by_hand, latent, mixing="attention", scale=2.0))


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("scales", [(2.0, 2.0), (2.0, 5.0), (1.0, 1.0), (0.0, 3.0)])
def test_the_cost_is_that_of_the_blocks_that_ran(
    unet: Any, latent: torch.Tensor, mixing: str, scales: tuple[float, float]
) -> None:
    """Counted by hooks on every block, for one item."""
    ran = {"data": 0, "context": 0}

    def count(kind: str) -> Any:
        return lambda module, given, output: ran.update({kind: ran[kind] + len(output)})

    hooks = [block.register_forward_hook(count("data")) for block in unet.data[DATA]]
    hooks += [block.register_forward_hook(count("context")) for stream in unet.context.values() for block in stream]
    guides = [guide(1, "image", scale=scales[0]), guide(2, "image", scale=scales[1]), guide(3, "text", 0.0)]
    predict = guided(unet, guides, data=DATA, mixing=mixing)
    for _ in range(2):
        predict(latent, T)
    for hook in hooks:
        hook.remove()
    assert (predict.cost.data_blocks, predict.cost.context_blocks) == (ran["data"] // 2, ran["context"] // 2)
    assert predict.cost.passes * len(unet.plan) == predict.cost.data_blocks
    assert Cost(1, 2, 3) + Cost(1, 1, 1) == Cost(2, 3, 4)


def test_layer_mixing_costs_no_more_than_one_context(unet: Any, latent: torch.Tensor) -> None:
    guides = [guide(1, "text"), guide(2, "image")]
    costs = {}
    for mixing in MIXINGS:
        predict = guided(unet, guides, data=DATA, mixing=mixing)
        predict(latent, T)
        costs[mixing] = predict.cost
    single = guided(unet, guides[:1], data=DATA)
    single(latent, T)
    assert costs["layer"] == single.cost
    assert costs["attention"].context_blocks == 2 * single.cost.context_blocks
    assert costs["attention"].data_blocks == single.cost.data_blocks
    assert costs["model"] == single.cost + single.cost
    assert costs["join"] == costs["attention"]  # two streams: nothing to join


def test_a_layer_plan_repeats_what_was_drawn(unet: Any, latent: torch.Tensor) -> None:
    guides = [guide(1, "text"), guide(2, "image"), guide(3, "image", end=0.5)]
    rules = {"data": DATA, "mixing": "layer", "timesteps": TIMESTEPS}
    drawn = guided(unet, guides, layer_seed=5, **rules)
    found = [drawn(latent, torch.full((2,), t)) for t in TIMESTEPS]
    plan = list(drawn.plans.values())
    assert len({choices for choices in plan}) > 1
    assert {2} - {choice for choices in plan[2:] for choice in choices}  # the third acts in the first half only
    again = guided(unet, guides, layer_plan=plan, **rules)
    for timestep, expected in zip(TIMESTEPS, found, strict=True):
        assert torch.equal(again(latent, torch.full((2,), timestep)), expected)
    with pytest.raises(ValueError, match="layer_plan uses context 2 at timestep 201"):
        guided(unet, guides, layer_plan=[(2,) * len(plan[0])], **rules)(latent, torch.full((2,), 201))
