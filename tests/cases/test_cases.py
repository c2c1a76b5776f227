"""Situations that people of this field have met elsewhere: each script prints what is right and what is faulty, and
exits 0 when all is right. A case never changes; only what it imports follows when a name moves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = sorted(
    str(path.relative_to(HERE))
    for pattern in ("*/run.py", "attacks/*.py", "attacks/*.sh")
    for path in HERE.glob(pattern)
    if path.name not in ("lib.py", "ui_lib.py")
)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_case(case: str, tmp_path: Path) -> None:
    copy = tmp_path / "cases"  # some write beside their inputs
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__", "test_cases.py"))
    paths = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        ["bash" if case.endswith(".sh") else sys.executable, str(copy / case)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
