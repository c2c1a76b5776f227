"""Images in which nothing can be recognised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange

from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.spoilt import SPOILT, blur, corrupt, fill_enclosed, silhouettes

DATA = Path(__file__).parents[2] / "data" / "emoji"


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    images = torch.from_numpy(EmojiSet.load(DATA, "pair-test").pictures[:12])
    return rearrange(images, "n h w c -> n c h w").float() / 255


@pytest.mark.parametrize("way", SPOILT)
def test_every_way_changes_every_image_by_chance_alone(way: str, pixels) -> None:
    def made(seed: int) -> torch.Tensor:
        return SPOILT[way](pixels, torch.Generator().manual_seed(seed))

    once = made(1)
    assert once.shape == pixels.shape
    assert torch.equal(once, made(1))
    assert not torch.equal(once, made(2))
    assert -1e-4 <= once.min() <= once.max() <= 1 + 1e-4
    assert ((once - pixels).abs().mean((1, 2, 3)) > 0.02).all()


def test_a_batch_has_several_ways_and_keeps_its_length(pixels) -> None:
    made = corrupt(pixels[:8], torch.Generator().manual_seed(0))
    assert made.shape == pixels[:8].shape
    assert not torch.equal(made, pixels[:8])


def test_blur_keeps_white_white_and_ink_as_much() -> None:
    white = torch.ones(1, 3, 32, 32)
    assert torch.allclose(blur(white, 3.0), white)
    dot = white.clone()
    dot[:, :, 16, 16] = 0
    assert torch.allclose((1 - blur(dot, 2.0)).sum(), (1 - dot).sum(), atol=1e-3)


def test_what_a_line_encloses_is_inside_and_a_disc_is_its_own_silhouette() -> None:
    ring = torch.ones(3, 3, 32, 32)
    ring[:, :, 8:24, 8:24] = 0
    disc = ring.clone()
    ring[:, :, 10:22, 10:22] = 1
    assert torch.equal(fill_enclosed(ring), fill_enclosed(disc))
    assert fill_enclosed(ring).sum() == 3 * 16 * 16
    generator = torch.Generator().manual_seed(0)
    flat = silhouettes(ring, generator)
    inside = flat[:, :, 8:24, 8:24]
    assert inside.std(dim=(2, 3)).max() < 0.5 * ring[:, :, 8:24, 8:24].std()
    assert (flat[:, :, :8] == 1).all()
    scrambled = silhouettes(disc, generator)
    assert not (scrambled[:, :, 8:24, 8:24] == 0).all()  # or it would be the disc itself
