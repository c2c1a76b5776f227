"""Settings by name: what the emoji model's runs are, and which of them are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.training import emoji, settings
from versatile_diffusion.training.mixture import STAGES
from versatile_diffusion.training.own_data import settings_of
from versatile_diffusion.training.settings import FOUR_FLOWS, named

DATA = Path(__file__).parents[1] / "data" / "emoji"
CPU = torch.device("cpu")


@pytest.fixture
def built(monkeypatch):
    """What `emoji_objective` is asked for; nothing is built."""

    def record(options, data, out, device, fresh=False):
        return options, fresh

    monkeypatch.setattr(settings, "emoji_objective", record)
    return lambda name: named("diffuser", name)(Path("data"), Path("runs/it"), CPU)


@pytest.mark.parametrize("size", ["", "tiny-"])
def test_single_flows_see_as_many_items_as_in_the_model_of_four(built, size: str) -> None:
    (together, fresh), loop = built(f"emoji-{size}four-flows")
    assert fresh
    assert loop.steps == FOUR_FLOWS
    assert [task.name for task in together.flow_mixture.tasks] == list(STAGES["official"])
    turns = [together.flow_mixture.at(step)[0][0].name for step in range(FOUR_FLOWS)]
    for flow in STAGES["official"]:
        (alone, fresh), loop = built(f"emoji-{size}{flow}")
        assert fresh
        assert [task.name for task in alone.flow_mixture.tasks] == [flow]
        assert loop.steps == turns.count(flow)
        assert alone.flow_mixture.size(alone.tasks[0]) == together.flow_mixture.size(alone.tasks[0])
        assert (len(alone.data), len(alone.contexts), alone.unet) == (1, 1, together.unet)


def test_the_three_settings_follow_on_each_other(built) -> None:
    for stage, name in zip(STAGES, ("emoji-basic", "emoji-dual-context", "emoji"), strict=True):
        (options, fresh), _ = built(name)
        assert (options.stage, fresh, options.joint) == (stage, False, stage == "official")


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="emoji-four-flows, emoji-text-to-image"):
        named("diffuser", "emoji-audio")
    with pytest.raises(ValueError, match="allowed: image-codec"):
        named("audio-codec", "emoji")


def test_a_stage_asks_for_the_one_before_unless_it_begins_fresh(tmp_path, monkeypatch) -> None:
    pipe = build_tiny_pipeline()
    monkeypatch.setattr(emoji, "emoji_bank", lambda runs, data, contexts: pipe.bank)
    options = settings_of(pipe)
    with pytest.raises(ValueError, match=r"diffuser-dual-context holds no export; train it to its end first"):
        emoji.emoji_objective(options, DATA, tmp_path / "mine", CPU)
    what = emoji.emoji_objective(replace(options, flows=("image-variation",)), DATA, tmp_path / "mine", CPU, fresh=True)
    assert what.start is None
    assert set(what.train_pairs.latents) == set(what.train_pairs.tokens) == {"image"}
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    assert batch.task.name == "image-variation"
    assert len(batch.latent) == options.batch["image"]
