"""Colour matching: laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion.applications.variation import METHODS, in_colours_of, match_colours, match_moments


def noise(seed: int, low: int, high: int, shape: tuple[int, int] = (12, 9)) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_colours_become_those_of_the_reference(method: str) -> None:
    picture, reference = noise(0, 0, 256), noise(1, 60, 180, (20, 7))
    matched = match_colours(picture, reference, method)
    assert matched.shape == picture.shape
    assert np.abs(matched.mean((0, 1)) - reference.mean((0, 1))).max() < 2.5
    assert np.abs(matched.std((0, 1)) - reference.std((0, 1))).max() < 2.5
    assert (match_colours(picture, reference, method, keep=1) == picture).all()


def test_histogram_has_the_levels_of_the_reference() -> None:
    reference = np.where(noise(1, 0, 256) > 100, 200, 40).astype(np.uint8)
    matched = match_colours(noise(0, 0, 256), reference, "histogram")
    near = (np.abs(matched.astype(int) - 200) <= 2) | (np.abs(matched.astype(int) - 40) <= 2)
    assert near.mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_flat_pictures_divide_by_nothing(method: str) -> None:
    flat, reference = np.full((4, 5, 3), 7, np.uint8), noise(1, 60, 180)
    with np.errstate(all="raise"):
        assert match_colours(flat, reference, method).shape == flat.shape
        assert np.abs(match_colours(flat, flat, method).astype(int) - 7).max() <= 1


def test_moments_of_tensors() -> None:
    picture, reference = torch.rand(2, 3, 8, 8), 0.3 + 0.2 * torch.rand(3, 5, 6)
    matched = match_moments(picture, reference)
    for one in matched:
        torch.testing.assert_close(one.mean((1, 2)), reference.mean((1, 2)))
        torch.testing.assert_close(one.std((1, 2)), reference.std((1, 2)))
    assert match_moments(torch.zeros(3, 4, 4), reference).isfinite().all()


def test_pictures_of_two_sizes() -> None:
    picture = in_colours_of(Image.fromarray(noise(0, 0, 256)), Image.new("L", (3, 4), 90))
    assert picture.size == (9, 12)
    assert set(np.asarray(picture).ravel()) == {90}


@pytest.mark.parametrize(
    ("options", "message"), [({"method": "magic"}, "allowed: simple, hist"), ({"keep": 2}, "0 to 1")]
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_colours(noise(0, 0, 256), noise(1, 0, 256), **options)
