"""`versatile data emoji`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from versatile_diffusion.cli.data import app
from versatile_diffusion.data.emoji import Manifest, build

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


def test_it_builds_and_counts(monkeypatch, tmp_path):
    asked = {}

    def build_emoji(out, **wishes):
        asked.update(out=out, **wishes)
        return Manifest.read(FIXTURE)

    monkeypatch.setattr("versatile_diffusion.data.emoji.build_emoji", build_emoji)
    done = CliRunner().invoke(app, ["emoji", "--out", str(tmp_path), "--workers", "1"])
    assert done.exit_code == 0
    assert asked == {"out": tmp_path, "size": 64, "workers": 1}
    assert "concept-test" in done.stdout


def test_missing_npm_is_a_value_error(monkeypatch, tmp_path):
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "tqdm", lambda rows, *_, **__: rows)
    done = CliRunner().invoke(app, ["emoji", "--out", str(tmp_path / "set")])
    assert isinstance(done.exception, ValueError)
    assert "npm was not found on PATH" in str(done.exception)
