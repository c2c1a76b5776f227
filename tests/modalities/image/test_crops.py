"""Random crops of an image."""

from __future__ import annotations

import pytest
from PIL import Image

from versatile_diffusion.modalities.image.crops import SMALLEST, crops


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 48)])
def test_crops_keep_the_aspect_ratio_and_most_of_the_area(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 64).convert("RGB")
    whole, *parts = crops(image, 20, seed=3)
    assert whole is image
    for part in parts:
        scales = [side / of for side, of in zip(part.size, size, strict=True)]
        assert abs(scales[0] - scales[1]) <= 1 / min(size)
        assert max(scales) <= 1
        assert max(scales) >= SMALLEST**0.5 - 1 / max(size)


def test_the_first_crops_do_not_depend_on_how_many_there_are() -> None:
    image = Image.effect_noise((40, 40), 64).convert("RGB")
    few, many, others = crops(image, 3, seed=5), crops(image, 6, seed=5), crops(image, 3, seed=6)
    assert [part.tobytes() for part in few] == [part.tobytes() for part in many[:3]]
    assert few[1].tobytes() != few[2].tobytes()
    assert few[1].tobytes() != others[1].tobytes()
