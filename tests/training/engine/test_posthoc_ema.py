"""Averages whose width is chosen afterwards: the laws of Karras et al. 2024."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from versatile_diffusion.training.engine.posthoc_ema import (
    LARGEST,
    PowerAverages,
    gamma_of,
    reconstruct,
    solve,
    width_of,
    write_snapshot,
)

STEPS, WIDTHS = 400, (0.05, 0.10)


class Walk(nn.Module):
    """Weights that go a random way, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(50, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor]]:
    """Stored snapshots, and the weights after each step."""
    folder, generator, module = tmp_path_factory.mktemp("walk"), torch.Generator().manual_seed(0), Walk()
    averages, path = PowerAverages(module, WIDTHS), []
    for step in range(1, STEPS + 1):
        module.weights += torch.randn(50, generator=generator, dtype=torch.float64) + 0.1
        module.count += 1
        averages.update(module, step)
        path.append(module.weights.clone())
        if step % 25 == 0:
            write_snapshot(folder, step, averages.widths, averages.averages)
    return folder, path


def directly(path: list[torch.Tensor], width: float, steps: int) -> torch.Tensor:
    """The average by its definition: weights in proportion to tau^gamma."""
    profile = torch.arange(1, steps + 1, dtype=torch.float64) ** gamma_of(width)
    return (torch.stack(path[:steps]) * (profile / profile.sum())[:, None]).sum(dim=0)


@given(st.floats(0.005, LARGEST))
def test_width_and_exponent_belong_together(width: float) -> None:
    assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-6)


@pytest.mark.parametrize(("gamma", "width"), [(16.97, 0.05), (6.94, 0.10)])
def test_widths_of_the_paper(gamma: float, width: float) -> None:
    assert gamma_of(width) == pytest.approx(gamma, abs=0.01)


def test_the_width_is_that_of_the_profile() -> None:
    """Its standard deviation over the steps, as a share of them."""
    tau = np.linspace(0, 1, 200_001)
    for width in (0.05, 0.1, 0.2):
        profile = tau ** gamma_of(width)
        profile /= profile.sum()
        mean = (profile * tau).sum()
        assert np.sqrt((profile * (tau - mean) ** 2).sum()) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_running_average_is_that_of_its_definition(walk: tuple[Path, list[torch.Tensor]], width: float) -> None:
    folder, path = walk
    found, wanted = reconstruct(folder, width)["weights"], directly(path, width, STEPS)
    assert (found - wanted).norm() < 0.01 * (path[-1] - wanted).norm()


@pytest.mark.parametrize("step", [None, 200])
@pytest.mark.parametrize("width", [0.06, 0.08, 0.12, 0.15])
def test_other_widths_come_from_two(walk: tuple[Path, list[torch.Tensor]], width: float, step: int | None) -> None:
    folder, path = walk
    steps = STEPS if step is None else step
    found, wanted = reconstruct(folder, width, step)["weights"], directly(path, width, steps)
    stored = min((directly(path, w, steps) - wanted).norm() for w in WIDTHS)
    assert (found - wanted).norm() < 0.15 * stored, "far nearer than either of the stored averages"


def test_a_stored_width_is_taken_alone() -> None:
    stored = [(100, gamma_of(0.05)), (100, gamma_of(0.1)), (200, gamma_of(0.05)), (200, gamma_of(0.1))]
    assert solve(stored, stored[2]) == pytest.approx([0, 0, 1, 0], abs=1e-6)


def test_counters_are_the_last(walk: tuple[Path, list[torch.Tensor]]) -> None:
    assert reconstruct(walk[0], 0.07, 200)["count"] == 200


def test_what_cannot_be_is_refused(walk: tuple[Path, list[torch.Tensor]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no snapshot of step 13; available: 25"):
        reconstruct(walk[0], 0.07, 13)
    with pytest.raises(ValueError, match="none"):
        reconstruct(tmp_path, 0.07)
    for width in (0.0, 0.3):
        with pytest.raises(ValueError, match="width"):
            gamma_of(width)
    with pytest.raises(ValueError, match="2 widths, but the run was started with 0"):
        PowerAverages(Walk()).load([], lambda value, like: value)


def test_a_snapshot_that_cannot_be_read_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Linear(2, 2)
    averages = PowerAverages(module, (0.05, 0.1))
    for step in (1, 2, 3):
        averages.update(module, step)
        write_snapshot(tmp_path, step, averages.widths, averages.averages)
    (tmp_path / "0000004.safetensors").mkdir()
    (tmp_path / "0000005.safetensors").write_bytes(b"")
    os.truncate(tmp_path / "0000003.safetensors", 200)
    assert reconstruct(tmp_path, 0.08).keys() == module.state_dict().keys()
    told = capsys.readouterr().err
    assert all(f"000000{step}.safetensors cannot be read" in told for step in (3, 4, 5))
    with pytest.raises(ValueError, match="no snapshot of step 3; available: 1, 2"):
        reconstruct(tmp_path, 0.08, 3)
