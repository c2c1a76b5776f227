"""Results with what was filled in, and filling it in again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli.io.results import record
from versatile_diffusion.flow import Condition
from versatile_diffusion.records.png import read_record, save_png
from versatile_diffusion.ui.forms.restore import form_record, restore
from versatile_diffusion.ui.forms.widgets import painter, picture, value_input
from versatile_diffusion.ui.page.shelf import STUDIO, Shelf, Shelves
from versatile_diffusion.ui.page.uploads import canvas, read_mask
from versatile_diffusion.ui.queue.jobs import Ask, StudioJob


@pytest.fixture
def shelves(tmp_path: Path) -> Shelves:
    return Shelves(tmp_path, "tiny", kept=5)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    with gr.Blocks(analytics_enabled=False):
        return {
            "text": gr.Textbox(),
            "image": picture("Image"),
            "image.mask": painter(),
            "steps": gr.Slider(1, 200, 25),
            "style": gr.Dropdown(["none", "noto"], value="none"),
        }


def done(pipe: VersatileDiffusionPipeline, person: str, data: str = "image", **arguments: Any) -> StudioJob:
    asked = {"num_inference_steps": 2, "num_outputs": 2, "seed": 4, **arguments}
    ask = Ask(data, (Condition("text", "a red apple"),), asked)
    job = StudioJob(person, "text-to-image", (ask,))
    job.outputs.append(pipe.generate(data, ask.conditions, **ask.arguments))
    return job


def test_pictures_are_kept_with_their_settings(tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves) -> None:
    numbers = shelves.keep(done(tiny_pipeline, "ada"), {"text": "a red apple"})
    made = [shelves.of("ada").made[number] for number in numbers]
    assert [one.file.name for one in made] == ["text-to-image-0001.png", "text-to-image-0002.png"]
    with Image.open(made[1].file) as opened:
        told = read_record(opened)
    assert told[STUDIO] == {"tab": "text-to-image", "fields": {"text": "a red apple"}}
    assert (told["index"], told["seed"]) == (1, 5)
    again = tiny_pipeline.replay(told)
    with Image.open(made[1].file) as opened:
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(opened))


def test_texts_are_kept_with_their_settings(tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves) -> None:
    (number, _) = shelves.keep(done(tiny_pipeline, "ada", "text"), {})
    one = shelves.of("ada").made[number]
    assert json.loads(one.file.read_text(encoding="utf-8"))["texts"] == [one.text]


def test_captions_that_belong_to_pictures_are_kept_as_texts(
    tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves
) -> None:
    job, told = done(tiny_pipeline, "ada"), {"name": "joint", "captions": ["a  dog", "a cat"], "result": "picture"}
    job.outputs = [replace(job.outputs[0], settings=job.outputs[0].settings | {"application": told})]
    made = [shelves.of("ada").made[number] for number in shelves.keep(job, {})]
    kinds = [(one.data, one.text, one.label, one.record["application"]["result"]) for one in made]
    assert kinds[:2] == [("image", "a dog", "1", "picture"), ("text", "a dog", "1", "caption")]
    assert [one.label for one in made] == ["1", "1", "2", "2"]


def test_people_do_not_see_each_other(tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves) -> None:
    shelves.keep(done(tiny_pipeline, "../../ada"), {})
    assert shelves.of("bob").made == {}
    assert shelves.of("../../ada").folder.parent == shelves.folder
    assert shelves.of("bob").folder != shelves.of("../../ada").folder


def test_old_results_and_those_of_who_left_are_thrown_away(
    tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves
) -> None:
    job = done(tiny_pipeline, "ada")
    for _ in range(4):
        shelves.keep(job, {})
    shelf = shelves.of("ada")
    assert list(shelf.made) == [4, 5, 6, 7, 8]
    assert len(list(shelf.folder.iterdir())) == 5
    shelves.leave("ada")
    assert not shelf.folder.exists()
    assert shelves.of("ada").made == {}


@dataclass
class Filled:
    """A form that was filled in, and a file of its result."""

    values: dict[str, Any]
    shelf: Shelf
    file: Path


@pytest.fixture
def filled(tmp_path: Path, inputs: dict[str, Any], picture: Image.Image) -> Filled:
    picture.save(upload := tmp_path / "upload.png")
    mask = Image.new("L", (24, 20))
    mask.paste(255, (0, 0, 12, 20))
    values = {
        "text": "a red apple",
        "image": str(upload),
        "image.mask": canvas(picture, mask),
        "steps": 7,
        "style": "noto",
    }
    shelf = Shelf(tmp_path / "ada")
    told = {STUDIO: {"tab": "inpaint", "fields": form_record(inputs, values, shelf)}}
    save_png(picture, file := tmp_path / "made.png", told)
    return Filled(values, shelf, file)


def test_what_was_filled_in_comes_back(
    filled: Filled, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    name, fields, said = restore(str(filled.file), {"inpaint": inputs}, filled.shelf, tiny_pipeline)
    assert name == "inpaint"
    assert said == "Settings restored."
    assert {field: fields[field] for field in ("text", "image", "steps", "style")} == {
        field: filled.values[field] for field in ("text", "image", "steps", "style")
    }
    assert np.array_equal(
        np.asarray(read_mask(fields["image.mask"])), np.asarray(read_mask(filled.values["image.mask"]))
    )


def test_a_picture_that_is_not_here_is_asked_for(
    filled: Filled, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    _, fields, said = restore(str(filled.file), {"inpaint": inputs}, Shelf(tmp_path), tiny_pipeline)
    assert fields["image"] is None
    assert fields["image.mask"] is None
    assert "Inputs are not embedded in the file; please add again: \u201cImage\u201d." in said


def test_a_path_in_a_file_is_not_followed(
    tmp_path: Path, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image
) -> None:
    fields = {
        "image": "/etc/passwd",
        "text": ["a", "list"],
        "steps": 99999,
        "style": "<b>unknown</b>",
        "image.mask": {"mask": None},
        "surprise": 1,
    }
    save_png(picture, file := tmp_path / "made.png", {STUDIO: {"tab": "inpaint", "fields": fields}})
    _, back, _ = restore(str(file), {"inpaint": inputs}, Shelf(tmp_path), tiny_pipeline)
    assert back == {"image": None, "text": None, "steps": 200, "style": "none", "image.mask": None}


def test_settings_from_the_command_line_fill_in_the_tab_of_their_task(
    tmp_path: Path, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    output = tiny_pipeline.text_to_image("two dogs", num_inference_steps=3, seed=8, style="noto", num_outputs=2)
    item = output[1]
    save_png(item.images[0], file := tmp_path / "text-to-image-0002.png", record(item, "tiny"))
    places = {"text-to-image": {"text": inputs["text"], "steps": inputs["steps"], "style": inputs["style"]}}
    name, fields, _ = restore(str(file), places, Shelf(tmp_path), tiny_pipeline)
    assert (name, fields) == ("text-to-image", {"text": "two dogs", "steps": 3, "style": "noto"})


def test_settings_in_another_form_than_controls_show_them(
    tmp_path: Path, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image
) -> None:
    settings = {"conditions": [], "guidance_interval": [0.1, 0.8], "layer_plan": [[0, 1], [1, 0]]}
    application = {"application": {"name": "joint", "exchange": {"every": 3}}}
    colours = {"match_colours": {"method": "simple"}}
    save_png(picture, file := tmp_path / "made.png", settings | application | colours)
    names = ("guidance_from", "guidance_until", "layer_plan", "every", "match_colours")
    place = dict.fromkeys(names, inputs["text"])
    name, fields, _ = restore(str(file), {"joint": place}, Shelf(tmp_path), tiny_pipeline)
    assert (name, list(fields.values())) == ("joint", [0.1, 0.8, "0 1\n1 0", 3, "simple"])


@pytest.mark.parametrize("studio", [True, False])
def test_a_fidelity_comes_back_as_denoising_strength(
    tmp_path: Path,
    inputs: dict[str, Any],
    tiny_pipeline: VersatileDiffusionPipeline,
    picture: Image.Image,
    studio: bool,
) -> None:
    """Records store the fidelity, and an earlier studio showed it."""
    told = {"studio": {"tab": "inpaint", "fields": {"fidelity": 0.3}}}
    plain = {"conditions": [], "task": "inpaint", "fidelity": 0.3}
    save_png(picture, file := tmp_path / "made.png", told if studio else plain)
    place = {"inpaint": {"denoising": gr.Slider(0.05, 1, 1, render=False)}}
    assert restore(str(file), place, Shelf(tmp_path), tiny_pipeline)[1] == {"denoising": 0.7}


@pytest.mark.parametrize(("bits", "shown"), [({}, 7), ({"seed_bits": 64}, 7 + 2**40)])
def test_a_seed_comes_back_as_what_gives_the_same_image(
    tmp_path: Path,
    inputs: dict[str, Any],
    tiny_pipeline: VersatileDiffusionPipeline,
    picture: Image.Image,
    bits: dict[str, int],
    shown: int,
) -> None:
    place = {"text-to-image": {"seed": inputs["text"]}}
    told = {STUDIO: {"tab": "text-to-image", "fields": {"seed": 7 + 2**40}}}
    settings = {"conditions": [], "task": "text-to-image", "seeds": [7 + 2**40]}
    for number, record_of_it in enumerate((told | bits, settings | bits, settings | {"seed": 7 + 2**40} | bits)):
        save_png(picture, file := tmp_path / f"{number}.png", record_of_it)
        assert restore(str(file), place, Shelf(tmp_path), tiny_pipeline)[1] == {"seed": shown}


def damaged(file: Path) -> None:
    file.write_bytes(b"\x89PNG nothing")


def plain(file: Path) -> None:
    Image.new("RGB", (4, 4)).save(file)


def broken_record(file: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("versatile_diffusion", "{nonsense")
    Image.new("RGB", (4, 4)).save(file, pnginfo=info)


def other_tab(file: Path) -> None:
    save_png(Image.new("RGB", (4, 4)), file, {STUDIO: {"tab": "music", "fields": {}}})


def a_sheet(file: Path) -> None:
    save_png(Image.new("RGB", (4, 4)), file, {"sweep": [], "cells": []})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged, "has no settings"),
        (plain, "has no versatile_diffusion record"),
        (broken_record, "is damaged"),
        (other_tab, "which this studio does not have"),
        (a_sheet, "cannot restore this kind of settings"),
    ],
)
def test_files_that_cannot_be_restored(
    tmp_path: Path, inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline, make: Any, message: str
) -> None:
    make(file := tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        restore(str(file), {"inpaint": inputs}, Shelf(tmp_path), tiny_pipeline)


def test_nothing_to_restore(inputs: dict[str, Any], tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no settings"):
        restore(None, {"inpaint": inputs}, Shelf(tmp_path), tiny_pipeline)


def test_looking_sets_up_nothing(shelves: Shelves) -> None:
    for k in range(100):
        assert shelves.of(f"made up {k}").made == {}
    assert len(shelves._shelves) == 0


def kept(shelves: Shelves, job: StudioJob, person: str, client: str) -> Shelf:
    job = replace(job, person=person, client=client)
    shelves.keep(job, {})
    return shelves.of(person)


def test_the_client_with_most_pages_loses_the_oldest(tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path) -> None:
    shelves, job = Shelves(tmp_path, "tiny", kept=5, most=4), done(tiny_pipeline, "page", num_outputs=1)
    honest = kept(shelves, job, "honest", "bob")
    first = kept(shelves, job, "page 0", "mallory")
    for k in range(1, 9):
        kept(shelves, job, f"page {k}", "mallory")
    assert list(shelves._shelves) == ["honest", "page 6", "page 7", "page 8"]
    assert len(honest.made) == 1
    assert not any(path.exists() for path in (first.folder / "text-to-image-0001.png",))


def test_results_are_bounded_together_and_who_has_most_loses(
    tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    job = done(tiny_pipeline, "page", num_outputs=1)
    size = kept(Shelves(tmp_path / "try", "tiny", kept=5), job, "try", "").size
    shelves = Shelves(tmp_path, "tiny", kept=5, size=size * 9 // 2)
    honest = kept(shelves, job, "honest", "bob")
    for k in range(3):
        for _ in range(3):
            kept(shelves, job, f"page {k}", "mallory")
    left = sum(len(shelf.made) for shelf in shelves._shelves.values())
    assert left == 4
    assert len(honest.made) == 1
    assert len([path for path in tmp_path.rglob("*.png") if "try" not in str(path)]) == left


def test_what_is_not_used_is_removed(tiny_pipeline: VersatileDiffusionPipeline, shelves: Shelves) -> None:
    old = kept(shelves, done(tiny_pipeline, "ada"), "ada", "ada")
    new = kept(shelves, done(tiny_pipeline, "bob"), "bob", "bob")
    old.seen -= 100
    shelves.remove_unused(60)
    assert (old.made, len(new.made)) == ({}, 2)
    assert list(shelves._shelves) == ["bob"]


def test_an_uploaded_recording_comes_back_by_its_content_and_no_path_of_a_file_is_opened(
    tmp_path: Path, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    with gr.Blocks(analytics_enabled=False):
        inputs = {"audio": value_input("audio", "Recording"), "sound": value_input("unknown", "Sound")}
    (upload := tmp_path / "hello.wav").write_bytes(b"content")
    shelf, file = Shelf(tmp_path), tmp_path / "result.json"
    fields = form_record(inputs, {"audio": str(upload), "sound": str(upload)}, shelf)
    assert str(tmp_path) not in json.dumps(fields)
    file.write_text(json.dumps({STUDIO: {"tab": "audio-to-image", "fields": fields}}))
    _, back, said = restore(str(file), {"audio-to-image": inputs}, shelf, tiny_pipeline)
    assert (back, said) == ({"audio": str(upload), "sound": str(upload)}, "Settings restored.")
    for name in (str(upload), {"sha256": str(upload)}, {"path": str(upload)}):
        file.write_text(json.dumps({STUDIO: {"tab": "audio-to-image", "fields": {"audio": name, "sound": name}}}))
        _, back, said = restore(str(file), {"audio-to-image": inputs}, shelf, tiny_pipeline)
        assert back == {"audio": None, "sound": None}
        assert "please add again" in said
