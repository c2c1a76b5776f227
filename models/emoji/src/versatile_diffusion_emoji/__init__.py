"""Weights and sample pictures of the small emoji model; `versatile_diffusion` finds them through an entry point."""

from pathlib import Path


def path() -> Path:
    """The folder that holds the pipeline's weights."""
    return Path(__file__).parent / "weights"


def samples() -> Path:
    """The folder with pictures to try the model on (see its README for authors and licences)."""
    return Path(__file__).parent / "samples"
