"""Views of a drawing."""

from __future__ import annotations

import numpy as np
import pytest

from versatile_diffusion.recipes.emoji.views import SMALLEST, views


@pytest.fixture
def picture() -> np.ndarray:
    """A black bar at the left edge and a dot, on white."""
    drawn = np.full((64, 64, 3), 255, dtype=np.uint8)
    drawn[:, :8] = 0
    drawn[40:48, 40:48] = (255, 0, 0)
    return drawn


def ink(view: np.ndarray) -> float:
    return float((255 - view.astype(float)).sum())


def test_the_first_is_the_picture_and_the_second_its_mirror_image(picture):
    first, second = views(picture, 2, True, "a")
    assert (first == picture).all()
    assert (second == picture[:, ::-1]).all()


def test_nothing_is_mirrored_that_must_not_be(picture):
    for view in views(picture, 12, False, "a"):
        bar = np.flatnonzero((view < 60).all(2).sum(0) > 30)
        assert len(bar)
        assert bar.max() < 32  # it stays on the left


def test_nothing_of_the_drawing_is_lost(picture):
    for view in views(picture, 12, True, "b")[2:]:
        assert SMALLEST**2 * 0.97 <= ink(view) / ink(picture) <= 1.02


def test_chance_depends_on_the_key_and_the_number_alone(picture):
    once, again = views(picture, 5, True, "a"), views(picture, 3, True, "a")
    assert all((x == y).all() for x, y in zip(once, again, strict=False))
    assert not (once[2] == once[3]).all()
    assert not (once[2] == views(picture, 3, True, "b")[2]).all()
