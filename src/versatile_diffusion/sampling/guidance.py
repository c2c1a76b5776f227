"""Classifier-free guidance by several contexts, and mixing them at the level of attention, layers or whole models.

With D(S) for the prediction in which the contexts in S act and the null contexts stand in for the others, and s_1 < s_2
< ... for the distinct guidance scales above 0 of the contexts (s_0 = 0):

    guided = D(none) + sum over k of (s_k - s_(k-1)) (D(contexts of scale s_k or more) - D(none))

With one scale this is the official D(none) + s (D(all) - D(none)). Where contexts act independently of each other, each
one's effect is multiplied by its own scale. It takes one pass for each distinct scale, and one for the null contexts
unless the greatest scale is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.diffuser.context import Context, Mix, MixByLayer, mix_by_attention, share_maps, shares
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.sampling.focus import join_tokens

WHOLE = (0.0, 1.0)


@dataclass(frozen=True)
class Guide:
    """One context, what stands for its absence, and when and how strongly it acts.

    Args:
        context: tokens (B, L, D) with their stream, weight and region.
        null: what guidance moves away from, the task's null context or a negative: (B, L', D) for the same stream.
        scale: of classifier-free guidance; that of the run where left out.
        start, end: shares of the trajectory between which it acts.
        blank: the task's null context, which acts where no context does; `null` where left out.
    """

    context: Context
    null: Tensor
    scale: float | None = None
    start: float = 0.0
    end: float = 1.0
    blank: Tensor | None = None

    @property
    def absent(self) -> Context:
        return replace(self.context, tokens=self.null)

    @property
    def rest(self) -> Tensor:
        """What acts where no context does."""
        return self.null if self.blank is None else self.blank


@dataclass(frozen=True)
class Cost:
    """Work of a run for one item: passes through the diffuser, and the blocks that they ran."""

    passes: int = 0
    data_blocks: int = 0
    context_blocks: int = 0

    def __str__(self) -> str:
        return f"each {self.passes} passes with {self.context_blocks} context blocks"

    def __mul__(self, count: int) -> Cost:
        return Cost(self.passes * count, self.data_blocks * count, self.context_blocks * count)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.passes + other.passes,
            self.data_blocks + other.data_blocks,
            self.context_blocks + other.context_blocks,
        )


@dataclass(frozen=True)
class Mixing:
    """How several contexts act together (paper section 3.3).

    Args:
        mix: within a pass, `(layer seed, timestep) -> Mix`.
        separately: whether each context guides passes of its own, whose predictions are averaged (model level).
        join: makes one context of those of the same stream.
        regions: whether contexts can be limited to a part of the canvas.
        help: one line for people.
    """

    mix: Callable[[int, int], Mix]
    separately: bool = False
    join: Callable[[Sequence[Context]], list[Context]] = list
    regions: bool = False
    help: str = ""


def _by_attention(seed: int, timestep: int) -> Mix:
    return mix_by_attention


def _by_layer(seed: int, timestep: int) -> Mix:
    # Seeded anew for each timestep: both halves of guidance, and a run that begins later, get the same choices.
    return MixByLayer(generator=torch.Generator().manual_seed(seed * 1000 + timestep))


def joined(contexts: Sequence[Context]) -> list[Context]:
    """Contexts of the same stream as one: joined along the tokens, as the 2023 app joins pictures. The one of the
    largest weight keeps its tokens, those of the others are scaled by their share of it; the weights are added up."""
    streams: dict[str, list[Context]] = {}
    for context in contexts:
        streams.setdefault(context.stream, []).append(context)
    return [_joined(group) if len(group) > 1 else group[0] for group in streams.values()]


def _joined(group: Sequence[Context]) -> Context:
    most = max(context.weight for context in group)
    tokens = join_tokens([(context.tokens, context.weight / most) for context in group])
    return Context(group[0].stream, tokens, sum(context.weight for context in group))


MIXINGS: dict[str, Mixing] = {
    "attention": Mixing(_by_attention, regions=True, help="average the attention of all contexts, block by block"),
    "layer": Mixing(_by_layer, help="draw one context for each block; costs no more than a single context"),
    "model": Mixing(
        _by_attention, separately=True, regions=True, help="average whole predictions; costs a full run per context"
    ),
    "join": Mixing(_by_attention, join=joined, help="make one long context of all pictures, as the 2023 app does"),
}


@dataclass(frozen=True)
class Rules:
    """How contexts guide a run.

    Args:
        scale: of classifier-free guidance, for contexts that have none of their own.
        mixing: a key of `MIXINGS`.
        layer_seed: draws the choices of layer mixing, the same for every item of the batch.
        layer_plan: in place of drawing, the choices for each step: which context each block takes, by number.
        interval: shares of the trajectory between which there is guidance; outside, the contexts act with scale 1.
        rescale: how much of guidance's overshoot is taken back, 0 to 1 (Lin et al. 2024, section 3.4).
        timesteps: all of the trajectory in running order, noise first; needed where something acts for a part of it.
    """

    scale: float = 7.5
    mixing: str = "attention"
    layer_seed: int = 0
    layer_plan: Sequence[Sequence[int]] | None = None
    interval: tuple[float, float] = WHOLE
    rescale: float = 0.0
    timesteps: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.mixing not in MIXINGS:
            raise ValueError(unknown("mixing", self.mixing, MIXINGS))

    @property
    def level(self) -> Mixing:
        return MIXINGS[self.mixing]


def acts(start: float, end: float, step: int, steps: int) -> bool:
    """Whether something that acts from `start` to `end` (shares of the trajectory) acts at a step: its middle counts,
    so that neighbouring parts never share a step and leave none out."""
    return start <= (step + 0.5) / steps < end


def guided(unet: MultiFlowUNet, guides: Sequence[Guide], *, data: str, **rules: Any) -> Guidance:
    """The diffuser with its guidance.

    Args:
        unet: the diffuser.
        guides: what guides; those of weight 0 are left out.
        data: the data stream to run.
        rules: see `Rules`.

    Raises:
        ValueError: the mixing is unknown, or no guide has a weight above 0.
    """
    weights = shares([guide.context for guide in guides])
    return Guidance(unet, [g for g, share in zip(guides, weights, strict=True) if share], data, Rules(**rules))


class Guidance:
    """Guided predictions, `(latent (B, ...), timestep (B,)) -> (B, ...)`; what they cost and chose so far.

    Keys and values of the contexts are computed once, for each part of the trajectory in which the same contexts act.

    Attributes:
        cost: of the calls so far.
        plans: with layer mixing, per timestep the context that each block took, by its number among the guides.
    """

    def __init__(self, unet: MultiFlowUNet, guides: Sequence[Guide], data: str, rules: Rules):
        self.unet, self.guides, self.data, self.rules = unet, list(guides), data, rules
        self.steps = {int(timestep): step for step, timestep in enumerate(rules.timesteps)}
        self.cost = Cost()
        self.plans: dict[int, tuple[int, ...]] = {}
        self._phases: dict[object, Phase] = {}

    @torch.no_grad()
    def __call__(self, latent: Tensor, timestep: Tensor) -> Tensor:
        now = int(timestep[0])
        acting, on = self._acting(now)
        phase = self._phases.get((acting, on))
        if phase is None:
            phase = self._phases[acting, on] = self._phase(acting, on)
        chosen = self._mix(now, acting)
        given, parts = latent.to(self.unet.dtype), []
        for branch, share in zip(phase.branches, phase.shares, strict=True):
            parts.append(branch(given, timestep, chosen).to(latent.dtype) * share)
        self.cost += phase.cost
        if isinstance(chosen, MixByLayer):
            numbers = acting or range(len(self.guides))
            self.plans[now] = tuple(numbers[choice] for choice in chosen.plan)
        return sum(parts[1:], start=parts[0])

    def exchange(self, number: int, tokens: Tensor) -> None:
        """From now on guide `number` has these tokens (B, L, D)."""
        guide = self.guides[number]
        given = tokens.to(guide.context.tokens)
        self.guides[number] = replace(guide, context=replace(guide.context, tokens=given))
        self._phases.clear()

    def _acting(self, timestep: int) -> tuple[tuple[int, ...], bool]:
        """Numbers of the guides that act at a timestep, and whether there is guidance."""
        if not self.steps:
            return tuple(range(len(self.guides))), True
        place = self.steps[timestep], len(self.steps)
        acting = tuple(k for k, guide in enumerate(self.guides) if acts(guide.start, guide.end, *place))
        return acting, acts(*self.rules.interval, *place)

    def _phase(self, acting: Sequence[int], on: bool) -> Phase:
        """What guides where these guides act; where none does, the null contexts of all."""
        rules = self.rules
        guides = [replace(g, scale=rules.scale if g.scale is None else g.scale) for g in self.guides]
        if acting:
            guides = [guides[k] for k in acting]
            guides = guides if on else [replace(guide, scale=1.0) for guide in guides]
        else:
            guides = [replace(guide, scale=0.0, null=guide.rest) for guide in guides]
        guides = over_the_canvas(guides)
        if not rules.level.separately:
            return Phase([Branch(self.unet, guides, self.data, rules)], [1.0])
        alone = [replace(guide, context=replace(guide.context, region=None)) for guide in guides]
        return Phase([Branch(self.unet, [guide], self.data, rules) for guide in alone], _shares(guides))

    def _mix(self, timestep: int, acting: Sequence[int]) -> Mix:
        plan = self.rules.layer_plan
        if plan is None:
            return self.rules.level.mix(self.rules.layer_seed, timestep)
        choices = plan[self.steps[timestep] if len(plan) > 1 else 0]
        numbers = list(acting or range(len(self.guides)))
        if absent := set(choices) - set(numbers):
            raise ValueError(f"layer_plan takes context {min(absent)} at timestep {timestep}, where it does not act")
        return MixByLayer(choices=[numbers.index(choice) for choice in choices])


def _shares(guides: Sequence[Guide]) -> Sequence[float | Tensor]:
    contexts = [guide.context for guide in guides]
    regions = [context.region for context in contexts if context.region is not None]
    return share_maps(contexts, regions[0].shape) if regions else shares(contexts)


def over_the_canvas(guides: Sequence[Guide]) -> list[Guide]:
    """Guides whose regions are their shares at each position, with a null context that acts where none of them does.

    Where regions add up to less than one, the null context has the rest, so a soft edge fades into nothing in
    particular. Without regions the guides are as they were.
    """
    contexts = [guide.context for guide in guides]
    regions = [context.region for context in contexts if context.region is not None]
    if not regions:
        return list(guides)
    reach = sum(context.region if context.region is not None else torch.ones_like(regions[0]) for context in contexts)
    assert isinstance(reach, Tensor)
    covered = reach.clamp(max=1)
    maps = share_maps(contexts, regions[0].shape)
    placed = [
        replace(guide, context=replace(guide.context, weight=1.0, region=share * covered))
        for guide, share in zip(guides, maps, strict=True)
    ]
    if bool((covered == 1).all()):
        return placed
    first = guides[0]
    rest = Context(first.context.stream, first.rest, 1.0, region=1 - covered)
    return [*placed, Guide(rest, first.rest, first.scale)]


@dataclass(frozen=True)
class Phase:
    """Guided predictions and their shares, the same while the same contexts act."""

    branches: Sequence[Branch]
    shares: Sequence[float | Tensor]

    @property
    def cost(self) -> Cost:
        return sum((branch.cost for branch in self.branches), start=Cost())


class Branch:
    """One guided prediction from contexts that act within the same passes; see the formula above."""

    def __init__(self, unet: MultiFlowUNet, guides: Sequence[Guide], data: str, rules: Rules):
        self.unet, self.data = unet, data
        scales = [rules.scale if guide.scale is None else guide.scale for guide in guides]
        levels = sorted({scale for scale in scales if scale > 0})
        self.steps = [after - before for before, after in pairwise([0, *levels])]
        self.with_null = not levels or levels[-1] != 1
        self.rescale = 0 if levels in ([], [1]) else rules.rescale
        sets = [
            [g.context if s >= level else g.absent for g, s in zip(guides, scales, strict=True)] for level in levels
        ]
        if self.with_null:
            sets.insert(0, [guide.absent for guide in guides])
        sets = [rules.level.join(contexts) for contexts in sets]
        self.passes = len(sets)
        self.contexts = [unet.project(contexts) for contexts in _batched(sets)]
        attentions = sum(stage.attention is not None for stage in unet.plan)
        acting = 1 if rules.mixing == "layer" else len(sets[0])
        self.cost = Cost(self.passes, self.passes * len(unet.plan), self.passes * attentions * acting)

    def __call__(self, latent: Tensor, timestep: Tensor, mix: Mix) -> Tensor:
        together = self.passes // len(self.contexts)
        latents, timesteps = torch.cat([latent] * together), torch.cat([timestep] * together)
        found: list[Tensor] = []
        for contexts in self.contexts:
            found += self.unet(latents, timesteps, contexts, data=self.data, mix=mix).chunk(together)
            mix = MixByLayer(choices=mix.plan) if isinstance(mix, MixByLayer) else mix
        if not self.with_null:
            moves = [step * one for step, one in zip(self.steps, found, strict=True)]
            return self._rescaled(sum(moves[1:], start=moves[0]), found[0])
        uncond, *conds = found
        moves = [step * (cond - uncond) for step, cond in zip(self.steps, conds, strict=True)]
        return self._rescaled(sum(moves, start=uncond), conds[0] if conds else uncond)

    def _rescaled(self, output: Tensor, cond: Tensor) -> Tensor:
        """The output, its spread brought nearer to that of the conditional prediction."""
        if self.rescale == 0:
            return output
        axes = tuple(range(1, output.ndim))
        factor = cond.std(axes, keepdim=True) / output.std(axes, keepdim=True)
        return self.rescale * (output * factor) + (1 - self.rescale) * output


def _batched(sets: Sequence[Sequence[Context]]) -> list[Sequence[Context]]:
    """Sets of contexts as one set of that many times the batch, where their tokens have the same shapes."""
    shapes = [[context.tokens.shape for context in contexts] for contexts in sets]
    if len(sets) == 1 or any(shape != shapes[0] for shape in shapes):
        return list(sets)
    return [[replace(same[0], tokens=torch.cat([context.tokens for context in same])) for same in zip(*sets)]]  # noqa: B905
