"""Requests to the service and what is in its answers."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

from PIL import Image

FEW = {"num_inference_steps": 3}
"""Options of a request that is quick."""


def opened(text: str | None) -> Image.Image:
    """The image in base64."""
    assert text is not None
    return Image.open(BytesIO(base64.b64decode(text)))


def file_of(image: Image.Image, form: str = "PNG") -> bytes:
    stream = BytesIO()
    image.save(stream, format=form)
    return stream.getvalue()


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(file_of(image)).decode()}"


def message(parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}]


def image_part(image: Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}
