"""A finished run becomes a distribution that has only what the model it extends lacks; together they are the model."""

from __future__ import annotations

import shutil
import sys
import tomllib
import zlib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion import ModalityBank, MultiFlowUNet, VersatileDiffusionPipeline, shipped
from versatile_diffusion.interop.verify import verify
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import AudioVAE
from versatile_diffusion.modalities.audio.waveform import read_waveform
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.recipes.emoji.ship import round_weights
from versatile_diffusion.recipes.speech import ship as module
from versatile_diffusion.recipes.speech.card import PACKAGE
from versatile_diffusion.recipes.speech.ship import ship


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of images and texts, as it ships."""
    pipe = build_tiny_pipeline()
    pipe.to(dtype=torch.float16)
    round_weights(pipe.unet)
    pipe.save_pretrained(folder := tmp_path_factory.mktemp("before") / "weights")
    return folder


def promoted(before: Path, out: Path) -> VersatileDiffusionPipeline:
    """The same with streams of audio, which are new; exported as a finished run."""
    old = VersatileDiffusionPipeline.from_pretrained(before)
    torch.manual_seed(0)
    config = {name: value for name, value in old.unet.config.items() if not name.startswith("_")}
    config["data_streams"] = {**config["data_streams"], "audio": {"channels": 16}}
    config["context_streams"] = {**config["context_streams"], "audio": {"width": 192}}
    unet = MultiFlowUNet(**config)
    unet.load_state_dict({**unet.state_dict(), **old.unet.state_dict()})
    codecs: dict[str, Any] = {**dict(old.bank.codecs.items()), "audio": AudioVAE((4, 4))}
    encoders: dict[str, Any] = {**dict(old.bank.encoders.items()), "audio": DualAudioEncoder((4, 4, 4))}
    pipe = VersatileDiffusionPipeline(unet.eval(), ModalityBank(codecs, encoders).eval(), old.scheduler)
    pipe.save_pretrained(out / "export")
    return pipe


@pytest.fixture
def run(before: Path, tmp_path: Path) -> Path:
    promoted(before, tmp_path / "run")
    return tmp_path / "run"


def test_only_what_is_new_is_shipped_and_together_it_is_the_model(
    run: Path, before: Path, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "emoji-speech"
    size = ship(run, spoken, out, base=str(before))
    weights = out / "src" / PACKAGE / "weights"
    shared = {file.relative_to(before) for file in before.rglob("*.safetensors")}
    assert not shared & {file.relative_to(weights) for file in weights.rglob("*.safetensors")}
    exported = VersatileDiffusionPipeline.from_pretrained(run / "export")
    new = [exported.unet.data["audio"], exported.unet.context["audio"]]
    new += [exported.bank.codecs["audio"], exported.bank.encoders["audio"]]
    values = sum(weight.numel() for part in new for weight in part.parameters())
    assert sum(file.stat().st_size for file in weights.rglob("*.safetensors")) == pytest.approx(2 * values, rel=0.1)
    files = [file for file in weights.rglob("*") if file.is_file()]
    assert size == sum(len(zlib.compress(file.read_bytes())) for file in files)  # as a wheel has them

    monkeypatch.setitem(sys.modules, PACKAGE, type(sys)(PACKAGE))
    sys.modules[PACKAGE].path = lambda: weights  # type: ignore[attr-defined]
    point = EntryPoint("emoji-speech", f"{PACKAGE}:path", shipped.MODELS_GROUP)
    monkeypatch.setattr(shipped, "entry_points", lambda group: [point])
    pipe = VersatileDiffusionPipeline.from_pretrained("emoji-speech")
    assert pipe.model_name == "emoji-speech"
    assert len({task.name for task in pipe.tasks()}) == 10  # nine flows, and dual-guided
    old = VersatileDiffusionPipeline.from_pretrained(before)
    state = pipe.unet.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in old.unet.state_dict().items())
    for name, weight in exported.unet.state_dict().items():
        assert torch.allclose(state[name], weight, rtol=2**-6, atol=2**-20), name
    assert verify(Path(find_model("emoji-speech")), numbers=True).ok
    (drawing := before.parent / shipped.SAMPLES / "bell.png").parent.mkdir(exist_ok=True)
    drawing.touch()
    *recordings, last = (file for file in shipped.samples_of("emoji-speech") if file.suffix != ".md")
    assert {file.suffix for file in recordings} == {".wav"}
    assert last == drawing
    wave = pipe.run("text-to-audio", "a bell", num_inference_steps=1, seed=0).values[0]
    assert wave.seconds == pytest.approx(1.92)


def test_the_distribution_says_what_it_is(run: Path, before: Path, spoken: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "emoji-speech", tmp_path / "figures"
    ship(run, spoken, out, base=str(before))
    card, notice = (out / "README.md").read_text(), (out / "NOTICE").read_text()
    assert "Evaluation" not in card
    assert "bit for bit" in card
    assert "| codec of audio, `AudioVAE` |" in card
    assert "GPL-3.0-or-later" in notice
    assert "CC-BY-SA-4.0" in notice
    project = tomllib.loads((out / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][shipped.MODELS_GROUP] == {"emoji-speech": f"{PACKAGE}:path"}
    space: dict[str, Any] = {"__file__": str(out / "src" / PACKAGE / "__init__.py")}
    exec((out / "src" / PACKAGE / "__init__.py").read_text(), space)
    assert (space["path"]() / "model_index.json").is_file()
    recordings = sorted(space["samples"]().glob("*.wav"))
    assert 1 < len(recordings) <= len(module.SAMPLES)
    assert all(read_waveform(file).seconds < 2 for file in recordings)
    figures.mkdir()
    (figures / "figures.md").write_text("| way | measure |\n|---|---|\n| codec | 1 |\n")
    ship(run, spoken, out, figures, base=str(before))
    assert "## Evaluation" in (out / "README.md").read_text()
    assert "| codec | 1 |" in (out / "README.md").read_text()


def test_layers_that_were_trained_further_count(
    before: Path, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = promoted(before, tmp_path / "run")
    with torch.no_grad():
        for weight in pipe.unet.data["image"].parameters():
            weight += 0.5
    pipe.save_pretrained(tmp_path / "run" / "export")
    ship(tmp_path / "run", spoken, tmp_path / "out", base=str(before))
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "held to the emoji model's predictions; of their streams, some were trained further: data stream of image."
        in card
    )
    assert "| data stream of image, trained further |" in card
    before_then = sorted(tmp_path.joinpath("out").rglob("*"))
    both = VersatileDiffusionPipeline.from_pretrained(tmp_path / "out" / "src" / PACKAGE / "weights")
    name, weight = next(iter(both.unet.data["image"].named_parameters()))
    wanted = dict(pipe.unet.data["image"].named_parameters())[name]
    assert torch.allclose(weight, wanted, rtol=2**-6, atol=2**-20)
    monkeypatch.setattr(module, "LARGEST", 10_000)
    with pytest.raises(ValueError, match=r"; [1-9][\d,]+ bytes before that are layers of it that were trained further"):
        ship(tmp_path / "run", spoken, tmp_path / "out", base=str(before))
    assert sorted(tmp_path.joinpath("out").rglob("*")) == before_then
    with pytest.raises(ValueError, match="finish its training first"):
        ship(tmp_path, spoken, tmp_path / "other", base=str(before))


def test_another_release_below_is_refused(run: Path, before: Path, spoken: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    shutil.copytree(before, below)
    ship(run, spoken, tmp_path / "out", base=str(below))
    (below / "more.txt").write_text("other files")
    with pytest.raises(ValueError, match="extends another release"):
        find_model(tmp_path / "out" / "src" / PACKAGE / "weights")


def test_a_missing_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "entry_points", lambda group: [])
    monkeypatch.setattr(shipped, "CHECKOUT", None)
    with pytest.raises(ValueError, match=r"emoji-speech model is not installed.*scripts/train_speech\.sh"):
        find_model("emoji-speech")
