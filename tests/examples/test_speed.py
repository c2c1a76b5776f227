"""The benchmarks of speed, at a size at which all of them run here; what they measure is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_cases_are_timed_in_turn() -> None:
    called: list[str] = []
    found = import_module("interleaved").in_turn({name: lambda name=name: called.append(name) for name in "ab"}, 2, 1)
    assert "".join(called) == "ababab"
    assert set(found) == {"a", "b"}


def test_both_networks_have_the_same_weights_and_outputs() -> None:
    networks, speed = import_module("speed_networks"), import_module("speed")
    unet = networks.diffuser(["image"], ["image"], 32)
    other = networks.theirs(unet, 8)
    assert {p.data_ptr() for p in other.parameters()} <= {p.data_ptr() for p in unet.parameters()}
    latent, tokens = networks.inputs(unet, 2, 8)
    run = networks.guided_step(unet, latent, tokens)
    speed.check_same(run, lambda: other(latent, 500, tokens).sample, torch.float32)
    with pytest.raises(ValueError, match="must be the same"):
        speed.check_same(run, lambda: other(latent, 400, tokens).sample, torch.float32)


def test_every_step_of_a_preset_has_a_kind() -> None:
    fast = import_module("fast")
    for name, preset in fast.FAST.items():
        found = fast.kinds(preset, 10)
        assert len(found) == 10
        assert (set(found) == {(True, True, 0)}) == (name == "off")
        assert found[0][1], "nothing is kept before the first step"


def tiny_report(tmp_path: Path, *command: Any) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["machine"]["versions"]["torch"] == torch.__version__
    return found


@pytest.mark.slow
def test_the_bench_writes_its_table(tmp_path: Path) -> None:
    small = ("--width", 32, "--side", 64, "--rounds", 1, "--json", tmp_path / "speed.json")
    table = tiny_report(tmp_path, sys.executable, "benchmarks/speed.py", *small)["table"]
    assert {"step", "text-to-image, tiny", "text flow, 2 items", "captions, 32"} <= table.keys()
    assert all(row["s"] > 0 < row["s (other)"] for row in table.values())


@pytest.mark.slow
def test_the_gpu_script_runs_dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    small = ("--device", "cpu", "--width", 32, "--side", 64, "--batches", "1,2", "--timed", 1, "--train-batch", 1)
    small += ("--dtype", "float32", "--backend", "eager", "--peak", 1, "--out", tmp_path / "gpu.json")
    found = tiny_report(tmp_path, "benchmarks/gpu.sh", *small)
    kinds = ("diffusers", "eager", "compiled")
    assert {f"{kind}, batch {n}" for kind in kinds for n in (1, 2)} == found["sampling"].keys()
    assert found["training"]["four flows, one step"]["TFLOP"] > 0
