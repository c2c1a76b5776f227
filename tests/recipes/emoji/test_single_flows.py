"""Losses of a model of several flows beside those of models of one flow each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from versatile_diffusion.recipes.emoji.single_flows import insert, losses_beside, section

SHARES = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1}


def write(run: Path, losses: dict[int, dict[str, float]], flows: list[str] | None = None, **changes) -> Path:
    """A run of `max(losses)` steps with the losses on held-out items after some of them."""
    told = {
        "objective": "diffuser",
        "stage": "official",
        "batch": {"image": 4, "text": 8},
        "mixture": SHARES,
        "unet": {"width": 8},
        "data_streams": {"text": {"width": 5}},
    }
    run.mkdir()
    (run / "settings.json").write_text(json.dumps({**told, "flows": flows, "loop": {"steps": max(losses)}, **changes}))
    lines = [{"step": n, **{f"eval/{flow}": loss for flow, loss in row.items()}} for n, row in losses.items()]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def several(tmp_path: Path) -> Path:
    first, last = {"text-to-image": 0.9, "image-to-text": 0.9}, {"text-to-image": 0.5, "image-to-text": 0.8}
    return write(tmp_path / "four", {10: first, 70: last})


def test_a_flow_counts_its_own_items(several: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "t", {15: {"text-to-image": 0.7}, 30: {"text-to-image": 0.625}}, ["text-to-image"])
    (one,) = losses_beside(several, [alone])
    # a round of 7 steps has 3 of text-to-image; of the first 3 steps of the next one it has 2, of 4 pictures each
    assert [(round(1000 * x), loss.value) for x, loss in one.several] == [(4 * (3 + 2), 0.9), (4 * 30, 0.5)]
    assert [(round(1000 * x), loss.value) for x, loss in one.alone] == [(60, 0.7), (120, 0.625)]
    assert one.cells() == ("text-to-image", "120", "0.5000", "0.6250", "-20.0 %")


def test_what_was_not_trained_alike_is_refused(several: Path, tmp_path: Path) -> None:
    flow = ["image-to-text"]
    short = write(tmp_path / "short", {19: {flow[0]: 0.7}}, flow)
    other = write(tmp_path / "other", {20: {flow[0]: 0.7}}, flow, lr=0.1)
    louder = write(tmp_path / "louder", {20: {flow[0]: 0.7}}, flow, noises={"text": 4})
    silent = write(tmp_path / "silent", {20: {}}, flow)
    for run, told in (
        (short, "after 160 items of it, .* after 152"),
        (other, "other lr"),
        (louder, "other noises"),
        (silent, "after no"),
        (several, "not one flow"),
    ):
        with pytest.raises(ValueError, match=told):
            losses_beside(several, [run])


def test_the_page_begins_with_the_losses(several: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", {9: {"image-to-text": 1.1}, 20: {"image-to-text": 1.0}}, ["image-to-text"])
    once = write(tmp_path / "once", {30: {"text-to-image": 0.6}}, ["text-to-image"])
    page = tmp_path / "docs" / "beside.md"
    page.parent.mkdir()
    parts = ["# four, measured", "Written by a command.", "## pair-test", "A.", "## Comparison with other models", "B."]
    page.write_text("\n\n".join(parts) + "\n")
    insert(page, section(several, losses_beside(several, [alone, once]), page.parent / "images" / page.stem))
    lines = [line for line in page.read_text().splitlines() if line]
    assert "has width 8 and was trained for **70 steps** with batches of 4 images or 8 texts; the full" in lines[1]
    assert "not which model is better in the end. Text latents have 5 channels." in lines[1]
    assert "| image-to-text | 160 | 0.8000 | 1.0000 | -20.0 % |" in lines
    assert [line for line in lines if line.startswith("#")][1:] == [
        "## Losses on held-out items",
        "## Generated results",
        "## Comparison with other models",
        "## pair-test",
    ]
    assert lines[-2:] == ["## pair-test", "A."]
    (plot,) = (page.parent / "images" / "beside").iterdir()  # of a single measurement there is none
    assert plot.name == "loss-image-to-text.svg"
    assert plot.read_text().startswith("<svg")
