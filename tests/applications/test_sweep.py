"""Sweeps: axes as people write them, their cells, and replay from a record."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications import sweep
from versatile_diffusion.applications.sweep import axis


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("guidance_scale=1:12:2", "guidance_scale", (1, 3, 5, 7, 9, 11)),
        ("seed=0:4", "seed", (0, 1, 2, 3)),
        ("fidelity=0:0.5:0.1", "fidelity", (0, 0.1, 0.2, 0.3, 0.4)),
        ("steps=2", "num_inference_steps", (2,)),
        ("style=noto,fluent", "style", ("noto", "fluent")),
        ("image.focus=0,0.5,1", "image.focus", (0, 0.5, 1)),
    ],
)
def test_what_is_gone_over(text: str, name: str, values: tuple) -> None:
    found = axis(text)
    assert (found.name, found.values) == (name, values)


def test_a_cell_changes_the_conditions_of_one_modality_and_the_arguments_of_the_run() -> None:
    given = [Condition("text", "a dog"), Condition("image", Image.new("RGB", (8, 8)), weight=2)]
    cells = [sweep.cell(given, chosen) for chosen in sweep.choices([axis("seed=0:2"), axis("text.weight=0.5,3")])]
    assert [one.arguments["seed"] for one in cells] == [0, 0, 1, 1]
    assert [[one.weight for one in each.conditions] for each in cells] == [[0.5, 2], [3, 2]] * 2
    assert given[0].weight == 1


def test_a_sweep_in_python_replays_from_its_record(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    axes = [axis("seed=3:5"), axis("guidance_scale=1,4")]
    cells = [sweep.cell([Condition("text", "a dog")], chosen) for chosen in sweep.choices(axes)]
    outputs = [tiny_pipeline.generate("image", one.conditions, num_inference_steps=1, **one.arguments) for one in cells]
    saved = sweep.record(outputs, axes, "tiny")
    again = sweep.replay(tiny_pipeline, saved)
    assert np.array_equal(np.asarray(again), np.asarray(sweep.sheet(outputs, axes)))
    with pytest.raises(ValueError, match="3 cells over 2 settings"):
        sweep.replay(tiny_pipeline, saved | {"cells": saved["cells"][:3]})
