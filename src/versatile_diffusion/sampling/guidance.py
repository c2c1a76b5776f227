"""Classifier-free guidance with several contexts, and mixing on the level of attention, layers or models.

With D(S) for the prediction with the contexts in S and the null contexts of all others, and s_1 < s_2 < ... for the
distinct guidance scales above 0 (s_0 = 0):

    guided = D(none) + sum over k of (s_k - s_(k-1)) (D(contexts of scale s_k or more) - D(none))

With one scale this is the official D(none) + s (D(all) - D(none)). If the effects of contexts are independent, each is
multiplied by its own scale. The cost is one pass per distinct scale, and one for the null contexts unless the largest
scale is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from versatile_diffusion.diffuser.context import (
    Context,
    Mix,
    MixByLayer,
    scale_weights,
    share_maps,
    shares,
)
from versatile_diffusion.diffuser.deep import Deep
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.numeric import widen
from versatile_diffusion.sampling.fast import FAST
from versatile_diffusion.sampling.passes import Asking, Pass, answer_passes
from versatile_diffusion.sampling.rules import Cost, Guide, Rules, acts


def guided(unet: MultiFlowUNet, guides: Sequence[Guide], *, data: str, **rules: Any) -> Guidance:
    """Build guided predictions of the diffuser.

    Args:
        unet: the diffuser.
        guides: contexts; those of weight 0 are dropped.
        data: data stream to run.
        rules: see `Rules`.

    Raises:
        ValueError: an unknown mixing, or no guide with weight above 0.
    """
    weights = scale_weights([guide.context for guide in guides])
    acting = [
        replace(guide, context=replace(guide.context, weight=weight))
        for guide, weight in zip(guides, weights, strict=True)
        if weight
    ]
    return Guidance(unet, acting, data, Rules(**rules))


class Guidance:
    """Guided predictions, `(latent (B, ...), timestep (B,)) -> (B, ...)`, with their cost and choices.

    Keys and values of the contexts are computed once for each part of the trajectory with the same active contexts.

    Attributes:
        cost: cost of all calls.
        plans: with layer mixing, the guide index of each block per timestep.
    """

    def __init__(self, unet: MultiFlowUNet, guides: Sequence[Guide], data: str, rules: Rules):
        self.unet, self.guides, self.data, self.rules = unet, list(guides), data, rules
        self.steps = {int(timestep): step for step, timestep in enumerate(rules.timesteps)}
        self.cost = Cost()
        self.plans: dict[int, tuple[int, ...]] = {}
        self._phases: dict[object, GuidancePhase] = {}

    @torch.no_grad()
    def __call__(self, latent: Tensor, timestep: Tensor) -> Tensor:
        return answer_passes(self.passes(latent, timestep), self.unet)

    def passes(self, latent: Tensor, timestep: Tensor) -> Asking:
        """The passes that a prediction takes, one after the other; it returns the guided prediction (B, ...).

        Args:
            latent: (B, ...).
            timestep: (B,), the same for all.
        """
        now = int(timestep[0])
        acting, on = self._acting(now)
        phase = self._phases.get((acting, on))
        if phase is None:
            phase = self._phases[acting, on] = self._phase(acting, on)
        chosen = self._mix(now, acting)
        given, parts = latent.to(self.unet.dtype), []
        renew = self.rules.renews(self.steps.get(now, 0))
        for branch, share in zip(phase.branches, phase.shares, strict=True):
            prediction = yield from branch.passes(given, timestep, chosen, renew)
            parts.append(prediction.to(latent.dtype) * share)
        self.cost += phase.cost
        if isinstance(chosen, MixByLayer):
            numbers = acting or range(len(self.guides))
            self.plans[now] = tuple(numbers[choice] for choice in chosen.plan)
        return sum(parts[1:], start=parts[0])

    def exchange(self, number: int, tokens: Tensor) -> None:
        """Replace the tokens (B, L, D) of a guide."""
        guide = self.guides[number]
        given = tokens.to(guide.context.tokens)
        self.guides[number] = replace(guide, context=replace(guide.context, tokens=given))
        self._phases.clear()

    def _acting(self, timestep: int) -> tuple[tuple[int, ...], bool]:
        """Return the indices of the guides active at a timestep, and whether guidance is on."""
        if not self.steps:
            return tuple(range(len(self.guides))), True
        place = self.steps[timestep], len(self.steps)
        acting = tuple(k for k, guide in enumerate(self.guides) if acts(guide.start, guide.end, *place))
        return acting, acts(*self.rules.guides_in, *place)

    def _phase(self, acting: Sequence[int], on: bool) -> GuidancePhase:
        """Return the predictions for these active guides; the null contexts of all if none is active."""
        rules = self.rules
        guides = [replace(g, scale=rules.scale if g.scale is None else g.scale) for g in self.guides]
        if acting:
            guides = [guides[k] for k in acting]
            guides = guides if on else [replace(guide, scale=1.0) for guide in guides]
        else:
            guides = [replace(guide, scale=0.0, null=guide.rest) for guide in guides]
        guides = over_the_canvas(guides)
        if not rules.level.separately:
            return GuidancePhase([Branch(self.unet, guides, self.data, rules)], [1.0])
        alone = [replace(guide, context=replace(guide.context, region=None)) for guide in guides]
        return GuidancePhase([Branch(self.unet, [guide], self.data, rules) for guide in alone], _shares(guides))

    def _mix(self, timestep: int, acting: Sequence[int]) -> Mix:
        plan = self.rules.layer_plan
        if plan is None:
            return self.rules.level.mix(self.rules, timestep)
        choices = plan[self.steps[timestep] if len(plan) > 1 else 0]
        numbers = list(acting or range(len(self.guides)))
        if absent := set(choices) - set(numbers):
            raise ValueError(f"layer_plan uses context {min(absent)} at timestep {timestep}, where it is inactive")
        return MixByLayer(choices=[numbers.index(choice) for choice in choices])


def _shares(guides: Sequence[Guide]) -> Sequence[float | Tensor]:
    contexts = [guide.context for guide in guides]
    regions = [context.region for context in contexts if context.region is not None]
    return share_maps(contexts, regions[0].shape) if regions else shares(contexts)


def over_the_canvas(guides: Sequence[Guide]) -> list[Guide]:
    """Convert regions to shares at each position, with a null context for positions without context.

    Where regions sum to less than one, the null context has the rest, so soft edges fade to unconditional. Guides
    without regions are unchanged.
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
class GuidancePhase:
    """Guided predictions with weights, valid while the same contexts are active."""

    branches: Sequence[Branch]
    shares: Sequence[float | Tensor]

    @property
    def cost(self) -> Cost:
        return sum((branch.cost for branch in self.branches), start=Cost())


class Branch:
    """One guided prediction from contexts in shared passes; see the formula above."""

    def __init__(self, unet: MultiFlowUNet, guides: Sequence[Guide], data: str, rules: Rules):
        self.data, self.unet = data, unet
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
        self.count = len(sets)
        self.contexts = [unet.project(contexts) for contexts in _batch(sets)]
        fast, self.acting = FAST[rules.fast], 1 if rules.mixing == "layer" else len(sets[0])
        self.deep = [Deep(unet.plan, fast.level) if fast.every > 1 else None for _ in self.contexts]
        self.plan = list(unet.plan)

    @property
    def cost(self) -> Cost:
        """The cost of the latest prediction."""
        kept = next((deep for deep in self.deep if deep is not None and not deep.ran), None)
        ran = self.plan if kept is None else self.plan[: kept.first] + self.plan[kept.last :]
        attentions = sum(stage.attention is not None for stage in ran)
        return Cost(self.count, self.count * len(ran), self.count * attentions * self.acting)

    def passes(self, latent: Tensor, timestep: Tensor, mix: Mix, renew: bool = True) -> Asking:
        """Its passes, one after the other; it returns the guided prediction."""
        together = self.count // len(self.contexts)
        latents, timesteps = torch.cat([latent] * together), torch.cat([timestep] * together)
        found: list[Tensor] = []
        for contexts, deep in zip(self.contexts, self.deep, strict=True):
            if deep is not None:
                deep.renew = renew
            answer = yield Pass(latents, timesteps, contexts, self.data, mix, deep, self.unet)
            found += answer.chunk(together)
            mix = MixByLayer(choices=mix.plan) if isinstance(mix, MixByLayer) else mix
        if not self.with_null:
            moves = [step * one for step, one in zip(self.steps, found, strict=True)]
            return self._rescaled(sum(moves[1:], start=moves[0]), found[0])
        uncond, *conds = found
        moves = [step * (cond - uncond) for step, cond in zip(self.steps, conds, strict=True)]
        return self._rescaled(sum(moves, start=uncond), conds[0] if conds else uncond)

    def _rescaled(self, output: Tensor, cond: Tensor) -> Tensor:
        """Rescale the output towards the standard deviation of the conditional prediction."""
        if self.rescale == 0:
            return output
        axes = tuple(range(1, output.ndim))
        spread, wanted = (widen(one).std(axes, keepdim=True) for one in (output, cond))
        factor = torch.where(spread > 0, wanted / spread, 1).to(output)
        return self.rescale * (output * factor) + (1 - self.rescale) * output


def _batch(sets: Sequence[Sequence[Context]]) -> list[Sequence[Context]]:
    """Concatenate sets of contexts along the batch, if their tokens have equal shapes."""
    shapes = [[context.tokens.shape for context in contexts] for contexts in sets]
    if len(sets) == 1 or any(shape != shapes[0] for shape in shapes):
        return list(sets)
    return [[replace(same[0], tokens=torch.cat([context.tokens for context in same])) for same in zip(*sets)]]  # noqa: B905
