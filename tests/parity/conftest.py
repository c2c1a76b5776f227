"""What several parity tests need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.official import build_diffuser


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over largest absolute value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="session")
def diffuser(reference: Path) -> MultiFlowUNet:
    """The reference's small diffuser, with the streams whose weights are there."""
    folder = reference / "diffuser"
    return build_diffuser(read_json(folder / "config.json"), load_file(folder / "weights.safetensors"))


@pytest.fixture
def needs(reference: Path, diffuser: MultiFlowUNet) -> Callable[..., None]:
    """Skips a test whose streams are not among the weights that the repository keeps. In any other set of reference
    vectors they must be there."""

    def check(data: str, *contexts: str) -> None:
        lacking = [f"data.{data}"] * (data not in diffuser.data)
        lacking += [f"context.{name}" for name in dict.fromkeys(contexts) if name not in diffuser.context]
        if lacking and reference.parts[-3:] == ("tests", "data", "reference"):
            pytest.skip(
                f"weights of {', '.join(lacking)} are not kept in the repository (size); set VERSATILE_REFERENCE "
                "to the whole reference set, or put it at ../shared/reference"
            )
        assert not lacking, f"the reference in {reference} lacks weights of {lacking}"

    return check
