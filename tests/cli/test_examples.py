"""Every example of every help text is run as it stands there, on a model of random weights that bears the shipped one's
name."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import laion
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ALL, build_tiny_pipeline

from tests.cli import shell
from versatile_diffusion.cli.table import every_verb
from versatile_diffusion.modalities.audio.waveform import Waveform, write_wav
from versatile_diffusion.pipeline import models
from versatile_diffusion.recipes.emoji.data import Manifest
from versatile_diffusion.shipped import OWN, UNRELEASED
from versatile_diffusion.tasks import TASKS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "emoji"
VERBS = dict(every_verb())
FEWER = {
    "versatile train": ("--steps", "1"),
    "versatile evaluate": ("--count", "2", "--steps", "1", "--split", "pair-test"),
}
"""What makes an example quick where the model cannot; it is added at its end."""


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with the styles that examples name, which takes two steps."""
    pipe = build_tiny_pipeline(ALL, ALL)
    steps = {name: {"num_inference_steps": 2} for name in TASKS}
    pipe.register_to_config(styles={"noto": "noto style", "twemoji": "twemoji style"}, defaults=steps)
    folder = tmp_path_factory.mktemp("model") / "weights"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emoji: Path) -> Path:
    """The folder that examples are run in, with the files that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERSATILE_DEBUG", raising=False)
    for module in (models, "versatile_diffusion.shipped"):
        target = f"{module}.shipped_models" if isinstance(module, str) else (module, "shipped_models")
        names = lambda: dict.fromkeys((*OWN, *UNRELEASED), emoji)  # noqa: E731
        monkeypatch.setattr(target, names) if isinstance(target, str) else monkeypatch.setattr(*target, names)
    monkeypatch.setattr("versatile_diffusion.recipes.emoji.data.build_emoji", lambda out, **_: Manifest.read(DATA))
    for folder in ("photos", "pictures", "data", "models"):
        Path(folder).mkdir()
    Path("data/emoji").symlink_to(DATA)
    Path("models/emoji").symlink_to(ROOT / "models" / "emoji")
    monkeypatch.setenv("VERSATILE_CACHE", str(tmp_path / "cache"))
    for k, (name, colour) in enumerate({"apple": "red", "car": "blue"}.items()):
        Image.new("RGB", (24, 24), colour).save(f"{name}.png")
        Image.new("RGB", (24, 24), colour).save(f"photos/{name}.png")
        Image.new("RGB", (16, 16), colour).save(f"pictures/{k}.png")
        Path(f"pictures/{k}.txt").write_text(f"a {colour} {name}")
    Path("recordings").mkdir()
    for file in ("hello.wav", "recordings/a.wav", "pictures/0.wav", "pictures/1.wav"):
        with Path(file).open("wb") as stream:
            write_wav(Waveform((np.sin(np.arange(8000) / 9) * 9000).astype(np.int16), 16_000), stream, {})
    Path("prompts.txt").write_text("a red apple\na blue car\n")
    Path("prompts.csv").write_text("prompt,seed\na red apple,0\na blue car,1\n")
    Path("photos.jsonl").write_text('{"image": "photos/apple.png"}\n{"image": "photos/car.png"}\n')
    Path("logins.txt").write_text("ada:secret\n")
    Path("keys.txt").write_text("a-key-of-some-length\n")
    laion.write(Path("laion"), 2, 50, url="http://127.0.0.1/image.jpg")
    return tmp_path


def ended(api: Any, host: str, port: int) -> None:
    """In place of serving until SIGTERM: the service ends at once."""
    api.state.service.engine.close()


@pytest.mark.parametrize("words", VERBS)
def test_examples_work(here: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They follow one another, as they do in the help."""
    if words == "versatile ui":
        pytest.importorskip("gradio")
        at_once = SimpleNamespace(Event=lambda: SimpleNamespace(wait=lambda: None))  # it would serve until Ctrl-C
        monkeypatch.setattr("versatile_diffusion.cli.verbs.ui.threading", at_once)
    if words == "versatile data speech" and shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    if words == "versatile serve":
        pytest.importorskip("fastapi")
        monkeypatch.setattr("versatile_diffusion.serving.server.serve", ended)
    threads = torch.get_num_threads()
    for line in VERBS[words].examples:
        call = next(call for call in sorted(VERBS, key=len, reverse=True) if line.startswith(call))
        more = () if "--export" in line or "--compare" in line else FEWER.get(call, ())
        done = shell.run(line, more=more)
        torch.set_num_threads(threads)
        assert done.code == 0, f"{line}: {done.err}"
        assert done.out or "photos" in line or ">" in line, line
    shutil.rmtree(here)


@pytest.mark.parametrize("words", [words for words, verb in VERBS.items() if verb.load])
def test_help_ends_with_the_examples(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = shell.run(f"{words} --help")
    shown = done.text[done.text.index("\nExamples:\n" if "\nExamples:\n" in done.text else "\n  Examples:\n") :]
    assert [line.strip() for line in shown.strip().splitlines()[1:]] == list(VERBS[words].examples)
    assert VERBS[words].examples
    assert len(VERBS[words].summary) <= 57, "it would be cut in the list of verbs"


@pytest.mark.parametrize("words", [words for words, verb in VERBS.items() if verb.load])
def test_help_fits_a_terminal_of_80_columns(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shell.run(f"{words} --help").text
    assert [line for line in text.partition("Examples:")[0].splitlines() if len(line) > 80] == []
