"""Training of the judge, on the small set of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.training.judge import JudgeObjective, JudgeSettings, PictureJudge, accuracy
from versatile_diffusion.training.loop import LoopSettings, train
from versatile_diffusion.training.settings import SETTINGS

DATA = Path(__file__).parents[1] / "data" / "emoji"


@pytest.fixture(scope="module")
def objective() -> JudgeObjective:
    return JudgeObjective(DATA, JudgeSettings(pictures=24, small_steps=8, small_side=32), torch.device("cpu"))


def test_it_learns_and_is_exported(objective, tmp_path) -> None:
    outcome = train(objective, LoopSettings(steps=24, warmup=2, ema=0.5, clip=None, log_every=4), tmp_path)
    assert {"pair-test/concept_top5", "pair-test/style", "concept-test/style"} <= outcome.metrics.keys()
    assert "concept-test/concept_top1" not in outcome.metrics  # the judge does not know them
    judge = PictureJudge.from_pretrained(tmp_path / "export").eval()
    seen = accuracy(judge, EmojiSet.load(DATA, "train"))
    assert seen["style"] > 2 * 100 / len(judge.config.styles)
    assert seen["concept_top5"] > 1.5 * 100 * 5 / len(judge.config.concepts)
    assert list((tmp_path / "samples").glob("*.png"))


def test_concepts_and_styles_are_those_of_the_pictures(objective) -> None:
    train_set = EmojiSet.load(DATA, "train")
    keys = [objective.concept_keys[k] for k in objective.concepts.tolist()]
    assert keys == [train_set.concept_keys[k] for k in train_set.concepts]
    assert set(objective.concept_keys) == {train_set.concept_keys[k] for k in np.unique(train_set.concepts)}


def test_the_first_steps_have_small_pictures_and_each_step_its_own(objective) -> None:
    def batch(step: int):
        return objective.batch(step, torch.Generator().manual_seed(step))

    assert batch(7).pixels.shape[-1] == 32
    assert batch(8).pixels.shape[-1] == 64
    assert torch.equal(batch(3).pixels, batch(3).pixels)
    assert not torch.equal(batch(3).pixels, batch(4).pixels)


def test_its_seed_is_not_that_of_the_encoders() -> None:
    _, loop = SETTINGS["judge"]["emoji"](DATA, DATA, torch.device("cpu"))
    assert loop.seed != LoopSettings(steps=1).seed
