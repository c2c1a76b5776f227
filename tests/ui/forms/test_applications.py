"""What the tabs of the applications ask for, run on a tiny model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.applications.again import replay
from versatile_diffusion.applications.disentangle import levels
from versatile_diffusion.ui.forms.applications import DIAL, LEVELS, STYLE_OF, application_forms
from versatile_diffusion.ui.forms.compare import NOTHING
from versatile_diffusion.ui.forms.tabs import Form, setting_of
from versatile_diffusion.ui.page.desk import Desk
from versatile_diffusion.ui.page.uploads import canvas
from versatile_diffusion.ui.queue.jobs import StudioJob, StudioLimits

QUICK = {"steps": 2, "count": 2, "seed": 3}


@pytest.fixture(scope="module")
def desk(tiny_pipeline: VersatileDiffusionPipeline) -> Iterator[Desk]:
    desk = Desk(tiny_pipeline)
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def drawn(tiny_pipeline: VersatileDiffusionPipeline) -> dict[str, tuple[Form, dict[str, Any]]]:
    """Each form, and what stands in it before anybody has touched it."""
    setting = setting_of(tiny_pipeline, StudioLimits(), None)
    with gr.Blocks(analytics_enabled=False):
        return {
            form.name: (form, {name: component.value for name, component in form.draw(setting).items()})
            for form in application_forms(tiny_pipeline)
        }


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two pictures, as uploaded."""
    for name, colours in (("a", ("red", "blue")), ("b", ("green", "yellow"))):
        picture = Image.new("RGB", (40, 30), colours[0])
        picture.paste(colours[1], (0, 0, 20, 15))
        picture.save(tmp_path / f"{name}.png")
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def painted(size: tuple[int, int]) -> Any:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return canvas(Image.new("RGB", size, "red"), mask)


def run(desk: Desk, form: Form, asks: Any) -> StudioJob:
    job = desk.submit("ada", form.name, asks)
    end = time.monotonic() + 600
    while not job.over:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert job.state == "done", job.message
    return job


def cases(files: list[str]) -> dict[str, tuple[str, Mapping[str, Any], list[int]]]:
    """Form, what is filled in, and how many results each run gives."""
    one, other = files
    return {
        "blend": (
            "blend",
            {"picture-1": one, "picture-3": other, "text-2": "a red apple", "picture-3.mask": painted((40, 30))},
            [2],
        ),
        "single level": ("disentangle", {"image": one, "mode": DIAL, "dial": 0.9}, [2]),
        "five levels": ("disentangle", {"image": one, "mode": LEVELS}, [1] * 5),
        "style of another": ("disentangle", {"image": one, "style-of": other, "mode": STYLE_OF}, [2]),
        "a caption": ("edit", {"image": one, "caption": "a blue cat"}, [2]),
        "remove and add": ("edit", {"image": one, "remove": "red", "add": "blue"}, [2]),
        "inpaint by text": ("inpaint", {"image": one, "text": "a cat", "image.mask": painted((32, 32))}, [2]),
        "inpaint by the picture": (
            "inpaint",
            {"image": one, "image.mask": painted((32, 32)), "style": "noto", "denoising": 0.4},
            [2],
        ),
        "compare": (
            "sweep",
            {"text": "a cat", "across": "seed", "across-values": "0:3", "down": "style", "down-values": "noto, fluent"},
            [1] * 6,
        ),
        "compare texts": (
            "sweep",
            {"task": "image-to-text", "image": one, "across": "temperature", "across-values": "0, 1"},
            [1] * 2,
        ),
        "joint": ("joint", {"text": "a cat", "image": one, "every": 1, "after": 0}, [2]),
        "joint from nothing": ("joint", {"style": "noto", "caption.temperature": 0.5}, [2]),
        "colours": ("blend", {"picture-1": one, "match_colours": "simple", "guidance_until": 0.5}, [2]),
    }


CASES = tuple(cases(["", ""]))


@pytest.mark.parametrize("case", CASES)
def test_each_way_of_each_application(desk: Desk, drawn: dict[str, Any], files: list[str], case: str) -> None:
    name, values, sizes = cases(files)[case]
    form, untouched = drawn[name]
    filled = {**untouched, **{field: value for field, value in QUICK.items() if field in untouched}, **values}
    job = run(desk, form, form.asks(filled))
    assert [len(output) for output in job.outputs] == sizes
    first = job.outputs[0]
    sheet = form.together(filled, job.outputs, "tiny") if form.together and len(sizes) > 1 else None
    if sheet is not None:
        assert len(sheet.record["cells"]) == len(sizes)
        assert (sheet.image is None) == (first.data == "text")
        assert sheet.table.count("<td>") == (len(sizes) if first.data == "text" else 0)
    if sheet is not None or name == "joint":
        again = replay(desk.pipe, first.settings, lambda _: Image.open(files[0]))
        assert [as_told(value) for value in again.values] == [as_told(value) for value in first.values]


def as_told(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, Image.Image) else value


def test_the_runs_say_what_was_filled_in(drawn: dict[str, Any], files: list[str]) -> None:
    name, values, _ = cases(files)["blend"]
    form, untouched = drawn[name]
    (ask,) = form.asks({**untouched, **values, "picture-1.weight": 0.9, "picture-3.focus": 0.1, "mixing": "layer"})
    assert [condition.weight for condition in ask.conditions] == [0.9, 0.5, 0.5]
    assert [condition.focus for condition in ask.conditions] == [None, 0.1, None]
    assert [condition.mask is not None for condition in ask.conditions] == [False, True, False]
    assert ask.arguments["mixing"] == "layer"
    form, untouched = drawn["disentangle"]
    asks = form.asks({**untouched, "image": files[0], "mode": LEVELS})
    assert [ask.conditions[0].focus for ask in asks] == levels()
    assert len({ask.arguments["seed"] for ask in asks}) == 1


def test_the_caption_is_written(desk: Desk, drawn: dict[str, Any], files: list[str]) -> None:
    form, untouched = drawn["edit"]
    assert form.first is not None
    job = run(desk, form, form.first.asks({**untouched, "image": files[0]}))
    assert (job.outputs[0].data, form.first.into) == ("text", "caption")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("blend", {}, "add an image or a prompt first"),
        ("disentangle", {}, "add an image first"),
        ("disentangle", {"image": 0, "mode": STYLE_OF}, "add the style image"),
        ("edit", {}, "add an image first"),
        ("edit", {"image": 0}, "enter or generate a caption"),
        ("inpaint", {"image": 0}, "paint over the area"),
        ("sweep", {}, "Text to image needs text"),
        ("sweep", {"text": "a", "across": NOTHING}, "choose a setting"),
        ("sweep", {"text": "a", "across-values": ""}, "enter values for cfg scale, e.g. 1, 3, 5, 8"),
        ("sweep", {"text": "a", "across-values": "1:1"}, "the range is empty"),
    ],
)
def test_what_is_missing_is_said(
    drawn: dict[str, Any], files: list[str], name: str, values: Mapping[str, Any], message: str
) -> None:
    form, untouched = drawn[name]
    given = {field: files[value] if field == "image" else value for field, value in values.items()}
    with pytest.raises(ValueError, match=message):
        form.asks({**untouched, **given})
