"""What people upload or paint, read kindly: any common kind of picture becomes RGB, all else a sentence."""

from __future__ import annotations

import base64
import binascii
import io
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from versatile_diffusion.modalities.image import DAMAGE, MOST_PIXELS, check_image
from versatile_diffusion.sampling.output import record_of

LARGEST_SIDE = 1024  # pixels; encoders and codecs see less than that
THUMBNAIL = 320
MOST_PAINTED = 2_000_000  # bytes of a painted mask
DATA_URL = "data:image/png;base64,"
_one_at_a_time = threading.Lock()  # a large picture takes hundreds of megabytes while it is read


def read_picture(path: str | None) -> Image.Image | None:
    """An uploaded picture as RGB, upright, on white where it is transparent, no larger than it has to be.

    Raises:
        ValueError: in words for people; the path is not told.
    """
    if path is None:
        return None
    too_large = f"this picture is too large; at most {MOST_PIXELS // 1_000_000} million pixels are allowed"
    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise ValueError(too_large)
                if max(opened.size) > 4 * LARGEST_SIDE:
                    opened.draft("RGB", (2 * LARGEST_SIDE, 2 * LARGEST_SIDE))  # JPEG: reads a part of the detail
                picture = check_image(opened)
                picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                return picture
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError as error:
        raise ValueError("this file is not a picture that can be read; try PNG, JPEG, WebP or GIF") from error
    except DAMAGE as error:
        if isinstance(error, ValueError) and "too large" in str(error):
            raise
        raise ValueError("this picture is damaged or cut short; please export or save it again") from error


def digest(picture: Image.Image) -> str:
    """What the settings of an output call this picture."""
    return str(record_of(None, picture)["sha256"])


def data_url(picture: Image.Image, side: int = THUMBNAIL, kind: str = "JPEG") -> str:
    """A small copy of a picture that a page can show without asking for a file."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def canvas(picture: Image.Image | None, mask: Image.Image | None = None) -> dict[str, str | None] | None:
    """What the painter shows: a picture and what is painted over it."""
    if picture is None:
        return None
    return {"picture": data_url(picture), "mask": None if mask is None else data_url(mask, kind="PNG")}


def read_mask(painted: Any) -> Image.Image | None:
    """What was painted, white on black; None if nothing was.

    Raises:
        ValueError: it is not what the painter gives.
    """
    url = painted.get("mask") if isinstance(painted, Mapping) else None
    if not url:
        return None
    if not isinstance(url, str) or not url.startswith(DATA_URL) or len(url) > MOST_PAINTED:
        raise ValueError("the painted mask cannot be read; clear it and paint again")
    try:
        content = base64.b64decode(url.removeprefix(DATA_URL), validate=True)
        with Image.open(io.BytesIO(content)) as opened:
            if max(opened.size) > LARGEST_SIDE:
                raise ValueError("the painted mask is too large")
            mask = opened.convert("RGBA").getchannel("A") if opened.mode == "RGBA" else opened.convert("L")
    except (binascii.Error, Image.DecompressionBombError, *DAMAGE) as error:
        raise ValueError("the painted mask cannot be read; clear it and paint again") from error
    return mask if np.asarray(mask).any() else None
