"""The demo of a model of any modalities: a section for each of its flows, with pictures and players."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.cli.conftest import Command
from tests.conformance.conftest import TASK
from versatile_diffusion.cli.verbs import demo
from versatile_diffusion.modalities import MODALITIES


def test_the_page_has_every_flow(
    versatile: Command,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("VARIATIONS", "CAPTIONS", "CANDIDATES", "CAPTION_CANDIDATES"):
        monkeypatch.setattr(demo, name, 1)
    monkeypatch.setattr(demo, "INPUTS", 1)
    monkeypatch.setattr(demo, "PROMPTS", demo.PROMPTS[:1])
    monkeypatch.setattr(demo, "TEXTS", demo.TEXTS[:1])
    answer = versatile("demo", "--model", model, "--steps", 1, "--out", "shown")
    assert answer.code == 0, answer.err
    folder = tmp_path / "shown"
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r"versatile ([\w-]+),", page)) == sorted(TASK.values())
    files = [unquote(unescape(name)) for name in re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page)]
    assert {Path(name).suffix for name in files} == {".png", ".wav", ".snd"}
    assert [name for name in files if not (folder / name).is_file()] == []
    drawn = page.count('src="data:image/png;base64,')
    assert drawn == sum(Path(name).suffix != ".png" for name in files)
    assert page.count("<audio controls") == sum(Path(name).suffix == ".wav" for name in files)
    made = [folder / name for name in files if not name.startswith("input-")]
    for file in made:
        record = MODALITIES.of_suffix(file.suffix)
        assert record is not None
        record.check(str(file))
        assert record.embeds or file.with_suffix(".json").is_file()
    assert "JSON file beside them" in page


def test_a_recording_of_the_demo_can_be_replayed(
    versatile: Command,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from versatile_diffusion import VersatileDiffusionPipeline

    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    monkeypatch.setattr(demo, "VARIATIONS", 1)
    (out := tmp_path / "shown").mkdir()
    tasks = {task.name: task for task in pipe.tasks()}
    shown = demo.Demo(pipe, model, out, 1)
    _, (first,) = shown.flow(tasks["text-to-audio"], [demo.FlowInput("a bell", "a bell")])
    section, (second,) = shown.flow(tasks["audio-variation"], [first])
    assert section.rows[0].given_file == "a-bell-text-to-audio-1.wav"
    assert second.file == "a-bell-audio-variation-1.wav"
    assert versatile("replay", out / first.file).code == 0
    assert versatile("replay", out / second.file).code == 0
