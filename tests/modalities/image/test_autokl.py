"""The image codec of the official models, by its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from versatile_diffusion.modalities.image.autokl import AutoKLCodec


@pytest.fixture(scope="module")
def codec() -> AutoKLCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoKLCodec(
            {
                "block_out_channels": (32, 32),
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "sample_size": 16,
            }
        ).eval()


def pictures(count: int, width: int = 16, height: int = 16) -> list[Image.Image]:
    levels = np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in levels]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_shapes(codec):
    assert codec.factor == 2
    assert codec.latent_shape() == (4, 8, 8)
    assert codec.latent_shape(height=32, width=24) == (4, 16, 12)
    latents = codec.encode(pictures(2, width=24, height=32))
    assert latents.shape == (2, 4, 16, 12)
    assert [picture.size for picture in codec.decode(latents)] == [(24, 32)] * 2


def test_an_item_does_not_depend_on_its_batch(codec):
    first, second = pictures(2)
    together = codec.encode([first, second], seeded(5, 6))
    torch.testing.assert_close(codec.encode([second], seeded(6)), together[1:])
    assert not torch.allclose(codec.encode([second], seeded(7)), together[1:])


def test_posterior_is_centred_on_the_mean(codec):
    batch = pictures(1) * 64
    mean = codec.encode(batch[:1])
    samples = codec.encode(batch, seeded(*range(64)))
    spread = samples.std(dim=0)
    assert spread.min() > 0
    assert ((samples.mean(dim=0) - mean[0]).abs() < 6 * spread / 8).all()


def test_wrapping_shares_weights(codec):
    vae: AutoencoderKL = codec.vae
    wrapped = AutoKLCodec.from_autoencoder(vae)
    assert wrapped.vae.quant_conv.weight is vae.quant_conv.weight
    torch.testing.assert_close(wrapped.encode(pictures(1)), codec.encode(pictures(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saving(codec, tmp_path, dtype):
    codec.save_pretrained(tmp_path)
    again = AutoKLCodec.from_pretrained(tmp_path, dtype=dtype)
    assert again.dtype == dtype
    assert again.latent_shape() == codec.latent_shape()
    weights = codec.state_dict()
    assert all(torch.equal(value, weights[name].to(dtype)) for name, value in again.state_dict().items())
    tolerance = {torch.float32: 1e-5, torch.float16: 0.02}[dtype]
    expected = codec.encode(pictures(1))
    torch.testing.assert_close(again.encode(pictures(1)).float(), expected, rtol=tolerance, atol=tolerance)


def test_mistakes(codec):
    with pytest.raises(ValueError, match="one size"):
        codec.encode([*pictures(1), *pictures(1, width=18)])
    with pytest.raises(ValueError, match="no image"):
        codec.encode([])
    with pytest.raises(ValueError, match="15 x 16 pixels: both sides must be multiples of 2"):
        codec.encode(pictures(1, width=15))
    with pytest.raises(ValueError, match="multiples of 2"):
        codec.latent_shape(height=0, width=16)
    with pytest.raises(ValueError, match="no depth"):
        codec.latent_shape(depth=4)
    with pytest.raises(ValueError, match="3 generators for 1 images"):
        codec.encode(pictures(1), seeded(1, 2, 3))
    with pytest.raises(ValueError, match="no options; got top_k"):
        codec.decode(torch.zeros(1, 4, 8, 8), top_k=3)


def test_pictures_are_stretched_to_the_size_asked_for(codec):
    picture = pictures(1, width=30, height=20)[0]
    latents = codec.encode([picture], height=8, width=24)
    assert latents.shape == (1, 4, 4, 12)
    torch.testing.assert_close(latents, codec.encode([picture.resize((24, 8), Image.Resampling.BICUBIC)]))
    fitted = codec.fit(picture)
    assert fitted.size == (16, 16)
    assert codec.fit(fitted) is fitted
