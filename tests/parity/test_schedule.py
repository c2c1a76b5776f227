"""The noise schedule and the DDIM steps against the original's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from versatile_diffusion.sampling.schedulers import SCHEDULERS

TOLERANCE = 1e-5


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    theirs = theirs.double()
    return bool((ours.double() - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


@pytest.fixture(scope="module")
def vectors(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "schedule.safetensors")


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_betas_and_alphas(vectors: dict[str, torch.Tensor], name: str) -> None:
    scheduler = SCHEDULERS[name]()
    assert close(scheduler.betas, vectors["betas"])
    assert close(scheduler.alphas_cumprod, vectors["alphas_cumprod"])


def test_ddim_steps(vectors: dict[str, torch.Tensor]) -> None:
    """Timesteps, alphas and sigmas for every number of steps in the reference that divides 1000."""
    counts = [int(key[4:-10]) for key in vectors if key.startswith("ddim") and key.endswith(".timesteps")]
    exact = [n for n in counts if 1000 % n == 0]
    assert exact
    for n in exact:
        theirs = {key.split(".", 1)[1]: value for key, value in vectors.items() if key.startswith(f"ddim{n}.")}
        scheduler = SCHEDULERS["ddim"]()
        scheduler.set_timesteps(n)
        ascending = scheduler.timesteps.flip(0)
        assert ascending.tolist() == theirs["timesteps"].tolist()
        alphas = scheduler.alphas_cumprod[ascending]
        assert close(alphas, theirs["alphas"])
        assert close((1 - alphas).sqrt(), theirs["sqrt_one_minus_alphas"])
        # A step from a clean estimate of 1 and noise 0 shows the alpha it ends at; one from noise shows its sigma.
        for t, alpha, sigma in zip(ascending, theirs["alphas_prev"], theirs["sigmas_eta0.5"], strict=True):
            one = scheduler.alphas_cumprod[t].sqrt() * torch.ones(1)
            calm, _ = scheduler.step(torch.zeros(1), t, one, return_dict=False)
            noisy, _ = scheduler.step(torch.zeros(1), t, one, eta=0.5, variance_noise=torch.ones(1), return_dict=False)
            assert close(calm, alpha.sqrt()[None])
            assert abs(float(noisy - calm) - float(sigma)) <= TOLERANCE


def test_other_counts_take_exactly_that_many(vectors: dict[str, torch.Tensor]) -> None:
    """Where the original takes more steps than asked for, ours takes as many, over the same range."""
    for key in vectors:
        if not (key.startswith("ddim") and key.endswith(".timesteps")):
            continue
        n = int(key[4:-10])
        scheduler = SCHEDULERS["ddim"]()
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == n
        assert scheduler.timesteps[-1] == vectors[key][0] == 1
