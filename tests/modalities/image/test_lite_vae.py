"""The small image codec."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from versatile_diffusion.modalities.image.lite_vae import LiteVAE, pixels_of


@pytest.fixture(scope="module")
def codec() -> LiteVAE:
    torch.manual_seed(0)
    codec = LiteVAE(widths=(8, 16), sample_size=16)
    codec.latent_mean.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    codec.latent_std.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    return codec.eval()


def test_shapes_there_and_back(codec: LiteVAE, picture: Image.Image) -> None:
    latents = codec.encode([picture, picture.resize((16, 16))])
    assert latents.shape == (2, *codec.latent_shape()) == (2, 4, 4, 4)
    assert [(p.size, p.mode) for p in codec.decode(latents)] == [((16, 16), "RGB")] * 2


def test_latents_are_scaled_by_the_measured_mean_and_deviation(codec: LiteVAE, picture: Image.Image) -> None:
    raw = codec.posterior(codec.pixels([picture]))[0]
    latents = codec.encode([picture])
    assert torch.allclose(latents[:, 1], (raw[:, 1] + 2) / 2)
    assert torch.allclose(codec.denormalise(latents), raw, atol=1e-6)


def test_generators_sample_the_posterior_item_by_item(codec: LiteVAE, picture: Image.Image) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = codec.encode([picture, picture], generators(0, 1))
    assert torch.allclose(both[1:], codec.encode([picture], generators(1)), atol=1e-5)
    assert not torch.allclose(both[0], both[1])
    with pytest.raises(ValueError, match="1 generators for 2"):
        codec.encode([picture, picture], generators(0))


def test_saving_and_loading_keeps_numbers_and_scale(codec: LiteVAE, picture: Image.Image, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    again = LiteVAE.from_pretrained(tmp_path)
    assert torch.equal(again.latent_std, codec.latent_std)
    assert torch.equal(again.encode([picture]), codec.encode([picture]))


def test_pictures_are_fitted_onto_a_white_square() -> None:
    wide = Image.new("RGB", (40, 20), "black")
    pixels = pixels_of([wide, Image.new("RGBA", (16, 16), (0, 0, 0, 0))], 16)
    assert pixels[0, :, :4].min() == 1
    assert pixels[0, :, 4:12].max() == 0
    assert pixels[1].min() == 1


def test_any_size_that_its_strides_divide(codec: LiteVAE, picture: Image.Image) -> None:
    wide = codec.encode([picture], height=8, width=24)
    assert wide.shape == (1, *codec.latent_shape(height=8, width=24)) == (1, 4, 2, 6)
    assert codec.decode(wide)[0].size == (24, 8)
    fitted = codec.fit(picture, height=8, width=24)
    assert fitted.size == (24, 8)
    assert fitted.getpixel((0, 0)) == (255, 255, 255)  # 24 x 20 becomes 10 x 8 in the middle
    assert torch.equal(codec.encode([fitted], height=8, width=24), wide)
    assert torch.equal(codec.encode([picture], height=16, width=16), codec.encode([picture]))
    for size in ({"height": 18}, {"width": 0}, {"depth": 4}):
        with pytest.raises(ValueError, match=r"multiples of 4|has no depth"):
            codec.latent_shape(**size)


def test_the_size_must_fit_the_strides() -> None:
    with pytest.raises(ValueError, match="18"):
        LiteVAE(sample_size=18)
