"""A small speech set: 21 words in 14 voices, spoken where espeak-ng is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from versatile_diffusion.recipes.speech.data import build_speech
from versatile_diffusion.recipes.speech.data.voices import COMMAND

EMOJI = Path(__file__).parents[2] / "data" / "emoji"


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the emoji set and the speech set of its words."""
    if shutil.which(COMMAND) is None:
        pytest.skip(f"{COMMAND} is not installed")
    folder = tmp_path_factory.mktemp("sets")
    (folder / "emoji").symlink_to(EMOJI)
    build_speech(folder / "speech", EMOJI, progress=False)
    return folder


@pytest.fixture(scope="session")
def spoken(sets: Path) -> Path:
    """The speech set."""
    return sets / "speech"
