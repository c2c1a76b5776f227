"""A click in the studio makes a value of every modality, which is kept as what it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr

from tests.conformance.conftest import FLOWS, TASK, same, saved
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.forms.tabs import setting_of, task_form
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.desk import Desk
from versatile_diffusion.ui.page.page import Studio, build, forms
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.shelf import Shelves
from versatile_diffusion.ui.queue.jobs import StudioLimits


def test_the_page_has_a_tab_for_every_task(pipe: Any, tmp_path: Path) -> None:
    desk = Desk(pipe)
    studio = Studio(desk, Shelves(tmp_path, "three", 9), "three")
    page = build(studio)
    names = [form.name for form in forms(studio)]
    desk.close()
    assert {*TASK.values()} <= set(names)
    assert {*TASK.values()} <= {block.id for block in page.blocks.values() if isinstance(block, gr.Tab)}


@pytest.mark.parametrize(("data", "context"), FLOWS)
def test_a_click(pipe: Any, values: dict[str, Any], data: str, context: str, tmp_path: Path) -> None:
    form = task_form(TASKS[TASK[data, context]])
    with gr.Blocks(analytics_enabled=False):
        drawn = form.draw(setting_of(pipe, StudioLimits(), None))
        panel = Panel.draw(data, "tab")
    filled = {name: component.value for name, component in drawn.items()}
    typed = MODALITIES[context].form == "typed"
    filled[context] = values[context] if typed else str(saved({context: values[context]}, tmp_path / "in")[context])
    desk, shelves = Desk(pipe), Shelves(tmp_path / "shelf", "three", 9)
    asks = form.asks({**filled, "count": 1, "steps": 2, "seed": 3})
    job = desk.submit("somebody", form.name, asks)
    while not job.over:
        time.sleep(0.01)
    desk.close()
    assert job.state == "done", job.message
    (number,) = shelves.keep(job, {})
    made = shelves.of("somebody").made[number]
    modality, (value,) = MODALITIES[data], job.outputs[0].values
    if modality.together:
        assert json.loads(made.file.read_text())["texts"] == [modality.line(value)]
    else:
        assert made.file.suffix == modality.suffix
        assert same(data, modality.check(made.file), value)
        assert modality.embeds or json.loads(made.file.with_suffix(".json").read_text())["data"] == data
    assert modality.noun in stage.of(job)
    assert panel.shown([number], [made])[0]["visible"]
    shelves.leave("somebody")
    assert not list((tmp_path / "shelf").rglob("*.*"))
