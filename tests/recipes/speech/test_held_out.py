"""Every flow of a model with audio is evaluated on the speech set."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ALL, build_tiny_pipeline

from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.report import write_report
from versatile_diffusion.evaluation.subjects import OwnModel
from versatile_diffusion.recipes.held_out import open_held_out
from versatile_diffusion.recipes.speech.diffuser import NEW, OLD
from versatile_diffusion.recipes.speech.held_out import SpeechHeldOut


def test_nine_flows_are_measured(spoken: Path, tmp_path: Path) -> None:
    data = open_held_out(spoken)
    assert isinstance(data, SpeechHeldOut)
    items = data.items("concept-test", 4)
    assert len(items.given["audio"]) == len(items.given["image"]) == len(items) == 4
    assert [row[0] for row in items.references] == items.given["text"]
    protocol = Protocol("tiny", splits=("concept-test",), count=2, seeds=1, steps=1, resamples=20)
    result, samples = evaluate(OwnModel(build_tiny_pipeline(ALL, ALL)), data, protocol)
    table = result.tables["concept-test"]
    assert {*NEW, *OLD, "given audio", "audio codec"} <= set(table)
    assert "text/is a caption" in table["audio-to-text"]
    assert {"agreement/text", "agreement/image"} <= set(table["text-to-audio"])
    write_report(tmp_path, [result], samples)
    assert (tmp_path / "concept-test-image-to-audio.png").is_file()


def test_another_emoji_set_beside_it_is_refused(spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "speech").symlink_to(spoken)
    with pytest.raises(ValueError, match="no emoji set in"):
        open_held_out(tmp_path / "speech")
