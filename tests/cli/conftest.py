"""The command in this process, on a model of random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture(scope="session")
def model(tiny_pipeline: VersatileDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.save_pretrained(folder)
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
def apple(tmp_path: Path, picture: Image.Image) -> Path:
    file = tmp_path / "apple.png"
    picture.save(file)
    return file
