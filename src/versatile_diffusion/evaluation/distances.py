"""Distances between sets of images by features, and between image pairs by pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Features = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Features) -> Gaussian:
        """Fit to a sample; a single row has zero covariance."""
        features = features.astype(np.float64)
        centred = features - (mean := features.mean(0))
        return cls(mean, centred.T @ centred / max(1, len(features) - 1))


def frechet(left: Gaussian, right: Gaussian) -> float:
    """Compute the squared Frechet distance of two Gaussians; with Inception features it is FID (Heusel et al. 2017).

    It depends on the sample size; compare only values from equal numbers of images.
    """
    values, vectors = np.linalg.eigh(left.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ right.covariance @ root).clip(0)).sum()
    gap = left.mean - right.mean
    return float(gap @ gap + np.trace(left.covariance) + np.trace(right.covariance) - 2 * cross)


def kernel_distance(left: Features, right: Features) -> float:
    """Compute the squared MMD with the kernel (x y / d + 1)^3, unbiased: KID (Binkowski et al. 2018).

    Over all images at once, not subsets. It can be negative.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)

    def kernel(a: Features, b: Features) -> np.ndarray:
        kernel: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
        return kernel

    return (
        _without_diagonal(kernel(left, left)) + _without_diagonal(kernel(right, right)) - 2 * _mean(left, right, kernel)
    )


def gaussian_distance(left: Features, right: Features, width: float = 10.0) -> float:
    """Compute the squared MMD with a Gaussian kernel on unit vectors, times 1000; with CLIP features it is CMMD
    (Jayasumana et al. 2024)."""
    left, right = (f / np.linalg.norm(f, axis=1, keepdims=True).clip(1e-12) for f in (left, right))

    def kernel(a: Features, b: Features) -> np.ndarray:
        kernel: np.ndarray = np.exp(-(2 - 2 * (a @ b.T)) / (2 * width**2))
        return kernel

    left, right = left.astype(np.float64), right.astype(np.float64)
    return 1000 * (_mean(left, left, kernel) + _mean(right, right, kernel) - 2 * _mean(left, right, kernel))


def _mean(left: Features, right: Features, kernel: Callable[[Features, Features], np.ndarray]) -> float:
    return float(kernel(left, right).mean())


def _without_diagonal(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / max(1, n * (n - 1)))


def ssim(left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Compute the SSIM of images in [0, 1] (Wang et al. 2004): 11 x 11 windows, Gaussian with sigma 1.5."""
    channels = left.shape[1]
    line = torch.exp(-((torch.arange(11, device=left.device) - 5.0) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(channels, 1, 11, 11)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    a, b = blurred(left), blurred(right)
    variance_a, variance_b = blurred(left**2) - a**2, blurred(right**2) - b**2
    covariance = blurred(left * right) - a * b
    light, contrast = 0.01**2, 0.03**2
    result = (2 * a * b + light) * (2 * covariance + contrast)
    return (result / ((a**2 + b**2 + light) * (variance_a + variance_b + contrast))).mean(dim=(1, 2, 3))
