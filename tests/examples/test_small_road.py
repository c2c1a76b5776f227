"""`scripts/small_road.py`: from metadata to a trained model; the counts of the stages add up, or it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("polars")
SCRIPT = Path(__file__).parents[2] / "scripts" / "small_road.py"


def travel(out: Path, rows: int, steps: int, nodes: int) -> dict[str, Any]:
    words = ["--out", out, "--rows", rows, "--steps", steps, "--nodes", nodes]
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], env=environment, check=True, capture_output=True)
    return json.loads((out / "road.json").read_text())


@pytest.mark.slow
def test_the_road_on_one_machine(tmp_path: Path) -> None:
    counts = travel(tmp_path, 5000, 4, 0)
    assert counts["rows"] == 5000
    assert counts["kept"] > counts["fetched"] > 80
    assert set(counts["failed"]) == {"HTTP 404", "not an image", "measured aspect"}
    assert (counts["trained"], counts["lanes"]) == (64, 2)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@pytest.mark.flaky(reruns=1)  # Ray's own processes, on a busy machine
def test_the_road_on_two_nodes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    counts = travel(tmp_path, 5000, 4, 2)
    assert (counts["trained"], counts["lanes"]) == (64, 2)
