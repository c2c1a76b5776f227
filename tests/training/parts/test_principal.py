"""A text codec turned onto its principal directions."""

from __future__ import annotations

import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.training.parts.principal import onto_principal_directions


def test_the_turned_codec_says_the_same_with_fewer_uncorrelated_channels() -> None:
    codec = build_tiny_pipeline().bank.codecs["text"]
    generator = torch.Generator().manual_seed(0)
    pad = codec.config.encoder_ids["pad"]
    ids = torch.randint(5, codec.config.bert["vocab_size"], (64, 6), generator=generator)
    ids[::3, 4:] = pad
    with torch.no_grad():  # an encoder that uses three directions of its latent, off zero
        weight = codec.encoder.to_moments.weight
        size = len(weight) // 2
        weight[:size] = torch.randn(size, 3, generator=generator) @ torch.randn(3, weight.shape[1], generator=generator)
        means = codec.posterior(ids).mean
        codec.latent_mean.copy_(means.mean(0))
        codec.latent_std.copy_(means.std(0))
        turned = onto_principal_directions(codec, ids, least=1e-4)
        moments = turned.posterior(ids).mean
        latents = (moments - turned.latent_mean) / turned.latent_std
        assert turned.latent_shape() == (3,)
        assert torch.allclose(torch.cov(latents.T), torch.eye(3), atol=1e-3)
        assert torch.allclose(latents.mean(0), torch.zeros(3), atol=1e-4)
        begun = torch.full((64, 1), codec.config.decoder_ids["begin"])
        expected = codec.decoder(begun, means)
        assert torch.allclose(turned.decoder(begun, turned.raw(latents)), expected, atol=1e-3 * expected.abs().max())
