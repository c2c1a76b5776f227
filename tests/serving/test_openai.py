"""OpenAI's own client runs every endpoint."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai as library
import pytest
from openai import OpenAI
from PIL import Image
from service_client import FEW, data_url, file_of, image_part, message, opened

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.records.png import read_record

MODEL = "tiny"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_images_from_a_prompt(openai: OpenAI, pipe: VersatileDiffusionPipeline) -> None:
    options = FEW | {"guidance_scale": 3.0, "style": "noto", "negative_prompt": "a dog"}
    made = openai.images.generate(
        model=MODEL,
        prompt="a red apple",
        n=2,
        size="32x16",  # type: ignore[call-overload]
        response_format="b64_json",
        extra_body=options | {"seed": 7},
    )
    expected = pipe.text_to_image("a red apple", num_outputs=2, seed=7, height=16, width=32, **options)
    assert made.data is not None
    assert made.size == "32x16"
    for row, image in zip(made.data, expected.images, strict=True):
        assert opened(row.b64_json).size == (32, 16)
        assert np.abs(pixels(opened(row.b64_json)) - pixels(image)).max() <= 1
        assert row.revised_prompt == "a red apple, noto style"
    record = read_record(base64.b64decode(made.data[1].b64_json or ""))
    assert (record["seed"], record["from_pretrained"], record["style"]) == (8, MODEL, "noto")


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats(openai: OpenAI, form: Any) -> None:
    made = openai.images.generate(prompt="a cat", output_format=form, extra_body=FEW)
    assert made.data
    assert opened(made.data[0].b64_json).format == form.upper()


def test_partial_images(openai: OpenAI) -> None:
    stream = openai.images.generate(
        prompt="a cat", stream=True, partial_images=2, output_format="jpeg", extra_body={"num_inference_steps": 6}
    )
    events = list(stream)
    assert [event.type for event in events] == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, None]
    assert all(opened(event.b64_json).size == (16, 16) for event in events)


def test_edits_by_a_prompt_and_images(openai: OpenAI, pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    """As dual-guided generation: the prompt has its share, the images have the rest."""
    made = openai.images.edit(
        image=[("a.png", file_of(picture)), ("b.png", file_of(picture.rotate(90)))],
        prompt="a cat",
        extra_body=FEW | {"seed": 1, "text_to_image_strength": 0.25},
    )
    images = [Condition("image", one, weight=0.375) for one in (picture, picture.rotate(90))]
    expected = pipe.generate("image", [Condition("text", "a cat", weight=0.25), *images], seed=1, **FEW)
    assert made.data
    assert np.abs(pixels(opened(made.data[0].b64_json)) - pixels(expected.images[0])).max() <= 1


@pytest.mark.parametrize("transparent", [True, False])
def test_edits_of_a_part(openai: OpenAI, picture: Image.Image, transparent: bool) -> None:
    """A mask in OpenAI's form (transparent where it is generated anew) and in ours (white): all else is kept."""
    image = picture.resize((16, 16))
    if transparent:
        mask = image.convert("RGBA")
        mask.paste((0, 0, 0, 0), (0, 0, 8, 16))
    else:
        mask = Image.new("L", (16, 16), 0)
        mask.paste(255, (0, 0, 8, 16))
    made = openai.images.edit(
        image=("a.png", file_of(image)), mask=("mask.png", file_of(mask)), prompt="a cat", extra_body=FEW
    )
    assert made.data
    result, before = pixels(opened(made.data[0].b64_json)), pixels(image)
    assert (result[:, 8:] == before[:, 8:]).all()
    assert (result[:, :8] != before[:, :8]).any()


def test_edits_send_events(openai: OpenAI, picture: Image.Image) -> None:
    stream = openai.images.edit(
        image=("a.png", file_of(picture)), prompt="a cat", stream=True, partial_images=1, extra_body=FEW
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_variations(openai: OpenAI, pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    made = openai.images.create_variation(
        image=("a.png", file_of(picture)), n=2, extra_body=FEW | {"seed": 3, "guidance_interval": [0.1, 0.8]}
    )
    expected = pipe.image_variation(picture, num_outputs=2, seed=3, guidance_interval=(0.1, 0.8), **FEW)
    assert made.data
    assert len(made.data) == 2
    for row, image in zip(made.data, expected.images, strict=True):
        assert np.abs(pixels(opened(row.b64_json)) - pixels(image)).max() <= 1


def test_captions(openai: OpenAI, pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    made = openai.chat.completions.create(
        model=MODEL,
        messages=message([image_part(picture)]),  # type: ignore[arg-type]
        n=2,
        seed=5,
        temperature=0.0,
        extra_body=FEW,
    )
    expected = pipe.image_to_text(picture, num_outputs=2, seed=5, temperature=0.0, **FEW)
    assert [choice.message.content for choice in made.choices] == expected.texts
    assert {choice.finish_reason for choice in made.choices} == {"stop"}
    assert "warnings" not in (made.model_extra or {})


def test_other_words(openai: OpenAI, pipe: VersatileDiffusionPipeline) -> None:
    made = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "be brief"}, *message("a red apple")],  # type: ignore[list-item]
        max_completion_tokens=5,
        seed=2,
        extra_body=FEW,
    )
    assert made.choices[0].message.content == pipe.text_variation("a red apple", seed=2, max_length=5, **FEW).texts[0]
    assert made.model_extra is not None
    assert made.model_extra["warnings"] == ["only the last message of the user is read"]


def test_what_is_not_read_is_named(openai: OpenAI, picture: Image.Image) -> None:
    parts = [{"type": "text", "text": "What is this?"}, image_part(picture)]
    made = openai.chat.completions.create(model=MODEL, messages=message(parts), extra_body=FEW)  # type: ignore[arg-type]
    assert made.model_extra is not None
    assert made.model_extra["warnings"] == ["text beside an image is not read: the model captions images"]


def test_captions_as_events(openai: OpenAI, picture: Image.Image) -> None:
    options: dict[str, Any] = {"n": 2, "seed": 5, "temperature": 0.0, "extra_body": FEW}
    given: Any = message([image_part(picture)])
    whole = openai.chat.completions.create(model=MODEL, messages=given, **options)
    texts = ["", ""]
    for chunk in openai.chat.completions.create(model=MODEL, messages=given, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings(openai: OpenAI, pipe: VersatileDiffusionPipeline, picture: Image.Image, encoding: Any) -> None:
    """Of texts and of images, in one space; the client asks for base64 by itself."""
    options = {} if encoding is None else {"encoding_format": encoding}
    inputs = ["a red apple", data_url(picture), "a dog"]
    made = openai.embeddings.create(model=MODEL, input=inputs, **options)
    texts = pipe.bank.encoders["text"].compare(["a red apple", "a dog"])
    images = pipe.bank.encoders["image"].compare([picture])
    for row, expected in zip(made.data, (texts[0], images[0], texts[1]), strict=True):
        held: Any = row.embedding
        numbers = np.frombuffer(base64.b64decode(held), "<f4") if isinstance(held, str) else np.array(held)
        np.testing.assert_allclose(numbers, expected.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(numbers), 1, atol=1e-5)


def test_models(openai: OpenAI) -> None:
    (model,) = openai.models.list()
    assert model.id == MODEL
    assert "image-to-text" in (model.model_extra or {})["tasks"]
    assert openai.models.retrieve(MODEL).id == MODEL


def test_errors_are_those_of_the_client(openai: OpenAI, picture: Image.Image) -> None:
    with pytest.raises(library.NotFoundError, match="there is no model 'gpt'; this service has 'tiny'"):
        openai.images.generate(prompt="a cat", model="gpt")
    with pytest.raises(library.NotFoundError):
        openai.models.retrieve("gpt")
    with pytest.raises(library.BadRequestError, match="did you mean 'num_inference_steps'") as error:
        openai.images.generate(prompt="a cat", extra_body={"num_inference_step": 3})
    assert error.value.type == "invalid_request_error"
    with pytest.raises(library.BadRequestError, match="size is 'big'"):
        openai.images.generate(prompt="a cat", size="big")  # type: ignore[call-overload]
    with pytest.raises(library.BadRequestError, match="num_inference_steps") as error:
        openai.images.generate(prompt="a cat", extra_body={"num_inference_steps": 0})
    assert error.value.param == "num_inference_steps"
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/image.png"}}
    with pytest.raises(library.BadRequestError, match="addresses are not fetched"):
        openai.chat.completions.create(model=MODEL, messages=message([part]))  # type: ignore[arg-type]
    file = ("a.png", file_of(picture))
    with pytest.raises(library.BadRequestError, match="goes with one image"):
        openai.images.edit(image=[file, file], mask=file, prompt="a cat")
    with pytest.raises(library.BadRequestError, match="dimensions is 7"):
        openai.embeddings.create(model=MODEL, input="a cat", dimensions=7)


def test_errors_end_a_stream(openai: OpenAI, monkeypatch: pytest.MonkeyPatch, pipe: VersatileDiffusionPipeline) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(type(pipe.unet), "forward", broken)
    with pytest.raises(library.APIError, match="not enough memory"):
        list(openai.images.generate(prompt="a cat", stream=True, extra_body=FEW))
    given: Any = message("a cat")
    with pytest.raises(library.APIError, match="not enough memory"):
        list(openai.chat.completions.create(model=MODEL, messages=given, stream=True, extra_body=FEW))
