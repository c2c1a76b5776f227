"""A model of four modalities: the three that ship and the one in `sound.py`, which one entry point makes known."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import LATENT, build_tiny_pipeline

from tests.cli.conftest import loaded_once, versatile  # noqa: F401 # fixtures
from versatile_diffusion import ModalityBank, MultiFlowUNet, VersatileDiffusionPipeline
from versatile_diffusion.modalities import ENTRY_POINTS, MODALITIES
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import AudioVAE
from versatile_diffusion.modalities.audio.waveform import RATE, Waveform
from versatile_diffusion.records.png import write_value

ALL = ("image", "text", "audio", "sound")
FLOWS = [(data, context) for data in ALL for context in ALL]
TASK = {
    ("image", "image"): "image-variation",
    ("image", "text"): "text-to-image",
    ("image", "audio"): "audio-to-image",
    ("image", "sound"): "sound-to-image",
    ("text", "image"): "image-to-text",
    ("text", "text"): "text-variation",
    ("text", "audio"): "audio-to-text",
    ("text", "sound"): "sound-to-text",
    ("audio", "image"): "image-to-audio",
    ("audio", "text"): "text-to-audio",
    ("audio", "audio"): "audio-variation",
    ("audio", "sound"): "sound-to-audio",
    ("sound", "image"): "image-to-sound",
    ("sound", "text"): "text-to-sound",
    ("sound", "audio"): "audio-to-sound",
    ("sound", "sound"): "sound-variation",
}


@pytest.fixture(autouse=True)
def sound_is_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a package with the entry point `sound` were installed."""
    point = EntryPoint("sound", "tests.conformance.sound:SOUND", ENTRY_POINTS)
    monkeypatch.setitem(vars(MODALITIES), "_entry_points", {"sound": point})
    yield
    MODALITIES._records.pop("sound", None)


@cache
def build() -> VersatileDiffusionPipeline:
    """The tiny model with four streams more; the same weights every time."""
    from tests.conformance.sound import LATENT as SOUND_LATENT
    from tests.conformance.sound import SoundCodec, SoundContext

    tiny = build_tiny_pipeline()
    streams = {
        "image": {"channels": 4},
        "text": {"width": LATENT, "positions": 4},
        "audio": {"channels": 16},
        "sound": {"width": SOUND_LATENT},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {"width": 16, "multipliers": (1, 2), "depth": 1, "attends": (True, False), "heads": 2}
        unet = MultiFlowUNet(streams, {name: {"width": 192} for name in ALL}, norm_groups=4, **shape)
        for weight in unet.parameters():  # some begin at zero, and would hide mistakes
            if weight.abs().sum() == 0:
                torch.nn.init.normal_(weight, std=0.05)
        codecs = {**dict(tiny.bank.codecs.items()), "audio": AudioVAE((4, 4)), "sound": SoundCodec()}
        audio = DualAudioEncoder((4, 4, 4))
        encoders = {**dict(tiny.bank.encoders.items()), "audio": audio, "sound": SoundContext()}
    pipe = VersatileDiffusionPipeline(
        unet.eval(), ModalityBank(codecs, encoders).eval(), tiny.scheduler, styles=dict(tiny.config.styles)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(sound_is_installed: None) -> VersatileDiffusionPipeline:
    return build()


@pytest.fixture
def model(pipe: VersatileDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its folder."""
    return _saved(tmp_path_factory.getbasetemp() / "three")


@cache
def _saved(folder: Path) -> str:
    build().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def values(sound_is_installed: None) -> dict[str, Any]:
    """A value of each modality."""
    from tests.conformance.sound import LENGTH, Sound

    levels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    wave = (np.sin(np.arange(LENGTH) / 3) * 30000).round().astype(np.float32) / 32767
    tone = (np.sin(np.arange(RATE // 2) ** 1.5 / 900) * 9000).round().astype(np.int16)
    return {
        "image": Image.fromarray(levels),
        "text": "a red apple",
        "audio": Waveform(tone, RATE),
        "sound": Sound(tuple(wave.tolist())),
    }


def saved(values: dict[str, Any], folder: Path, stem: str = "one") -> dict[str, Path]:
    """Each value as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{stem}{MODALITIES[name].suffix}" for name in values}
    for name, file in files.items():
        with file.open("wb") as stream:
            write_value(name, values[name], stream)
    return files


def same(modality: str, one: Any, other: Any) -> bool:
    """Whether two values are the same to the number."""
    record = MODALITIES[modality]
    if record.plain:
        return bool(one == other)
    return np.array_equal(record.numbers(one), record.numbers(other))
