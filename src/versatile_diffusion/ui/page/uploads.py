"""Reading of uploads and painted masks: common image formats become RGB; anything else a clear error."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.modalities.image.files import (
    MOST_BYTES,
    MOST_PIXELS,
    TooLargeError,
    UnknownFormatError,
    open_image,
)
from versatile_diffusion.records.record import record_of

LARGEST_SIDE = 1024  # pixels; encoders and codecs use fewer
THUMBNAIL = 320
MOST_PAINTED = 2_000_000  # bytes of a painted mask
DATA_URL = "data:image/png;base64,"
_one_at_a_time = threading.Lock()  # a large image takes hundreds of megabytes while it is read


def read_picture(path: str | None) -> Image.Image | None:
    """Read an uploaded image as upright RGB, transparency on white, downscaled if large.

    Raises:
        ValueError: with a message for the user, without the path.
    """
    if path is None:
        return None
    try:
        with _one_at_a_time:
            picture = to_rgb(open_image(path, side=2 * LARGEST_SIDE))
    except TooLargeError as error:
        most = f"{MOST_PIXELS // 1_000_000} million pixels and {MOST_BYTES // 1_000_000} MB"
        raise ValueError(f"this image is too large; at most {most} are allowed") from error
    except UnknownFormatError as error:
        raise ValueError("this file is not an image that can be read; try PNG, JPEG, WebP or GIF") from error
    except ValueError as error:
        raise ValueError("this image is damaged or cut short; please export or save it again") from error
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return picture


def digest(picture: Image.Image) -> str:
    """Return the hash by which settings refer to this image."""
    return str(record_of(None, picture)["sha256"])


def data_url(picture: Image.Image, side: int = THUMBNAIL, kind: str = "JPEG") -> str:
    """Return a thumbnail as a data URL."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def canvas(picture: Image.Image | None, mask: Image.Image | None = None) -> dict[str, str | None] | None:
    """Return the painter's value: an image and the mask painted over it."""
    if picture is None:
        return None
    return {"picture": data_url(picture), "mask": None if mask is None else data_url(mask, kind="PNG")}


def read_mask(painted: Any) -> Image.Image | None:
    """Read the painted mask, white on black; None if empty.

    Raises:
        ValueError: not a value of the painter.
    """
    url = painted.get("mask") if isinstance(painted, Mapping) else None
    if not url:
        return None
    if not isinstance(url, str) or not url.startswith(DATA_URL) or len(url) > MOST_PAINTED:
        raise ValueError("the painted mask cannot be read; clear it and paint again")
    try:
        content = base64.b64decode(url.removeprefix(DATA_URL), validate=True)
        painting = open_image(content)
        if max(painting.size) > LARGEST_SIDE:
            raise ValueError("the painted mask is too large")
    except ValueError as error:  # including base64 errors
        raise ValueError("the painted mask cannot be read; clear it and paint again") from error
    # strokes have any colour; their opacity counts
    mask = painting.getchannel("A") if painting.mode == "RGBA" else to_rgb(painting).convert("L")
    return mask if np.asarray(mask).any() else None
