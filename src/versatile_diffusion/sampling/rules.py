"""Guidance of a run: contexts with their scales and schedules, mixing levels, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.diffuser.context import (
    Context,
    Mix,
    MixByLayer,
    mix_by_attention,
)
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.fast import FAST, WHOLE
from versatile_diffusion.sampling.focus import join_tokens


@dataclass(frozen=True)
class Guide:
    """One context with its null context, guidance scale and schedule.

    Args:
        context: tokens (B, L, D) with stream, weight and region.
        null: null context of the task, or a negative: (B, L', D) of the same stream.
        scale: guidance scale; None uses the run's.
        start, end: active part of the trajectory, as fractions.
        blank: null context where no context applies; by default `null`.
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
        """Tokens used where no context applies."""
        return self.null if self.blank is None else self.blank


@dataclass(frozen=True)
class Cost:
    """Cost per item: passes through the diffuser, and context blocks run."""

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
    """A way to mix several contexts (paper section 3.3).

    Args:
        mix: mixing within a pass, `(rules, timestep) -> Mix`.
        separately: whether each context gets its own passes, whose predictions are averaged (model level).
        join: concatenates the contexts of a stream.
        regions: whether regions are supported.
        help: one line for users.
    """

    mix: Callable[[Rules, int], Mix]
    separately: bool = False
    join: Callable[[Sequence[Context]], list[Context]] = list
    regions: bool = False
    help: str = ""


def _by_attention(rules: Rules, timestep: int) -> Mix:
    return mix_by_attention


def _by_layer(rules: Rules, timestep: int) -> Mix:
    # Seeded per timestep: both passes of guidance, and a run that starts later, get the same choices.
    seed = rules.layer_seed * 1000 + timestep
    return MixByLayer(generator=seeds.generator_of(seed if rules.layer_bits == seeds.BITS else seed % 2**32))


def join_contexts(contexts: Sequence[Context]) -> list[Context]:
    """Concatenate the contexts of each stream along the tokens, as the 2023 demo does for images. The context with the
    largest weight keeps its tokens, the others are scaled by their relative weight; the weights are added."""
    streams: dict[str, list[Context]] = {}
    for context in contexts:
        streams.setdefault(context.stream, []).append(context)
    return [_join(group) if len(group) > 1 else group[0] for group in streams.values()]


def _join(group: Sequence[Context]) -> Context:
    most = max(context.weight for context in group)
    tokens = join_tokens([(context.tokens, context.weight / most) for context in group])
    return Context(group[0].stream, tokens, sum(context.weight for context in group))


MIXINGS: dict[str, Mixing] = {
    "attention": Mixing(_by_attention, regions=True, help="average the attention of all contexts, block by block"),
    "layer": Mixing(_by_layer, help="one random context per block; costs no more than a single context"),
    "model": Mixing(
        _by_attention, separately=True, regions=True, help="average whole predictions; costs a full run per context"
    ),
    "join": Mixing(
        _by_attention, join=join_contexts, help="concatenate all images to one context, as the 2023 demo does"
    ),
}


@dataclass(frozen=True)
class Rules:
    """Guidance settings of a run.

    Args:
        scale: guidance scale of contexts without their own.
        mixing: a key of `MIXINGS`.
        layer_seed: seed of layer mixing, shared by the batch.
        layer_bits: number of bits of it to use.
        layer_plan: context index of each block per step, instead of random choices.
        interval: part of the trajectory with guidance, as fractions; outside, the scale is 1.
        rescale: guidance rescale factor, 0 to 1 (Lin et al. 2024, section 3.4).
        timesteps: all timesteps in running order; required if anything applies to a part of the trajectory.
        fast: a key of `FAST`: the work to skip.
    """

    scale: float = 7.5
    mixing: str = "attention"
    layer_seed: int = 0
    layer_bits: int = seeds.BITS
    layer_plan: Sequence[Sequence[int]] | None = None
    interval: tuple[float, float] = WHOLE
    rescale: float = 0.0
    timesteps: Sequence[int] = ()
    fast: str = "off"

    def __post_init__(self) -> None:
        chosen("mixing", self.mixing, MIXINGS)
        chosen("fast", self.fast, FAST)

    @property
    def level(self) -> Mixing:
        return MIXINGS[self.mixing]

    @property
    def guides_in(self) -> tuple[float, float]:
        """The interval that was given; else that of the preset."""
        return FAST[self.fast].interval if self.interval == WHOLE else self.interval

    def renews(self, step: int) -> bool:
        """Whether the deep stages run in a step."""
        return step % FAST[self.fast].every == 0


def acts(start: float, end: float, step: int, steps: int) -> bool:
    """Return whether the part from `start` to `end` (fractions of the trajectory) contains the middle of a step, so
    that adjacent parts never share or miss a step."""
    return start <= (step + 0.5) / steps < end
