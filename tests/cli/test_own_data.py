"""`versatile data encode` and `versatile train --from`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import LATENT, tiny_unet

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.diffuser.groups import parameter_groups, streams_in
from versatile_diffusion.training.diffuser.lora import ADAPTER_FILE
from versatile_diffusion.training.diffuser.objective import DiffuserObjective


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


def test_the_encoding_of_captions_is_told_or_named(versatile, model: str, pictures: Path) -> None:
    for number in range(3):
        (pictures / f"{number}.txt").write_bytes(f"kočka {number}".encode("cp1250"))
    words = ("data", "encode", "pictures", "--model", model, "--out", "encoded")
    unsure = versatile(*words)
    assert (unsure.code, unsure.err.count("\n")) == (2, 1)
    assert "in cp1250" in unsure.err
    assert "--encoding" in unsure.err
    done = versatile(*words, "--encoding", "cp1250")
    assert done.code == 0, done.err
    assert "kočka" in "".join(file.read_text("utf-8") for file in Path("encoded/looks").glob("*.txt"))
    other = versatile(*words, "--encoding", "iso8859_2")
    assert "has changed" in other.err
    assert "unknown encoding 'cp'" in versatile(*words, "--encoding", "cp").err
    trained = versatile("train", "--from", model, "--data", "pictures", "--encoding", "cp", "--steps", 1)
    assert (trained.code, "unknown encoding 'cp'" in trained.err) == (2, True)


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
    assert "3 items (3 read, 1 bad images; the last is " in done.err
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
        (["train", "diffuser", "--lora", "4", "--data", pictures, "--out", "run"], "--lora goes with --from"),
        (["train", "--from", model, "--data", "missing", "--out", "run"], "no such folder or file"),
        (["train", "--from", model, "--data", pictures, "--out", "run", "--flows", "image-to-smell"], "no flow"),
        (["train", "--from", model, "--out", "run"], "--data"),
        (["train", "diffuser", "--config", "mine.json", "--data", pictures], "--config goes with --from"),
        (["train", "--from", model, "--data", pictures, "--config", "mine.json"], "mine.json, but there is no such"),
        (["data", "encode", "missing", "--model", model, "--out", "encoded"], "no such folder or file"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--bad", "7"], "from 0 to 1"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--long", "no"], "unknown --long 'no'"),
        (["data", "encode", "s-{0..3.tar", "--model", model, "--out", "encoded"], "unbalanced braces"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--aspect", "0.5"], "1 or more"),
        (["train", "diffuser", "--aspect", "2", "--data", pictures, "--out", "run"], "--aspect goes with --from"),
    ):
        answer = versatile(*words)
        assert answer.code != 0
        assert told in " ".join(answer.err.split()), answer.err


@pytest.mark.parametrize(
    ("only", "flows"),
    [
        *((group, None) for group in ("global", "data", "context")),
        *(
            pytest.param(only, flows, marks=pytest.mark.campaign)
            for only, flows in {
                "data.image": "text-to-image,image-variation",
                "data.text": "image-to-text,text-variation",
                "context.image": "image-variation,image-to-text",
                "context.text": "text-to-image,text-variation",
            }.items()
        ),
    ],
)
def test_an_adapter_on_any_part_is_exported(
    versatile, model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, only: str, flows: str | None
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(DiffuserObjective, "sample_sheet", lambda *_: None)
    monkeypatch.setattr(DiffuserObjective, "evaluate", lambda *_: {})
    words = ("train", "--from", model, "--data", "pictures", "--out", "run", "--device", "cpu")
    words += ("--steps", 2, "--warmup", 1, "--lr", 0.1, "--lora", 2, "--only", only)
    trained = versatile(*words, *(() if flows is None else ("--flows", flows)))
    assert trained.code == 0, trained.err
    answer = versatile("train", "--export", "run", "--to", "mine")
    assert answer.code == 0, answer.err
    before = VersatileDiffusionPipeline.from_pretrained(model).unet.state_dict()
    for folder in ("run/export", "mine"):
        after = VersatileDiffusionPipeline.from_pretrained(folder).unet.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed
        assert changed <= covered_names(only)
        assert load_file(f"{folder}/lora/{ADAPTER_FILE}")


def covered_names(only: str) -> set[str]:
    groups = parameter_groups(tiny_unet(LATENT, 192))
    return {name for stream in streams_in(only.split(","), groups) for name, _ in groups[stream]}


def test_what_is_skipped_and_left_out_is_said(versatile, model: str, pictures: Path) -> None:
    (pictures / "0.txt").write_text("a red dog " * 40)
    (pictures / "x.heic").write_bytes(b"no such kind")
    (pictures / "x.txt").write_text("a dog")
    (pictures / "film.mp4").touch()
    done = versatile("data", "encode", pictures, "--model", model, "--out", "encoded")
    assert done.code == 0, done.err
    line = " ".join(done.out.split())
    assert "3 items (3 read, 1 bad images, 1 captions cut to what the encoder reads" in line
    assert "ignored: other files 1 (film.mp4)" in line
    assert "skipped: bad images: x.heic: " in done.err


def test_a_run_on_a_set_that_is_damaged_or_changed(versatile, model: str, pictures: Path) -> None:
    train = ("train", "--from", model, "--data", pictures, "--out", "run", "--steps", "1", "--device", "cpu")
    assert versatile(*train).code == 0
    part = next(Path("run/encoded").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-9])
    other = versatile("train", "--from", model, "--data", "run/encoded", "--out", "other", "--steps", "1")
    assert other.code == 2
    assert f"{part} is damaged (" in other.err
    assert other.err.count("Traceback") == 0
    renewed = versatile(*train)
    assert renewed.code == 0, renewed.err
    assert f"note: {part} is damaged (" in renewed.err
    (pictures / "1.txt").write_text("a green cat")
    again = versatile("train", "--from", model, "--data", "run/encoded", "--out", "other", "--steps", "1")
    assert again.code == 0, again.err
    assert "has changed since it was encoded" in " ".join(again.err.split())
