"""Predictions, weights of noise levels, and what is added to the noise."""

from __future__ import annotations

import pytest
import torch

from versatile_diffusion.sampling.schedulers import SCHEDULERS, named_scheduler
from versatile_diffusion.training.diffuser.denoising import BANDS, MIN_SNR, TARGETS, Denoising

TIMESTEP = torch.tensor([3, 250, 600, 999, 999, 40])


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_the_right_answer_has_no_loss_and_another_has(prediction, min_snr, latent, noise) -> None:
    denoising = Denoising(prediction, min_snr)
    target = TARGETS[prediction](denoising.scheduler, latent, noise, TIMESTEP)
    for answer, right in ((target, True), (target + 1, False)):
        loss, errors = denoising.loss(lambda _, answer=answer: answer, latent, noise, TIMESTEP)
        assert (float(loss) == 0) == right
        assert torch.allclose(errors, torch.zeros(6) if right else torch.ones(6), atol=1e-6)


def test_the_plain_loss_is_the_mean_squared_error(latent, noise) -> None:
    loss, errors = Denoising().loss(lambda noisy: 0.3 * noisy, latent, noise, TIMESTEP)
    noisy = SCHEDULERS["ddim"]().add_noise(latent, noise, TIMESTEP)
    assert torch.equal(loss, torch.nn.functional.mse_loss(0.3 * noisy, noise))
    assert torch.allclose(errors.mean(), loss)


def test_min_snr_weighs_the_error_of_the_clean_latent_whatever_is_predicted(latent, noise) -> None:
    timestep = torch.tensor([20, 250, 400, 600, 800, 900])
    wrong = latent + 0.1 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    scheduler = SCHEDULERS["ddim"]()
    alpha = scheduler.alphas_cumprod[timestep][:, None, None, None].double()
    noisy = scheduler.add_noise(latent, noise, timestep).double()
    implied = (noisy - alpha.sqrt() * wrong) / (1 - alpha).sqrt()
    answers = {
        "epsilon": implied,
        "v_prediction": alpha.sqrt() * implied - (1 - alpha).sqrt() * wrong,
        "sample": wrong.double(),
    }
    losses = [
        float(Denoising(kind, 5.0).loss(lambda _, kind=kind: answers[kind], latent, noise, timestep)[0])
        for kind in MIN_SNR
    ]
    snr = (alpha / (1 - alpha)).flatten()
    expected = float((snr.clamp(max=5) * ((wrong - latent) ** 2).flatten(1).mean(1)).mean())
    assert losses == pytest.approx([expected] * 3, rel=1e-4)
    assert snr.min() < 5 < snr.max()


def test_a_schedule_that_ends_in_noise_is_kept_by_every_sampler(latent, noise) -> None:
    denoising = Denoising("v_prediction", min_snr=5.0, zero_terminal_snr=True)
    assert float(denoising.scheduler.alphas_cumprod[-1]) == 0
    assert float(Denoising("v_prediction").scheduler.alphas_cumprod[-1]) > 0.001
    loss, _ = denoising.loss(lambda noisy: 0.3 * noisy, latent, noise, TIMESTEP)
    assert torch.isfinite(loss)
    for name in SCHEDULERS:
        sampler = named_scheduler(name, denoising.scheduler.config)
        sampler.set_timesteps(7)
        assert int(sampler.timesteps[0]) == 999
        assert float(sampler.alphas_cumprod[-1]) < 1e-7
    plain = named_scheduler("ddim", Denoising().scheduler.config)
    plain.set_timesteps(50)
    assert int(plain.timesteps[0]) == 981


def test_noise_offset_moves_channels_of_grids_as_a_whole() -> None:
    generator = torch.Generator().manual_seed
    plain, moved = (Denoising(noise_offset=o).noise((64, 4, 8, 8), generator(0)) for o in (0.0, 0.5))
    assert torch.equal(plain, torch.randn(64, 4, 8, 8, generator=generator(0)))
    shift = moved - plain
    assert torch.allclose(shift, shift[..., :1, :1].expand_as(shift), atol=1e-6)
    assert float(shift[..., 0, 0].std()) == pytest.approx(0.5, rel=0.15)
    assert torch.equal(
        Denoising(noise_offset=0.5).noise((6, 20), generator(0)), torch.randn(6, 20, generator=generator(0))
    )


def test_errors_by_noise_level() -> None:
    denoising = Denoising()
    timestep = torch.randint(1000, (4000,), generator=torch.Generator().manual_seed(0))
    errors = 1.0 + timestep // 250
    shares, means = denoising.by_level(errors, timestep), denoising.means_by_level(errors, timestep)
    assert list(shares) == list(means) == ["t0-249", "t250-499", "t500-749", "t750-999"]
    assert list(means.values()) == [1.0, 2.0, 3.0, 4.0]
    assert [float(share) for share in shares.values()] == pytest.approx([1, 2, 3, 4], rel=0.1)
    assert float(sum(shares.values())) / BANDS == pytest.approx(float(errors.mean()), rel=1e-5)
    few = torch.tensor([10])
    assert all(torch.isfinite(share) for share in denoising.by_level(torch.ones(1), few).values())
    assert list(denoising.means_by_level(torch.ones(1), few)) == ["t0-249"]


def test_errors_by_noise_level_where_low_ones_are_left_out() -> None:
    denoising = Denoising()
    timestep = denoising.timesteps(20_000, torch.Generator().manual_seed(0), lowest=400)
    shares = denoising.by_level(torch.ones(len(timestep)), timestep, lowest=400)
    assert list(shares) == ["t250-499", "t500-749", "t750-999"]
    assert [float(share) for share in shares.values()] == pytest.approx([1, 1, 1], rel=0.05)


@pytest.mark.parametrize(("lowest", "each"), [(0, 1), (0, 4), (450, 1), (900, 1)])
def test_a_share_of_the_items_has_high_noise_levels_alone(lowest: int, each: int) -> None:
    denoising = Denoising()
    timestep = denoising.timesteps(20_000, torch.Generator().manual_seed(0), each, lowest, high=0.6)
    item = timestep.view(-1, each)
    share = float((item >= 500).all(1).float().mean())
    alone = min(500 / (1000 - lowest), 1) if each == 1 else 0.0  # of the others, how many happen to be high
    assert share == pytest.approx(0.6 + 0.4 * alone, abs=0.02)
    assert int(timestep.min()) >= lowest
    assert int(timestep.max()) == 999
    shares = denoising.by_level(torch.ones(len(timestep)), timestep, lowest, 0.6)
    assert list(shares.values()) == pytest.approx([1] * len(shares), rel=0.12)


def test_timesteps_of_one_each_are_plain_random_numbers() -> None:
    mine, theirs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(Denoising().timesteps(9, mine), torch.randint(1000, (9,), generator=theirs))
    assert torch.equal(mine.get_state(), theirs.get_state())


def test_timesteps_of_an_item_lie_evenly_apart_and_are_all_alike() -> None:
    steps = Denoising().timesteps(30_000, torch.Generator().manual_seed(0), each=3, lowest=100).view(-1, 3)
    assert steps.sort(1).values.diff(dim=1).unique().tolist() == [300]
    counts = torch.stack([torch.histc(column.float(), 9, 100, 1000) for column in steps.T])
    assert counts.min() / counts.max() > 0.9


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prediction": "flow"}, "epsilon, v_prediction, sample"),
        ({"min_snr": 0}, "above 0"),
        ({"noise_offset": -1}, "0 or more"),
        ({"zero_terminal_snr": True}, "v_prediction or sample"),
    ],
)
def test_what_cannot_be_is_refused(options, told) -> None:
    with pytest.raises(ValueError, match=told):
        Denoising(**options)
