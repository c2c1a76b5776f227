"""OpenAI's client and the shipped model: every endpoint, with results that people would recognise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from PIL import Image, ImageDraw
from service_client import data_url, file_of, image_part, message, opened

from versatile_diffusion import VersatileDiffusionPipeline, serving

FEW = {"num_inference_steps": 8}


@pytest.fixture(scope="module")
def openai() -> Iterator[OpenAI]:
    pipe = VersatileDiffusionPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    with TestClient(serving.app(pipe), base_url="http://127.0.0.1") as client:
        yield OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


@pytest.mark.slow
def test_every_endpoint(openai: OpenAI) -> None:
    (model,) = openai.models.list()
    name = model.id
    drawn = openai.images.generate(model=name, prompt="a red heart", n=2, extra_body=FEW | {"seed": 0})
    assert drawn.data
    heart = opened(drawn.data[0].b64_json)
    red, green, blue = np.asarray(heart.convert("RGB")).reshape(-1, 3)[: 64 * 64].mean(0)
    assert red > green
    assert red > blue

    mask = Image.new("L", heart.size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, heart.width // 2, heart.height), fill=255)
    file = ("heart.png", file_of(heart))
    part = openai.images.edit(model=name, image=file, mask=("m.png", file_of(mask)), prompt="a cat", extra_body=FEW)
    both = openai.images.edit(model=name, image=[file, file], prompt="a blue heart", extra_body=FEW)
    other = openai.images.create_variation(model=name, image=file, extra_body=FEW)
    for made in (part, both, other):
        assert made.data
        assert opened(made.data[0].b64_json).size == heart.size
    events = list(openai.images.generate(prompt="a cat", stream=True, partial_images=1, extra_body=FEW))
    assert len(events) == 2

    given: Any = message([image_part(heart)])
    caption = openai.chat.completions.create(model=name, messages=given, n=2, seed=0, extra_body=FEW)
    assert all(choice.message.content for choice in caption.choices)
    words: Any = message("a red heart")
    told = openai.chat.completions.create(model=name, messages=words, seed=0, extra_body=FEW)
    assert told.choices[0].message.content

    texts = ["a red heart", "a green tree"]
    vectors = openai.embeddings.create(model=name, input=[data_url(heart), *texts]).data
    image, right, wrong = (np.array(row.embedding) for row in vectors)
    assert image @ right > image @ wrong, "the image is nearer to its own prompt"
