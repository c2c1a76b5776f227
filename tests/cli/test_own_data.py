"""`versatile data encode` and `versatile train --from`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image


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


def test_mistakes_are_told_in_a_line(versatile, model: str, pictures: Path) -> None:
    for words, told in (
        (["train", "diffuser", "--lora", "4", "--data", pictures, "--out", "run"], "go with --from"),
        (["train", "--from", model, "--data", "missing", "--out", "run"], "no such folder or file"),
        (["train", "--from", model, "--data", pictures, "--out", "run", "--flows", "image-to-audio"], "no flow"),
        (["train", "--from", model, "--out", "run"], "--data"),
        (["data", "encode", "missing", "--model", model, "--out", "encoded"], "no such folder or file"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--bad", "7"], "from 0 to 1"),
        (["data", "encode", pictures, "--model", model, "--out", "encoded", "--aspect", "0.5"], "from 1 up"),
        (["train", "diffuser", "--aspect", "2", "--data", pictures, "--out", "run"], "go with --from"),
    ):
        answer = versatile(*words)
        assert answer.code != 0
        assert told in " ".join(answer.err.split()), answer.err
