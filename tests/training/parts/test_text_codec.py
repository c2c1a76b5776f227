"""Training of the text codec, on the small set of the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from versatile_diffusion.modalities.encoders.dual import DualTextEncoder
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.recipes.emoji.parts import captions
from versatile_diffusion.training.engine.loop import LoopSettings, train
from versatile_diffusion.training.parts.text_codec import BEGIN, END, PAD, TextCodecObjective, TextCodecSettings

DATA = Path(__file__).parents[2] / "data" / "emoji"
SMALL = TextCodecSettings(
    width=24, layers=1, heads=2, latent_size=8, batch_size=16, lr=1e-2, muon_lr=0.05, buckets=2, held_out=6
)


@pytest.fixture(scope="module")
def objective() -> TextCodecObjective:
    return TextCodecObjective(captions(DATA), SMALL, torch.device("cpu"))


def test_a_run_learns_and_exports_a_codec_with_latents_of_unit_variance(
    objective: TextCodecObjective, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = objective.build().eval()
    outcome = train(objective, LoopSettings(steps=40, warmup=2, ema=0.8), tmp_path)
    assert {"exact/pair-val", "token/concept-val", "exact/pair-val/noise-0.3"} <= outcome.metrics.keys()
    codec = Optimus.from_pretrained(tmp_path / "export")
    batch = objective.batch(0, torch.Generator().manual_seed(99))
    size = codec.config.latent_size
    assert 1 <= size <= SMALL.latent_size
    with torch.no_grad():
        turned = batch._replace(noise=batch.noise[:, :size])
        assert objective.loss(codec, turned)[0] < objective.loss(untrained, batch)[0] - 1
        latents = (codec.posterior(objective.captions.long()).mean - codec.latent_mean) / codec.latent_std
    assert torch.allclose(latents.mean(0), torch.zeros(size), atol=1e-3)
    assert torch.allclose(latents.std(0), torch.ones(size), atol=1e-3)
    spread = codec.encode(["a red apple"] * 256, [torch.Generator().manual_seed(k) for k in range(256)]).std(0)
    assert torch.allclose(spread, torch.full((size,), SMALL.posterior), rtol=0.3)
    assert "->" in (tmp_path / "samples" / "0000040.txt").read_text()


def test_a_batch_depends_on_its_generator_alone(objective: TextCodecObjective) -> None:
    batch = objective.batch(0, torch.Generator().manual_seed(5))
    assert all(map(torch.equal, batch, objective.batch(7, torch.Generator().manual_seed(5))))
    other = objective.batch(0, torch.Generator().manual_seed(6))
    assert not torch.equal(batch.noise, other.noise)


def test_a_batch_holds_whole_texts_of_about_the_same_length(objective: TextCodecObjective) -> None:
    sorted_well = TextCodecObjective.__new__(TextCodecObjective)
    sorted_well.__dict__.update(objective.__dict__, recipe=replace(objective.recipe, buckets=16))
    ids = sorted_well.batch(0, torch.Generator().manual_seed(1)).ids
    lengths = (ids != PAD).sum(1)
    assert (ids[:, 0] == BEGIN).all()
    assert (ids.gather(1, lengths[:, None] - 1) == END).all()
    assert lengths.max() == ids.shape[1]
    whole = (objective.captions != PAD).sum(1)
    assert lengths.max() - lengths.min() < (whole.max() - whole.min()) / 2


def test_the_noise_follows_the_scale_of_the_latents(objective: TextCodecObjective) -> None:
    """Larger latents, read as much smaller, give the same loss: scale is no way out of the noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = objective.build().eval()
    batch = objective.batch(0, torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = objective.loss(module, batch)[0]
        module.encoder.to_moments.weight.mul_(10)
        for reader in (module.decoder.to_memory, module.decoder.to_embedding):
            reader.weight.div_(10)
        torch.testing.assert_close(objective.loss(module, batch)[0], plain)
        silent = objective.loss(module, batch._replace(noise=torch.zeros_like(batch.noise)))[0]
    assert not torch.equal(silent, plain)


def test_held_out_captions_are_new(objective: TextCodecObjective) -> None:
    known = {tuple(row) for row in objective.captions.tolist()}
    for texts in objective.held_out.values():
        assert 0 < len(texts) <= 6
        assert known.isdisjoint(map(tuple, objective._ids(texts).tolist()))


def test_without_muon_there_is_one_optimizer(objective: TextCodecObjective) -> None:
    plain = TextCodecObjective.__new__(TextCodecObjective)
    plain.recipe = replace(objective.recipe, muon_lr=None)
    assert len(plain.optimizers(objective.build())) == 1
    assert len(objective.optimizers(objective.build())) == 2


@pytest.fixture(scope="module")
def guide() -> DualTextEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DualTextEncoder(width=168, depth=1, heads=2)


def test_latents_follow_a_guide_and_keep_its_proportions(guide: DualTextEncoder, tmp_path: Path) -> None:
    objective = TextCodecObjective(captions(DATA), replace(SMALL, latent_size=172), torch.device("cpu"), guide)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = objective.build()
    batch = objective.batch(0, torch.Generator().manual_seed(1))
    texts = [objective.tokenizer.decode(row.tolist()) for row in batch.ids]
    guide.tokenizer = objective.tokenizer
    assert torch.allclose(objective._guiding(batch.ids), guide.encode(texts)[:, 0], atol=1e-4)
    optimizers, parts = objective.optimizers(codec), []
    for _ in range(12):
        loss, part = objective.loss(codec, batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        parts.append(part)
    assert parts[-1]["guide"] < 0.7 * parts[0]["guide"]
    assert parts[-1]["text"] < parts[0]["text"]

    objective.export(codec.eval(), tmp_path)
    exported = Optimus.from_pretrained(tmp_path)
    assert exported.config.latent_size < 172
    with torch.no_grad():
        means = exported.posterior(objective.captions.long()).mean
    latents = (means - exported.latent_mean) / exported.latent_std
    assert torch.allclose(latents.std(0), torch.ones(exported.config.latent_size), atol=1e-3)
    assert torch.linalg.eigvalsh(torch.cov(latents.T))[-1] > 1.5  # not whitened


def test_a_guide_needs_room(guide: DualTextEncoder) -> None:
    with pytest.raises(ValueError, match="latent_size is 8; with a guide of width 168 it must be 168 or more"):
        TextCodecObjective(captions(DATA), SMALL, torch.device("cpu"), guide)
