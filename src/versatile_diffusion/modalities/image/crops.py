"""Random crops of an image, for encoding it several times."""

from __future__ import annotations

import random

from PIL import Image

SMALLEST = 0.6
"""Area of the smallest crop, as a share of the image: small enough to differ, large enough to match the caption."""


def crops(image: Image.Image, count: int, seed: int) -> list[Image.Image]:
    """Return the image itself and random crops of its aspect ratio.

    Args:
        image: the image.
        count: images to return, at least 1.
        seed: of positions and sizes; the first crops do not depend on `count`.
    """
    draw, images = random.Random(seed), [image]  # nosec B311 # reproducible
    while len(images) < count:
        scale = draw.uniform(SMALLEST, 1) ** 0.5
        width, height = (max(1, round(scale * side)) for side in image.size)
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        images.append(image.crop((left, top, left + width, top + height)))
    return images
