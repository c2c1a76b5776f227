"""A model of three modalities is measured on a set that has two of them, and what it makes is shown as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import ALL, TASK
from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.evaluation.measures import MEASURES
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.report import write_report
from versatile_diffusion.evaluation.subjects import OwnModel
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"
HELD_OUT = EmojiHeldOut(FIXTURE)


@pytest.mark.parametrize("name", ALL)
def test_the_measures_of_a_modality_exist(name: str) -> None:
    assert set(MODALITIES[name].measures) <= set(MEASURES)


def test_every_flow_from_a_picture_or_a_text(pipe: VersatileDiffusionPipeline, tmp_path: Path) -> None:
    protocol = Protocol("tiny", splits=("pair-test",), count=2, seeds=1, steps=1, resamples=20)
    result, samples = evaluate(OwnModel(pipe), HELD_OUT, protocol)
    table = result.tables["pair-test"]
    from_given = {task for (_, context), task in TASK.items() if context in ("image", "text")}
    assert from_given <= set(table)
    assert "sound-variation" not in table  # the set has no sounds
    assert "agreement/text" in table["image-to-sound"]
    write_report(tmp_path, [result], samples)
    shown = {file.name for file in tmp_path.iterdir()}
    assert "pair-test-text-to-sound.png" in shown
