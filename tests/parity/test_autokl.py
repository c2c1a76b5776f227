"""The image autoencoder against the original's numbers, and its names at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conftest import read_json, relative
from versatile_diffusion.interop.names.autokl import autokl_config, autokl_rules, infer_autokl_config
from versatile_diffusion.interop.names.keymap import to_official
from versatile_diffusion.interop.official import build_autokl
from versatile_diffusion.modalities.image.autokl import AutoKLCodec

SINGLE_CALL = 2e-5
PREFIX = "vae.image."


@pytest.fixture(scope="module")
def vectors(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "autokl" / "autokl.safetensors")


@pytest.fixture(scope="module")
def state(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "autokl" / "weights.safetensors")


@pytest.fixture(scope="module")
def vae(reference: Path, state: dict[str, Tensor]) -> AutoencoderKL:
    return build_autokl(read_json(reference / "autokl" / "config.json"), state)


@pytest.fixture(scope="module")
def codec(vae: AutoencoderKL) -> AutoKLCodec:
    return AutoKLCodec.from_autoencoder(vae)


@torch.no_grad()
def test_posterior(vae, vectors):
    posterior = vae.encode(vectors["image"] * 2 - 1).latent_dist
    assert relative(vae.encoder(vectors["image"] * 2 - 1), vectors["encoder_out"]) < SINGLE_CALL
    assert relative(posterior.parameters, vectors["moments"]) < SINGLE_CALL
    assert relative(posterior.mean, vectors["mean"]) < SINGLE_CALL
    assert relative(posterior.logvar, vectors["logvar"]) < SINGLE_CALL
    assert relative(posterior.std, vectors["std"]) < SINGLE_CALL
    assert relative(posterior.kl(), vectors["kl"]) < SINGLE_CALL


def test_latents_are_scaled(codec, vectors):
    scale = codec.vae.config.scaling_factor
    assert relative(codec.encode_pixels(vectors["image"]), scale * vectors["mean"]) < SINGLE_CALL
    assert relative(scale * vectors["z"], vectors["latent"]) < 1e-5


@pytest.mark.parametrize(("latent", "raw", "decoded"), [("latent", "", ""), ("latent2", "2", "2")])
@torch.no_grad()
def test_decoded(codec, vectors, latent, raw, decoded):
    unscaled = vectors[latent] / codec.vae.config.scaling_factor
    assert relative(codec.vae.decode(unscaled).sample, vectors[f"decoder_raw{raw}"]) < SINGLE_CALL
    assert relative(codec.decode_pixels(vectors[latent]), vectors[f"decoded{decoded}"]) < SINGLE_CALL


def test_names_go_both_ways(vae, state):
    back = to_official(vae.state_dict(), autokl_rules(len(vae.config.block_out_channels)))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_configuration_is_read_off_the_weights(reference, state):
    given = autokl_config(read_json(reference / "autokl" / "config.json"))
    side = given["sample_size"]
    assert autokl_config(infer_autokl_config(state, resolution=side)) == given


def test_full_size_names_and_shapes(manifest):
    shapes = {n.removeprefix(PREFIX): tuple(s) for n, s in manifest["keys"].items() if n.startswith(PREFIX)}
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    vae = build_autokl(infer_autokl_config(state), state)
    assert vae.config.block_out_channels == [128, 256, 512, 512]
    assert sum(p.numel() for p in vae.parameters()) == manifest["parameter_counts"]["vae_image"]
    back = to_official(vae.state_dict(), autokl_rules(4))
    assert {name: tuple(value.shape) for name, value in back.items()} == shapes
