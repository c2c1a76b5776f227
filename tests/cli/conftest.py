"""The command in this process, on a model of random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ALL, build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli import main
from versatile_diffusion.modalities.audio.waveform import Waveform, write_wav
from versatile_diffusion.pipeline import models


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


LOADED: dict[Any, VersatileDiffusionPipeline] = {}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that name the same files share the model: reading it would be most of what these tests do."""
    from versatile_diffusion.cli.io import model

    read = model.load

    def load(name: str, device: str | None = None, dtype: Any = "auto") -> VersatileDiffusionPipeline:
        folder = Path(models.shipped_models().get(name, name)).resolve()
        states = {file: file.stat() for file in folder.glob("**/*.*")}
        key = (
            device,
            str(dtype),
            *((file, state.st_mtime_ns, state.st_size) for file, state in sorted(states.items())),
        )
        if not states or key not in LOADED:
            LOADED[key] = read(name, device, dtype)
        return LOADED[key]

    monkeypatch.setattr(model, "load", load)


@pytest.fixture(scope="session")
def model(tiny_pipeline: VersatileDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def able_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of every modality."""
    folder = tmp_path_factory.mktemp("able")
    build_tiny_pipeline(ALL, ALL).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def versatile(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`versatile(*arguments)` in an empty folder; what it answered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERSATILE_DEBUG", raising=False)
    threads = torch.get_num_threads()

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        torch.set_num_threads(threads)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """Half a second of a tone."""
    file = tmp_path / "hello.wav"
    with file.open("wb") as stream:
        write_wav(Waveform((np.sin(np.arange(8000) / 9) * 9000).astype(np.int16), 16_000), stream, {})
    return file


@pytest.fixture
def apple(tmp_path: Path, picture: Image.Image) -> Path:
    file = tmp_path / "apple.png"
    picture.save(file)
    return file
