"""Shapes for pictures of many proportions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from versatile_diffusion.data.buckets import Buckets, cut


@given(st.integers(1, 12), st.sampled_from([1, 8, 64]), st.floats(1, 9))
def test_shapes_are_of_one_area_and_lie_both_ways(cells: int, multiple: int, widest: float) -> None:
    side = cells * multiple
    shapes = Buckets.of(side, multiple, widest).shapes
    assert (side, side) in shapes
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) == {(width, height) for height, width in shapes}
    assert [height / width for height, width in shapes] == sorted((h / w for h, w in shapes), reverse=True)
    for height, width in shapes:
        assert height % multiple == width % multiple == 0
        assert max(height, width) <= widest * min(height, width)
        short, long = sorted((height, width))
        assert short * long <= side**2 < short * (long + multiple)


def test_the_shapes_of_a_model_of_512_pixels() -> None:
    shapes = Buckets.of(512, 64, 2).shapes
    assert shapes == ((640, 384), (576, 448), (512, 512), (448, 576), (384, 640))


def test_pictures_go_to_the_nearest_shape_and_lose_little() -> None:
    buckets = Buckets.of(64, 16, 3)
    assert buckets.nearest(Image.new("RGB", (900, 900))) == (64, 64)
    assert buckets.nearest(Image.new("RGB", (160, 90))) == (48, 80)
    assert buckets.nearest(Image.new("RGB", (1, 30))) == (80, 48)
    picture = Image.new("RGB", (160, 90), "white")
    picture.paste("red", (5, 0, 155, 90))
    middle = cut(picture, (48, 80))
    assert middle.size == (150, 90)
    assert middle.getextrema() == ((255, 255), (0, 0), (0, 0))


@pytest.mark.parametrize(("arguments", "told"), [((60, 16, 2), "not a multiple of 16"), ((64, 16, 0.5), "1 or more")])
def test_what_cannot_be_is_refused(arguments: tuple[int, int, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Buckets.of(*arguments)
