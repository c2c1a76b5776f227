"""Corruptions that make images unrecognisable, for the "nothing" class: a judge that accepts a smear of the right
colours measures nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "b 3 h w"]
Spoiling = Callable[[Pixels, torch.Generator], Pixels]

PAPER = 0.94
"""Pixels with all channels above this are background."""
LEAST_CHANGE = 0.06
"""Mean interior contrast below which a drawing is equivalent to its silhouette, e.g. a spade or a heart."""
LEAST_INSIDE = 0.04
"""Interior fraction below which a drawing is all lines."""


def blur(pixels: Pixels, sigma: float) -> Pixels:
    """Apply a Gaussian blur; `sigma` in pixels, white padding."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (weights / weights.sum()).expand(pixels.shape[1], 1, 1, -1)
    ink, channels = 1 - pixels, pixels.shape[1]
    across = F.conv2d(ink, kernel, padding=(0, radius), groups=channels)
    return 1 - F.conv2d(across, kernel.mT, padding=(radius, 0), groups=channels)


def between(low: float, high: float, generator: torch.Generator, size: int = 1) -> Float[Tensor, "n 1 1 1"]:
    """Draw numbers uniformly from a range."""
    drawn = torch.rand(size, 1, 1, 1, generator=generator, device=generator.device)
    return low + (high - low) * drawn


def blur_out(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Blur by 5 to 12 % of the side."""
    return blur(pixels, pixels.shape[-1] * float(between(0.05, 0.12, generator)))


def smear(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Warp by a large smooth displacement, random or a swirl."""
    size, side = len(pixels), pixels.shape[-1]
    coarse = torch.randn(size, 2, 5, 5, generator=generator, device=pixels.device)
    moves = F.interpolate(coarse, size=side, mode="bicubic") * between(0.25, 0.6, generator, size)
    line = torch.linspace(-1, 1, side, device=pixels.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    turn = between(4, 8, generator, size) * (1.2 - (x**2 + y**2).sqrt()).clamp(min=0)
    whirl = torch.cat([x * turn.cos() - y * turn.sin() - x, x * turn.sin() + y * turn.cos() - y], dim=1)
    return _warp(pixels, torch.where(between(0, 1, generator, size) < 0.7, moves, whirl))


def drag(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Motion-blur by a third to two thirds of the side."""
    size, copies = len(pixels), 16
    angle, length = between(0, 2 * math.pi, generator, size), between(0.7, 1.3, generator, size)
    step = torch.cat([angle.cos(), angle.sin()], dim=1) * length
    places = torch.linspace(-0.5, 0.5, copies).tolist()
    return torch.stack([_warp(pixels, (step * place).expand(-1, -1, *pixels.shape[2:])) for place in places]).mean(0)


def blend(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Average two or three images of the batch, which needs three or more."""
    share = between(0.4, 0.6, generator, len(pixels))
    two = share * pixels + (1 - share) * pixels.roll(1, 0)
    three = (pixels + pixels.roll(1, 0) + pixels.roll(2, 0)) / 3
    return torch.where(between(0, 1, generator, len(pixels)) < 0.6, two, three)


def noisy(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Cover by noise of any grain (the coarsest is one colour), or by confetti with white between."""
    size, side = len(pixels), pixels.shape[-1]
    share = between(0.8, 1.1, generator, size).clamp(max=1)
    grains = [grain for grain in (1, 4, 8, 16, side) if grain <= side]
    noise = []
    for _ in range(size):
        grain = grains[int(torch.randint(len(grains), (1,), generator=generator, device=generator.device))]
        drawn = torch.rand(1, 3, grain, grain, generator=generator, device=pixels.device)
        grey = F.interpolate(drawn, size=side, mode="bilinear")
        confetti = (4 * grey - 1).clamp(0, 1) if grain > 4 else grey
        noise.append(confetti if torch.rand(1, generator=generator, device=generator.device) < 0.5 else grey)
    return (1 - share) * pixels + share * torch.cat(noise)


def scramble(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Shuffle tiles of 1/4 or 1/8 of the side."""
    size, side = len(pixels), pixels.shape[-1]
    per_side = 4 if torch.rand(1, generator=generator, device=generator.device) < 0.5 else 8
    tile = side // per_side
    tiles = F.unfold(pixels, tile, stride=tile)
    order = torch.rand(size, 1, tiles.shape[-1], generator=generator, device=pixels.device).argsort(-1)
    return F.fold(tiles.gather(2, order.expand_as(tiles)), side, tile, stride=tile)


def silhouettes(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Keep sharp outlines around one colour or blurred colours. Drawings that are little more than that are scrambled
    instead."""
    inside = fill_enclosed(pixels)
    weight = inside.sum((2, 3), keepdim=True).clamp(min=1)
    flat = (inside * pixels).sum((2, 3), keepdim=True) / weight
    sigma = pixels.shape[-1] * float(between(0.08, 0.2, generator))
    near = 1 - blur(1 - inside, sigma)
    soft = (1 - blur(1 - inside * pixels, sigma)) / near.clamp(min=1e-3)
    filling = torch.where(between(0, 1, generator, len(pixels)) < 0.5, flat, soft)
    made = torch.where(inside > 0, filling, torch.ones_like(pixels)).clamp(0, 1)
    core = 1 - F.max_pool2d(1 - inside, 5, 1, 2)
    change = (core * (made - pixels).abs()).mean((1, 2, 3), keepdim=True)
    area = core.mean((1, 2, 3), keepdim=True)
    plain = (area < LEAST_INSIDE) | (change < LEAST_CHANGE * area)
    return torch.where(plain, scramble(pixels, generator), made)


def fill_enclosed(pixels: Pixels) -> Float[Tensor, "b 1 h w"]:
    """Return 1 on the drawing and its enclosed regions, 0 on background connected to the border."""
    paper = (pixels.amin(1, keepdim=True) > PAPER).to(pixels.dtype)
    outside = paper.clone()
    outside[:, :, 1:-1, 1:-1] = 0
    for _ in range(2 * pixels.shape[-1]):
        wider = torch.maximum(F.max_pool2d(outside, (3, 1), 1, (1, 0)), F.max_pool2d(outside, (1, 3), 1, (0, 1)))
        outside = wider * paper
    return 1 - outside


def _warp(pixels: Pixels, moves: Float[Tensor, "b 2 h w"]) -> Pixels:
    """Warp: `moves` in halves of the side, x and y."""
    here = torch.eye(2, 3, device=pixels.device).expand(len(pixels), -1, -1)
    places = F.affine_grid(here, list(pixels.shape), align_corners=False) + moves.permute(0, 2, 3, 1)
    return 1 - F.grid_sample(1 - pixels, places, align_corners=False)


SPOILT: Mapping[str, Spoiling] = {
    "blurred": blur_out,
    "smeared": smear,
    "dragged": drag,
    "blended": blend,
    "noisy": noisy,
    "scrambled": scramble,
    "silhouettes": silhouettes,
}
"""Corruptions of a batch."""
FEWEST = 3
"""Minimum images per corruption, so that three can be blended."""


def corrupt(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Corrupt each image in a random way, chosen per `FEWEST` images or more."""
    ways, groups = list(SPOILT.values()), pixels.tensor_split(len(pixels) // FEWEST)
    order = torch.randperm(len(ways), generator=generator, device=generator.device).tolist()
    return torch.cat([ways[order[k % len(ways)]](group, generator) for k, group in enumerate(groups)])
