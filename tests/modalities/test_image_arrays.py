"""Images as arrays and tensors: every number of them is an image's level, or they are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from versatile_diffusion.modalities import MODALITIES

check = MODALITIES["image"].check


def test_tensors_are_channels_first() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    wanted = check(levels).tobytes()
    whole = torch.from_numpy(levels).permute(2, 0, 1)
    for tensor in (whole, whole / 255, (whole / 255).double(), (whole / 255).half().requires_grad_()):
        assert check(tensor).tobytes() == wanted
    for tensor in (whole[:2], whole[None], whole[0]):
        with pytest.raises(ValueError, match=r"tensor \(3, H, W\)|image array must be"):
            check(tensor)


def test_arrays_of_sixteen_bits_are_scaled() -> None:
    levels = np.array([[0, 0x8080, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(check(levels))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(check(np.stack([levels] * 3, -1)))[0, :, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_outside_zero_to_one_are_refused_not_clipped(kind: Any) -> None:
    grey = np.full((4, 4, 3), 0.5, kind)
    assert check(grey).getpixel((0, 0)) == (128, 128, 128)
    for change in (255, -1, 1.01, np.nan, np.inf):
        odd = grey.copy()
        odd[1, 2, 0] = change
        with pytest.raises(ValueError, match=r"an image array of float\d\d must be in 0\.\.1; this one ranges from"):
            check(odd)
        with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
            check(torch.from_numpy(odd).permute(2, 0, 1))
    with pytest.raises(ValueError, match=r"give \(x \+ 1\) / 2 for one in -1\.\.1"):
        check(grey * 2 - 1.5)
    rounded = grey.copy()
    rounded[0, 0], rounded[0, 1] = 1 + 1e-3, -1e-3  # what resizing may leave
    assert np.asarray(check(rounded))[0, :2, 0].tolist() == [255, 0]


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint32, np.bool_, np.complex64])
def test_arrays_of_other_numbers_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="uint8, uint16, or float"):
        check(np.ones((4, 4), kind))
