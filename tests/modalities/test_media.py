"""How a browser shows or plays a value follows from its record."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.audio.waveform import RATE, Waveform
from versatile_diffusion.modalities.media import ELEMENTS, element, kind_of, needs_picture, picture_of


@pytest.mark.parametrize(("name", "tag"), [("image", "<img "), ("audio", "<audio controls "), ("text", "")])
def test_the_element_of_each_modality(name: str, tag: str) -> None:
    shown = element(MODALITIES[name], "some%20file", 'a "red" <apple>')
    assert shown.startswith(tag)
    assert ("some%20file" in shown) is bool(tag)
    assert "<apple>" not in shown
    assert kind_of(MODALITIES[name]) in {*ELEMENTS, ""}


def test_only_what_is_no_image_by_itself_needs_a_picture() -> None:
    assert [name for name in ("image", "text", "audio") if needs_picture(MODALITIES[name])] == ["audio"]
    tone = np.sin(np.arange(RATE) / 20).astype(np.float32)
    shown = picture_of(MODALITIES["audio"], Waveform(tone, RATE), "a <tone>")
    assert 'alt="a &lt;tone&gt;"' in shown
    content = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    with Image.open(io.BytesIO(content)) as picture:
        assert 0 < np.asarray(picture.convert("L")).mean() < 128  # loud from end to end, black on white
