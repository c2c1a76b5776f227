"""Distances on sets of which they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from versatile_diffusion.evaluation.distances import Gaussian, frechet, gaussian_distance, kernel_distance, ssim


def sample(shift: float, scale: float, count: int = 4000, seed: int = 0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(count, 3))


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    one = Gaussian(np.zeros(2), np.diag([4.0, 9.0]))
    other = Gaussian(np.array([1.0, 2.0]), np.diag([1.0, 16.0]))
    assert frechet(one, other) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])  # not diagonal, but both turned alike
    left, right = (Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (one, other))
    assert frechet(left, right) == pytest.approx(7)
    assert frechet(Gaussian.of(sample(0, 1)), Gaussian.of(sample(1, 2, seed=1))) == pytest.approx(3 + 3, rel=0.05)


def test_kernel_distance_against_its_definition() -> None:
    left, right = sample(0, 1, 4), sample(1, 1, 3, seed=1)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 3 + 1) ** 3

    inside = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (left, right)
    ]
    between = np.mean([kernel(a, b) for a in left for b in right])
    assert kernel_distance(left, right) == pytest.approx(sum(inside) - 2 * between)
    assert abs(kernel_distance(sample(0, 1), sample(0, 1, seed=1))) < 0.02


def test_gaussian_distance_is_of_directions() -> None:
    left, right = sample(0, 1, 50), sample(1, 1, 40, seed=1)
    assert gaussian_distance(left, left) == pytest.approx(0, abs=1e-9)
    assert gaussian_distance(left, right) == pytest.approx(gaussian_distance(5 * left, right))
    opposite = gaussian_distance(np.array([[1.0, 0]]), np.array([[-1.0, 0]]))
    assert opposite == pytest.approx(1000 * (2 - 2 * np.exp(-4 / 200)))


def test_ssim_of_flat_pictures_in_closed_form() -> None:
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    assert ssim(a, b).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-3)
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ssim(noise, noise), torch.ones(2), atol=1e-4)
    assert (ssim(noise, 1 - noise) < 0).all()
