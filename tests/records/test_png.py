"""Text chunks of saved pictures."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, PngImagePlugin

from versatile_diffusion.records.png import KEY, read_record, save_png

RECORD = {
    "library": "versatile-diffusion 9",
    "model": {"name": "emoji, small", "fingerprint": "00"},
    "prompt": "ein Äpfel 苹果 🍎",
    "negative_prompt": "blue",
    "num_inference_steps": 25,
    "scheduler": "dpm++",
    "guidance_scale": 7.5,
    "seed": 3,
    "seeds": [2, 3],
}


def saved(picture: Image.Image, record: dict[str, object]) -> Image.Image:
    buffer = io.BytesIO()
    save_png(picture, buffer, record)
    buffer.seek(0)
    return Image.open(buffer)


def test_the_record_comes_back(picture: Image.Image) -> None:
    again = saved(picture, RECORD)
    assert read_record(again) == {"schema": 1, **RECORD}
    assert list(again.get_flattened_data()) == list(picture.get_flattened_data())


def test_gallery_tools_can_read_it(picture: Image.Image) -> None:
    prompt, negative, line = saved(picture, RECORD).text["parameters"].split("\n")
    assert (prompt, negative) == ("ein Äpfel 苹果 🍎", "Negative prompt: blue")
    assert line == (
        'Steps: 25, Sampler: dpm++, CFG scale: 7.5, Seed: 3, Size: 24x20, Model: "emoji, small", '
        "Version: versatile-diffusion 9"
    )


def test_a_picture_without_a_prompt_has_an_empty_first_line(picture: Image.Image) -> None:
    lines = saved(picture, {"num_inference_steps": 2, "prompt": None}).text["parameters"].split("\n")
    assert lines == ["", "Steps: 2, Size: 24x20"]


def test_it_is_marked_as_made_by_a_model(picture: Image.Image) -> None:
    assert "digitalsourcetype/trainedAlgorithmicMedia" in saved(picture, RECORD).text["XML:com.adobe.xmp"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("[" * 100_000, "damaged"),
        ("{}", "schema None"),
        (json.dumps({"schema": 99}), "schema 99; this version reads schema 1"),
    ],
)
def test_other_records_are_refused(picture: Image.Image, text: str | None, message: str) -> None:
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    if text is not None:
        info.add_itxt(KEY, text)
    picture.save(buffer, format="PNG", pnginfo=info)
    buffer.seek(0)
    with pytest.raises(ValueError, match=message):
        read_record(Image.open(buffer), "x.png")
