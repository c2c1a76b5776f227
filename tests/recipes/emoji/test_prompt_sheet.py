"""The sheet of fixed prompts."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from versatile_diffusion.evaluation.networks import load_judge
from versatile_diffusion.recipes.emoji.data.sources import STYLES
from versatile_diffusion.recipes.emoji.prompt_sheet import counts, sheet, verdicts, write
from versatile_diffusion.recipes.emoji.prompts import FIXED_PROMPTS, FixedPrompt


def test_the_prompts_are_48_and_a_style_that_one_asks_for_is_named_in_it() -> None:
    assert len(FIXED_PROMPTS) == 48 == len({prompt.text for prompt in FIXED_PROMPTS})
    phrases = {style.id: style.phrases for style in STYLES}
    asked = [prompt for prompt in FIXED_PROMPTS if prompt.style]
    assert len(asked) > 20
    assert all(prompt.text.rpartition(", ")[2] in phrases[prompt.style] for prompt in asked)
    assert all(prompt.labels and prompt.group for prompt in FIXED_PROMPTS)


def test_it_is_written_and_comes_out_the_same_again(subject, protocol, judge_folder, tmp_path) -> None:
    judge = load_judge(judge_folder, torch.device("cpu"))
    short = [prompt for prompt in FIXED_PROMPTS if len(prompt.text) < 12][:3]
    one, two = (write(subject, judge, protocol, tmp_path / name, short) for name in ("one", "two"))
    assert one == two == json.loads((tmp_path / "one" / "prompts.json").read_text())
    assert one["counts"]["prompts"] == len(one["verdicts"]) == 3
    first, second = (Image.open(tmp_path / name / "prompts.png") for name in ("one", "two"))
    assert first.tobytes() == second.tobytes()


def test_an_answer_counts_among_the_first_five_guesses_and_a_refusal_never(data, judge_folder) -> None:
    judge = load_judge(judge_folder, torch.device("cpu"))
    images = [Image.fromarray(picture) for picture in data.pictures[:2]]
    seen = verdicts(judge, [FixedPrompt("x", ["none of these"], "", "")] * 2, images)
    assert [row["place"] for row in seen] == [None, None]
    third = FixedPrompt("x", [seen[0]["seen"][2]], seen[0]["style_seen"], "")
    other = FixedPrompt("y", [seen[1]["seen"][0]], "no such style", "")
    rows = verdicts(judge, [third, other], images)
    assert [row["place"] for row in rows] == [2, 0]
    right = {"prompts": 2, "first": 1, "among_five": 2, "refused": 0, "styles_asked_for": 2, "styles_right": 1}
    assert counts(rows) == right
    with torch.no_grad():
        judge.to_concept.bias[-1] = 1e6
    refused = verdicts(judge, [third, other], images)
    assert [(row["refused"], row["place"]) for row in refused] == [(True, None)] * 2
    assert sheet([third, other], images, refused).size[0] > 128


def test_a_model_that_makes_no_images_is_refused(subject, protocol, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(subject, "tasks", ())
    with pytest.raises(ValueError, match="text-to-image"):
        write(subject, None, protocol, tmp_path)
