"""`versatile data encode` and `versatile train --from`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from versatile_diffusion.training.diffuser import DiffuserObjective


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} dog")
    return folder


def test_encode_then_train_then_use(versatile, model: str, pictures: Path) -> None:
    with tarfile.open("shard.tar", "w") as archive:
        for file in sorted(pictures.iterdir()):
            archive.add(file, file.name)
    encoded = versatile("data", "encode", "*.tar", "--model", model, "--out", "encoded", "--json")
    assert encoded.code == 0, encoded.err
    told = json.loads(encoded.out)
    assert (told["items"], told["bad"], told["shards"]) == (3, {}, 1)
    assert set(told["made_by"]) == {"latents.image", "latents.text", "tokens.image", "tokens.text"}
    again = versatile("data", "encode", "*.tar", "--model", model, "--out", "encoded")
    assert "3 items (3 read)" in again.out
    trained = versatile(
        "train", "--from", model, "--data", "encoded", "--out", "run", "--steps", "2", "--only", "context"
    )
    assert trained.code == 0, trained.err
    assert "finished; " in trained.out
    assert versatile("text-to-image", "a dog", "--model", "run/export", "--steps", "2", "--out", "out").code == 0


def test_settings_from_a_file(versatile, model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffuserObjective, "sample_sheet", lambda *_: None)
    monkeypatch.setattr(DiffuserObjective, "evaluate", lambda *_: {})
    (pictures / "3.png").write_text("no picture")
    (pictures / "3.txt").write_text("a dog")
    told = {"joint": True, "mixture": {"text-to-image": 1, "image-to-text": 0.5}, "batch": {"image": 3}}
    told |= {"multipliers": {"global": 0.1}, "min_snr": 5, "noise_offset": 0.1, "lr": 1e-3, "optimizer": "sgd"}
    told |= {"schedule": "cosine", "ema": 0.5, "clip": None, "steps": 50, "posthoc": [0.1]}
    Path("mine.json").write_text(json.dumps(told))
    words = ("train", "--from", model, "--data", "pictures", "--config", "mine.json", "--steps", 1, "--lr", 1e-4)
    done = versatile(*words)
    assert done.code == 0, done.err
    folder = Path("runs", f"{Path(model).name}-pictures")
    assert done.err.startswith(f"the run's folder is {folder};")
    assert "3 items (3 read, 1 bad pictures; the last is " in done.err
    written = json.loads((folder / "settings.json").read_text())
    asked = {name: value for name, value in told.items() if name not in ("lr", "mixture", "batch")}
    assert {name: {**written, **written["loop"]}[name] for name in asked} == {**asked, "steps": 1}
    assert (written["lr"], written["batch"]) == (1e-4, {"image": 3, "text": 32})
    assert {name: share for name, share in written["mixture"].items() if share} == told["mixture"]
    assert versatile("train", "--export", folder, "--to", "mine").code == 0


def test_a_file_that_does_not_fit_the_model_is_refused_before_data_are_read(
    versatile, model: str, pictures: Path
) -> None:
    Path("mine.json").write_text('{"zero_terminal_snr": true}')
    answer = versatile("train", "--from", model, "--data", pictures, "--out", "run", "--config", "mine.json")
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("error: with the settings of --config: zero_terminal_snr")
    assert not Path("run").exists()


def test_mistakes_are_told_in_a_line(versatile, model: str, pictures: Path) -> None:
    for words, told in (
        (["train", "diffuser", "--lora", "4", "--data", pictures, "--out", "run"], "go with --from"),
        (["train", "--from", model, "--data", "missing", "--out", "run"], "no such folder or file"),
        (["train", "--from", model, "--data", pictures, "--out", "run", "--flows", "image-to-audio"], "no flow"),
        (["train", "--from", model, "--out", "run"], "--data"),
        (["train", "diffuser", "--config", "mine.json", "--data", pictures], "go with --from"),
        (["train", "--from", model, "--data", pictures, "--config", "mine.json"], "mine.json, and there is no such"),
        (["data", "encode", "missing", "--model", model, "--out", "encoded"], "no such folder or file"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--bad", "7"], "from 0 to 1"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--aspect", "0.5"], "from 1 up"),
        (["train", "diffuser", "--aspect", "2", "--data", pictures, "--out", "run"], "go with --from"),
    ):
        answer = versatile(*words)
        assert answer.code != 0
        assert told in " ".join(answer.err.split()), answer.err
