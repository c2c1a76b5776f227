"""Published checkpoints of tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_official


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_official.write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def states():
    return tiny_official.official_states()
