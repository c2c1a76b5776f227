"""What the training of the small autoencoders has in common; their runs are in the tests of each."""

from __future__ import annotations

import pytest
import torch

from versatile_diffusion.training.parts.gaussian_codec import gradient_l1


def test_the_gradient_loss_sees_edges_but_no_shift_of_brightness() -> None:
    left = torch.zeros(1, 3, 4, 4)
    assert gradient_l1(left, left + 0.3) == 0
    right = left.clone()
    right[..., 2:] = 1
    assert gradient_l1(left, right) == pytest.approx(1 / 3)
