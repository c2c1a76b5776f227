"""How far half precision is from the original's float32, in units of the number format's rounding.

On the reference's small models single calls were measured at up to 5 units (bfloat16 0.019, float16 0.0023) and whole
runs of ten steps with guidance 7.5 at up to 12 (bfloat16 0.033, float16 0.006).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.parity.conftest import read_json, relative
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.official import build_autokl, build_clip, build_optimus
from versatile_diffusion.sampling.denoise import denoise
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import Guide
from versatile_diffusion.sampling.schedulers import SCHEDULERS

UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
CALL, RUN = 16, 32  # most units


@pytest.fixture(params=UNIT, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def half(module: nn.Module, dtype: torch.dtype) -> Any:
    return copy.deepcopy(module).to(dtype)


def units(ours: Tensor, theirs: Tensor) -> float:
    """The difference, in units of the rounding of ours; ours is half precision, or made by it."""
    return relative(ours.float(), theirs) / UNIT.get(ours.dtype, 1)


def part(reference: Path, name: str, build: Callable[..., Any]) -> tuple[Any, dict[str, Tensor]]:
    folder = reference / name
    built = build(read_json(folder / "config.json"), load_file(folder / "weights.safetensors"))
    return built, load_file(folder / f"{name}.safetensors")


@torch.no_grad()
def test_flows(reference: Path, diffuser: MultiFlowUNet, dtype: torch.dtype) -> None:
    vectors = load_file(reference / "diffuser" / "flows.safetensors")
    unet = half(diffuser, dtype)
    for data in unet.data:
        for context in unet.context:
            tokens = Context(context, vectors[f"c_{context}"].to(dtype))
            noise = unet(vectors[f"x_{data}"].to(dtype), vectors["t"], [tokens], data=data)
            assert noise.dtype == dtype
            assert units(noise, vectors[f"eps.{data}_from_{context}"]) < CALL, (data, context)


def test_runs(reference: Path, diffuser: MultiFlowUNet, dtype: torch.dtype) -> None:
    """One run with guidance for each modality that is generated; the sampler itself keeps float32."""
    vectors = load_file(reference / "diffuser" / "ddim.safetensors")
    unet = half(diffuser, dtype)
    for case in whole_runs(read_json(reference / "diffuser" / "ddim.json"), diffuser):
        given = case["contexts"][0]
        tokens = vectors[f"c.{given['context']}"].to(dtype)
        null = torch.zeros_like(tokens) if given["uncond"] == "zeros" else vectors[f"u.{given['uncond']}"].to(dtype)
        guide = Guide(Context(given["context"].rstrip("0123456789"), tokens), null)
        scheduler = SCHEDULERS["ddim"]()
        scheduler.set_timesteps(case["steps"])
        predict = guided(unet, [guide], data=case["data"], scale=case["scale"])
        *_, last = denoise(predict, scheduler, vectors[f"{case['name']}.x_start"])
        assert last.latent.dtype == torch.float32
        assert relative(last.latent, vectors[f"{case['name']}.x"][-1]) < RUN * UNIT[dtype], case["name"]


def whole_runs(cases: list[dict[str, Any]], unet: MultiFlowUNet) -> Iterator[dict[str, Any]]:
    """Of each modality the first run with guidance, from noise, without step noise, under one context."""
    seen = set()
    for case in cases:
        plain = case["eta"] == 0 and "x0_forward_timesteps" not in case and len(case["contexts"]) == 1
        known = case["data"] in unet.data and case["contexts"][0]["context"].rstrip("0123456789") in unet.context
        if plain and known and case["scale"] != 1 and case["data"] not in seen:
            seen.add(case["data"])
            yield case
    assert seen


@torch.no_grad()
def test_context_encoders(reference: Path, dtype: torch.dtype) -> None:
    clip, vectors = part(reference, "clip", build_clip)
    assert units(half(clip.text, dtype)(vectors["text.ids"]), vectors["text.context"]) < CALL
    assert units(half(clip.image, dtype)(vectors["image.pixel_values"]), vectors["image.context"]) < CALL


@torch.no_grad()
def test_codecs(reference: Path, dtype: torch.dtype) -> None:
    vae, vectors = part(reference, "autokl", build_autokl)
    vae = half(vae, dtype)
    assert units(vae.encode((vectors["image"] * 2 - 1).to(dtype)).latent_dist.mean, vectors["mean"]) < CALL
    latent = (vectors["latent"] / vae.config.scaling_factor).to(dtype)
    assert units(vae.decode(latent).sample, vectors["decoder_raw"]) < CALL
    optimus, vectors = part(reference, "optimus", build_optimus)
    optimus = half(optimus, dtype)
    assert units(optimus.posterior(vectors["bert.ids"]).mean, vectors["latent.mu"]) < CALL
    assert units(optimus.decoder(vectors["gpt2.ids"], vectors["gpt2.latent"].to(dtype)), vectors["gpt2.logits"]) < CALL
