"""Parts of the canvas, and what is kept of a start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition
from versatile_diffusion.pipeline.canvas import CanvasPart

FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0}
SHAPE = (4, 8, 6)


def part(given: Any) -> CanvasPart:
    return CanvasPart.check(given, "region", "image", SHAPE)


def test_a_box_covers_its_share_of_every_cell() -> None:
    share = part((0.25, 0.0, 1.0, 0.5)).share(8, 6)
    expected = torch.zeros(8, 6)
    expected[:4] = torch.tensor([0, 0.5, 1, 1, 1, 1])
    assert torch.allclose(share, expected, atol=1e-6)
    assert torch.equal(part((0.25, 0.0, 1.0, 0.5)).touched(8, 6), expected > 0)
    assert float(part((0.1, 0.2, 0.7, 0.9)).share(8, 6).mean()) == pytest.approx(0.6 * 0.7)


@pytest.mark.parametrize("scale", [1, 4, 25])
def test_a_mask_of_any_size_covers_the_same(scale: int) -> None:
    small = np.zeros((8, 6), np.float32)
    small[2:5, 1:4] = 1
    mask = np.kron(small, np.ones((scale, scale), np.float32))
    assert torch.allclose(part(mask).share(8, 6), torch.from_numpy(small))
    assert torch.equal(part(mask).touched(8, 6), torch.from_numpy(small) > 0)
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    assert torch.equal(part(picture).share(8, 6), part(mask).share(8, 6))


def test_soft_masks_act_in_part() -> None:
    soft = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (80, 1))
    share = part(soft).share(8, 6)
    assert torch.all(share.diff(dim=1) > 0.1)
    assert float(share.mean()) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.5, 0, 0.2, 1), "0 <= left < right <= 1"),
        ((0, 0, 1), "a box is"),
        ((0, 0, 1, 2), "a box is"),
        (np.ones((8, 8)), "the mask is 8 x 8, but the canvas has aspect ratio 6:8"),
        (np.zeros((8, 6)), "all black"),
        (np.ones((8, 6, 3)), "shape"),
        (np.full((8, 6), 7.0), "from 0 to 1"),
        ("no/such.png", "no such image file"),
    ],
)
def test_parts_that_are_none_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part(given)


def test_a_text_has_no_canvas() -> None:
    with pytest.raises(ValueError, match="text has no canvas"):
        CanvasPart.check((0, 0, 1, 1), "region", "text", (32,))


class TestRepaint:
    @pytest.fixture
    def square(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))

    def test_what_is_kept_is_kept_exactly(self, tiny_pipeline: Any, square: Image.Image) -> None:
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 6:12] = 255
        out = tiny_pipeline.text_to_image("a dog", start=square, repaint=mask, num_outputs=2, seed=0, **FAST)
        for image in out.images:
            same = (np.asarray(image) == np.asarray(square)).all(-1)
            assert same[mask == 0].all()
            assert not same[mask > 0].all()
        assert not np.array_equal(np.asarray(out.images[0]), np.asarray(out.images[1]))

    def test_its_latents_are_kept_at_every_step(self, tiny_pipeline: Any, square: Image.Image) -> None:
        clean = tiny_pipeline.bank.codecs["image"].encode([square])
        seen = []

        def watch(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
            seen.append(tensors["latents"])

        box = (0, 0, 0.5, 1)
        out = tiny_pipeline.text_to_image(
            "a dog", start=square, repaint=box, seed=0, callback_on_step_end=watch, **FAST
        )
        assert torch.equal(out.latents[..., 2:], clean[..., 2:])
        scheduler = type(tiny_pipeline.scheduler).from_config(tiny_pipeline.scheduler.config)
        scheduler.set_timesteps(4)
        noise = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
        for step, latent in enumerate(seen[:-1]):
            alpha = scheduler.alphas_cumprod[scheduler.timesteps[step + 1]]
            assert torch.allclose(latent[..., 2:], (alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)[..., 2:])

    @pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
    def test_with_everything_repainted_it_is_a_plain_run(
        self, tiny_pipeline: Any, square: Image.Image, scheduler: str
    ) -> None:
        plain = tiny_pipeline.text_to_image("a dog", seed=0, scheduler=scheduler, **FAST)
        whole = tiny_pipeline.text_to_image(
            "a dog", start=square, repaint=(0, 0, 1, 1), seed=0, scheduler=scheduler, **FAST
        )
        assert torch.equal(whole.latents, plain.latents)

    def test_with_fidelity_the_part_begins_from_the_start(self, tiny_pipeline: Any, square: Image.Image) -> None:
        runs = [
            tiny_pipeline.text_to_image("a dog", start=square, repaint=(0, 0, 0.5, 1), fidelity=f, seed=0, **FAST)
            for f in (0.0, 0.75)
        ]
        clean = tiny_pipeline.bank.codecs["image"].encode([square])
        assert (runs[1].latents - clean).norm() < (runs[0].latents - clean).norm()

    def test_item_k_is_item_k_alone_and_replays(self, tiny_pipeline: Any, square: Image.Image, tmp_path: Path) -> None:
        files = [tmp_path / "start.png", tmp_path / "mask.png"]
        square.save(files[0])
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(files[1])
        run = {"start": str(files[0]), "repaint": str(files[1]), **FAST}
        batch = tiny_pipeline.text_to_image("a dog", num_outputs=2, seed=3, **run)
        alone = tiny_pipeline.text_to_image("a dog", seed=4, **run)
        assert torch.allclose(batch.latents[1:], alone.latents, atol=1e-4)
        again = tiny_pipeline.replay(alone.settings)
        assert torch.equal(again.latents, alone.latents)
        assert again.settings == alone.settings


def test_any_size_that_codec_and_levels_divide(tiny_pipeline: Any, picture: Image.Image) -> None:
    run = {"seed": 0, **FAST}
    wide = tiny_pipeline.text_to_image("a dog", height=16, width=40, num_outputs=2, **run)
    assert [image.size for image in wide.images] == [(40, 16)] * 2
    kept = tiny_pipeline.image_variation(picture, start=picture, fidelity=1.0, height=24, width=40, **run)
    assert kept.images[0].size == (40, 24)
    assert torch.equal(kept.latents, tiny_pipeline.bank.codecs["image"].encode([picture], height=24, width=40))
    limited = tiny_pipeline.generate(
        "image", [Condition("text", "a dog", region=np.eye(16, 40))], height=16, width=40, **run
    )
    assert limited.images[0].size == (40, 16)
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny_pipeline.text_to_image("a dog", height=18, width=16, **run)
    with pytest.raises(ValueError, match=r"3 x 5 latents.*multiples of 2 \(of 8 pixels\)"):
        tiny_pipeline.text_to_image("a dog", height=20, width=12, **run)
