"""Samplers by their laws: with a network that knows the answer, each of them arrives there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from versatile_diffusion.sampling.denoise import StepState, denoise, noisy_start, start_step
from versatile_diffusion.sampling.schedulers import SCHEDULERS, clean_and_noise, named_scheduler, scheduler_name

OUTPUTS = {
    "epsilon": lambda clean, noise, signal, sigma: noise,
    "v_prediction": lambda clean, noise, signal, sigma: signal * noise - sigma * clean,
    "sample": lambda clean, noise, signal, sigma: clean,
}


def oracle(scheduler: Any, clean: torch.Tensor) -> Any:
    """A network that sees in every noisy latent the one clean latent."""

    def predict(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha = scheduler.alphas_cumprod[int(timestep[0])]
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        return OUTPUTS[scheduler.config.prediction_type](clean, (latent - signal * clean) / sigma, signal, sigma)

    return predict


def sample(scheduler: Any, steps: int, clean: torch.Tensor, **options: Any) -> list[StepState]:
    scheduler.set_timesteps(steps)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    start = noisy_start(scheduler, clean, noise, options.get("start", 0))
    return list(denoise(oracle(scheduler, clean), scheduler, start, **options))


@pytest.fixture
def clean() -> torch.Tensor:
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50])
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_oracle_is_followed(name: str, kind: str, steps: int, clean: torch.Tensor) -> None:
    states = sample(SCHEDULERS[name](prediction_type=kind), steps, clean)
    assert [state.index for state in states] == list(range(steps))
    assert all(state.total == steps for state in states)
    assert all(a.timestep > b.timestep for a, b in pairwise(states))
    assert torch.allclose(states[-1].pred_x0, clean, atol=2e-3)
    if (name, steps) != ("ddim", 1):  # the original's single step begins at timestep 1, which noise does not fit
        assert torch.allclose(states[-1].latent, clean, atol=0.15 if name == "ddim" else 2e-3)


def test_ddim_ends_at_the_first_alpha(clean: torch.Tensor) -> None:
    scheduler = SCHEDULERS["ddim"]()
    final = sample(scheduler, 10, clean)[-1]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    alpha = scheduler.alphas_cumprod[0]
    before = (final.latent - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    assert before.std() > 0.5 * noise.std()  # what is left is noise of that size


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 33, 50, 333, 999, 1000])
def test_ddim_takes_exactly_n_steps(steps: int) -> None:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert 0 <= timesteps[-1] <= 1
    assert timesteps[0] >= 1000 - 1000 / steps


def test_eta_needs_noise_and_uses_it(clean: torch.Tensor) -> None:
    source = torch.Generator().manual_seed(3)
    calm = sample(SCHEDULERS["ddim"](), 10, clean)
    noisy = sample(
        SCHEDULERS["ddim"](), 10, clean, eta=1.0, step_noise=lambda: torch.randn(clean.shape, generator=source)
    )
    assert not torch.allclose(calm[4].latent, noisy[4].latent, atol=0.1)
    assert torch.allclose(noisy[-1].pred_x0, clean, atol=2e-3)
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="variance_noise"):
        scheduler.step(clean, 901, clean, eta=0.5)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("fidelity", [0.02, 0.34, 0.5, 0.9, 0.98])
def test_a_start_leaves_out_steps(name: str, fidelity: float, clean: torch.Tensor) -> None:
    start = start_step(50, fidelity)
    assert start == round(50 * fidelity)
    states = sample(SCHEDULERS[name](), 50, clean, start=start)
    assert len(states) == 50 - start
    assert torch.allclose(states[-1].pred_x0, clean, atol=2e-3)


def test_noised_ends() -> None:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(10)
    clean, noise = torch.zeros(1, 3), torch.ones(1, 3)
    assert torch.equal(noisy_start(scheduler, clean, noise, 0), noise)
    assert torch.equal(noisy_start(scheduler, clean, noise, 10), clean)


def test_a_sent_latent_takes_over(clean: torch.Tensor) -> None:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(3)
    seen = []
    states = denoise(lambda latent, timestep: seen.append(latent) or latent, scheduler, clean)
    next(states)
    states.send(torch.full_like(clean, 5.0))
    assert torch.equal(seen[1], torch.full_like(clean, 5.0))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_clean_and_noise_invert(kind: str, clean: torch.Tensor) -> None:
    scheduler = SCHEDULERS["ddim"](prediction_type=kind)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    alpha = scheduler.alphas_cumprod[400]
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    output = OUTPUTS[kind](clean, noise, signal, sigma)
    found = clean_and_noise(scheduler, output, 400, signal * clean + sigma * noise)
    assert torch.allclose(found[0], clean, atol=1e-5)
    assert torch.allclose(found[1], noise, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_named_schedulers_keep_what_was_trained(name: str) -> None:
    trained = SCHEDULERS["ddim"](prediction_type="v_prediction", beta_end=0.02)
    scheduler = named_scheduler(name, trained.config)
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(scheduler.betas, trained.betas)
    assert scheduler_name(scheduler) == name


def test_unknown_scheduler() -> None:
    with pytest.raises(ValueError, match=r"unknown scheduler 'euler'; allowed: ddim, dpm\+\+, unipc"):
        named_scheduler("euler")


def test_too_many_steps() -> None:
    with pytest.raises(ValueError, match="from 1 to 1000"):
        SCHEDULERS["ddim"]().set_timesteps(1001)
