"""`versatile data emoji`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from versatile_diffusion.data.emoji import Manifest, build

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


def test_it_builds_and_counts(versatile: Command, monkeypatch, tmp_path):
    asked = {}

    def build_emoji(out, **wishes):
        asked.update(out=out, **wishes)
        return Manifest.read(FIXTURE)

    monkeypatch.setattr("versatile_diffusion.data.emoji.build_emoji", build_emoji)
    done = versatile("data", "emoji", "--out", tmp_path, "--workers", 1)
    assert (done.code, "concept-test" in done.out) == (0, True)
    assert asked == {"out": tmp_path, "size": 64, "workers": 1}
    told = json.loads(versatile("data", "emoji", "--out", tmp_path, "--json").out)
    assert told["total"] == sum(sum(row.values()) for row in told["counts"].values())


def test_missing_npm_is_a_value_error(versatile: Command, monkeypatch, tmp_path):
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "tqdm", lambda rows, *_, **__: rows)
    done = versatile("data", "emoji", "--out", tmp_path / "set")
    assert (done.code, "npm was not found on PATH" in done.err) == (2, True)
