"""Whole sampling runs against the original: guidance, several contexts, starts from a clean latent, step noise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.sampling.denoise import denoise, noisy_start
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import Guide
from versatile_diffusion.sampling.schedulers import SCHEDULERS

TOLERANCE = 1e-4

Vectors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def vectors(reference: Path) -> Vectors:
    return load_file(reference / "diffuser" / "ddim.safetensors")


@pytest.fixture(scope="module")
def cases(reference: Path) -> list[dict[str, Any]]:
    return json.loads((reference / "diffuser" / "ddim.json").read_text())


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def run(case: dict[str, Any], vectors: Vectors, predict: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Our sampler's state and clean estimate after each step of a case."""
    name = case["name"]
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(case["steps"])
    start = case["steps"] - case.get("x0_forward_timesteps", case["steps"])
    latent = vectors[f"{name}.x_start"]
    if f"{name}.x0" in vectors:
        latent = noisy_start(scheduler, vectors[f"{name}.x0"], vectors[f"{name}.x0_noise"], start)
        assert far(latent, vectors[f"{name}.x_start"]) <= TOLERANCE
    noise = iter(vectors.get(f"{name}.step_noise", ()))
    states = denoise(predict, scheduler, latent, start=start, eta=case["eta"], step_noise=lambda: next(noise))
    timesteps = []
    for state in states:
        timesteps.append(state.timestep)
        yield state.latent, state.pred_x0
    assert timesteps == case["timesteps"]


def compare(case: dict[str, Any], vectors: Vectors, predict: Any) -> None:
    name = case["name"]
    steps = list(run(case, vectors, predict))
    for ours, theirs in zip(zip(*steps, strict=True), ("x", "pred_x0"), strict=True):
        assert far(torch.stack(ours), vectors[f"{name}.{theirs}"]) <= TOLERANCE, f"{name}.{theirs}"


def test_trajectories(
    cases: list[dict[str, Any]], vectors: Vectors, diffuser: MultiFlowUNet, needs: Any, subtests: Any
) -> None:
    """Every case with the network, from its first latent to its last."""
    assert cases
    for case in cases:
        with subtests.test(case=case["name"]):
            streams = [context["context"].rstrip("0123456789") for context in case["contexts"]]
            needs(case["data"], *streams)
            guides = []
            for stream, context in zip(streams, case["contexts"], strict=True):
                tokens, null = vectors[f"c.{context['context']}"], context["uncond"]
                blank = torch.zeros_like(tokens) if null == "zeros" else vectors[f"u.{null}"]
                guides.append(Guide(Context(stream, tokens, context["ratio"]), blank))
            compare(case, vectors, guided(diffuser, guides, data=case["data"], scale=case["scale"]))


def test_scheduler_alone(cases: list[dict[str, Any]], vectors: Vectors) -> None:
    """Every case without the network: the noise that it predicted follows from the states that were stored."""
    alphas = SCHEDULERS["ddim"]().alphas_cumprod
    assert cases
    for case in cases:
        name = case["name"]
        before = torch.cat([vectors[f"{name}.x_start"][None], vectors[f"{name}.x"][:-1]])
        predicted = [
            (x - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt()
            for x, clean, t in zip(before, vectors[f"{name}.pred_x0"], case["timesteps"], strict=True)
        ]
        answers = iter(predicted)
        compare(case, vectors, lambda latent, timestep, answers=answers: next(answers))
