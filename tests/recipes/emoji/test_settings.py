"""Settings by name: what the emoji model's runs are, and which of them are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.recipes.emoji import diffuser, settings
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.settings import FOUR_FLOWS
from versatile_diffusion.recipes.settings import find_settings
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.own_data import settings_of

DATA = Path(__file__).parents[2] / "data" / "emoji"
CPU = torch.device("cpu")


@pytest.fixture
def built(monkeypatch):
    """What `emoji_objective` is asked for; nothing is built."""

    def record(options, data, out, device, fresh=False):
        return options, fresh

    monkeypatch.setattr(settings, "emoji_objective", record)
    return lambda name: find_settings("diffuser", name)(Path("data"), Path("runs/it"), CPU)


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


def test_the_second_edition_sees_several_views_of_each_drawing_and_measures_seen_items_too(
    tmp_path, monkeypatch
) -> None:
    pipe = build_tiny_pipeline()
    monkeypatch.setattr(diffuser, "_load_installed", lambda fresh: (pipe.bank, {}, None if fresh else pipe.unet))
    for part in (pipe.bank.encoders["text"], pipe.bank.codecs["text"]):  # their tokens are single letters
        monkeypatch.setattr(part, "encode", lambda texts, plain=part.encode: plain([text[:10] for text in texts]))
    shapes = {"unet": settings_of(pipe).unet, "context_streams": settings_of(pipe).context_streams}
    data_streams = {**settings_of(pipe).data_streams, "text": {"positions": 2}}
    options = replace(diffuser.SECOND, data_streams=data_streams, batch={"image": 3, "text": 2}, **shapes)
    what = diffuser.second_objective(options, DATA, tmp_path / "run", CPU)
    drawings = EmojiSet.load(DATA, "train")
    assert what.train_pairs.count == diffuser.VIEWS * len(drawings)
    assert what.held_out.count == len(EmojiSet.load(DATA, "pair-val"))
    assert what.seen.count == diffuser.MEASURED_AGAIN
    assert set(what.model["vocabulary"]) == set(drawings.labels)
    step = what.batch(0, torch.Generator().manual_seed(0))
    assert [one.task.name for one in step] == list(STAGES["official"])
    assert [len(one.latent) for one in step] == [3, 3, 8, 8]
    measured = what.evaluate(what.build())
    assert {name.removeprefix("seen/") for name in measured if name.startswith("seen/")} == {
        name for name in measured if not name.startswith("seen/")
    }
    again = diffuser.second_objective(options, DATA, tmp_path / "run", CPU)
    other = again.batch(0, torch.Generator().manual_seed(0))
    assert all(torch.equal(one.context.tokens, two.context.tokens) for one, two in zip(step, other, strict=True))
    assert again.settings() == what.settings()


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="emoji-four-flows, emoji-text-to-image"):
        find_settings("diffuser", "emoji-audio")
    with pytest.raises(ValueError, match="allowed: image-codec"):
        find_settings("smell-codec", "emoji")


def test_a_stage_asks_for_the_one_before_unless_it_begins_fresh(tmp_path, monkeypatch) -> None:
    pipe = build_tiny_pipeline()
    monkeypatch.setattr(diffuser, "emoji_bank", lambda runs, data, contexts: pipe.bank)
    options = settings_of(pipe)
    with pytest.raises(ValueError, match=r"diffuser-dual-context contains no export; finish its training first"):
        diffuser.emoji_objective(options, DATA, tmp_path / "mine", CPU)
    what = diffuser.emoji_objective(
        replace(options, flows=("image-variation",)), DATA, tmp_path / "mine", CPU, fresh=True
    )
    assert what.start is None
    assert set(what.train_pairs.latents) == set(what.train_pairs.tokens) == {"image"}
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    assert batch.task.name == "image-variation"
    assert len(batch.latent) == options.batch["image"]


def test_the_second_edition_goes_on_with_the_streams_that_have_its_settings() -> None:
    pipe = build_tiny_pipeline()
    options = settings_of(pipe)
    begun = diffuser._continue(pipe.unet, options)
    assert set(begun.data) == {"image", "text"}
    weights = pipe.unet.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in begun.state_dict().items())
    text = {**options.data_streams["text"], "positions": 2}
    deeper = replace(options, unet={**options.unet, "depth": 3}, data_streams={**options.data_streams, "text": text})
    assert set(diffuser._continue(pipe.unet, deeper).data) == {"image"}
