"""Tensors that are kept in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from versatile_diffusion.training.engine.cache import load_cached


def test_a_tensor_is_computed_once(tmp_path: Path) -> None:
    value, times = torch.arange(12.0).reshape(3, 4).T, []
    for _ in range(3):
        assert torch.equal(
            load_cached(tmp_path / "new" / "it.safetensors", "rows", lambda: times.append(1) or value), value
        )
    assert len(times) == 1


@pytest.mark.parametrize("harm", ["cut", "empty", "other"])
def test_a_damaged_file_is_told_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    path, value = tmp_path / "it.safetensors", torch.ones(100)
    load_cached(path, "rows", lambda: value)
    if harm == "other":
        save_file({"columns": value}, path)
    else:
        os.truncate(path, 0 if harm == "empty" else 300)
    assert torch.equal(load_cached(path, "rows", lambda: 2 * value), 2 * value)
    assert "it.safetensors is damaged" in capsys.readouterr().err
    assert torch.equal(load_cached(path, "rows", lambda: value), 2 * value)
