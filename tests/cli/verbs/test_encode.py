"""`versatile encode` and `versatile decode`, and files of embeddings given to the commands that generate."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import Condition, load_embeddings
from versatile_diffusion.cli.verbs.encode import sources_of
from versatile_diffusion.records.png import read_record

FEW = {"num_inference_steps": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures (one in a folder below), a file of texts, and something else."""
    place = tmp_path / "things"
    (place / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 12), "red").save(place / "a.png")
    Image.new("RGB", (12, 20), "blue").save(place / "deep" / "b.jpg")
    (place / "words.txt").write_text("a red apple\n\na cat\n", encoding="utf-8")
    (place / "notes.md").write_text("not read", encoding="utf-8")
    return place


def changed(place: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file()}


def test_a_folder_becomes_files_of_embeddings_and_a_second_run_goes_on(
    versatile: Command, model: str, folder: Path, tiny_pipeline: Any
) -> None:
    out = Path("tokens")
    answer = versatile("encode", folder, "--out", out, "--model", model)
    names = ["a.image-context.safetensors", "deep/b.image-context.safetensors", "words.text-context.safetensors"]
    assert (answer.code, answer.out.split()) == (0, [f"tokens/{name}" for name in names])
    picture = load_embeddings(out / names[1], tiny_pipeline)
    torch.testing.assert_close(picture.tensor[0], tiny_pipeline.encode_context(folder / "deep" / "b.jpg"))
    assert picture.names == (str(folder / "deep" / "b.jpg"),)
    texts = load_embeddings(out / names[2], tiny_pipeline)
    assert texts.names == ("a red apple", "a cat")
    torch.testing.assert_close(texts.tensor, tiny_pipeline.encode_context(["a red apple", "a cat"]))
    assert len(load_embeddings(out, tiny_pipeline, modality="image")) == 2
    before = changed(out)
    (out / names[0]).unlink()  # as if the first run had been stopped
    again = versatile("encode", folder, "--out", out, "--model", model)
    assert again.out.split() == [f"tokens/{names[0]}"]
    assert "2 already existed" in again.err
    assert {name: before[name] for name in before if name != names[0]}.items() <= changed(out).items()
    newer = (out / names[0]).stat().st_mtime + 9
    os.utime(folder / "a.png", (newer, newer))
    assert versatile("encode", folder, "--out", out, "--model", model).out.split() == [f"tokens/{names[0]}"]


def test_latents_go_there_and_back(versatile: Command, model: str, folder: Path, tiny_pipeline: Any) -> None:
    assert versatile("encode", folder, "--as", "latent", "--out", "latents", "--model", model).code == 0
    answer = versatile("decode", "latents", "--out", "back", "--model", model)
    made = ["back/a.png", "back/deep/b.png", "back/words-0001.txt", "back/words-0002.txt"]
    assert (answer.code, answer.out.split()) == (0, made)
    codecs = tiny_pipeline.bank.codecs
    latent = codecs["image"].encode([Image.open(folder / "a.png")])
    assert Image.open(made[0]).tobytes() == codecs["image"].decode(latent)[0].tobytes()
    texts = codecs["text"].decode(codecs["text"].encode(["a red apple", "a cat"]))
    assert [Path(file).read_text(encoding="utf-8").rstrip("\n") for file in made[2:]] == texts
    Path(made[1]).unlink()
    whole = Path(made[0]).read_bytes()
    Path(made[0]).write_bytes(b"kept")
    again = json.loads(versatile("decode", "latents", "--out", "back", "--model", model, "--json").out)
    assert again == {"files": [made[1]], "kept": [made[0], *made[2:]]}
    assert Path(made[0]).read_bytes() == b"kept"
    assert versatile("decode", "latents", "--out", "back", "--model", model, "--overwrite").out.split() == made
    assert Path(made[0]).read_bytes() == whole
    assert not [file for file in Path("back").rglob("*") if file.name.endswith(".part")]


def test_tokens_are_decoded_by_a_task(versatile: Command, model: str, folder: Path, tiny_pipeline: Any) -> None:
    versatile("encode", folder / "words.txt", "--out", "tokens", "--model", model)
    file = Path("tokens/words.text-context.safetensors")
    answer = versatile("decode", file, "--task", "text-to-image", "--steps", 2, "--seed", 7, "--model", model)
    assert answer.out.split() == ["out/decoded/words-0001.png", "out/decoded/words-0002.png"]
    second = Image.open("out/decoded/words-0002.png")
    expected = tiny_pipeline.text_to_image("a cat", seed=8, **FEW)
    assert np.array_equal(np.asarray(second), np.asarray(expected.images[0]))
    assert read_record(second)["seeds"] == [8]
    varied = versatile("decode", file, "--steps", 2, "--out", "words", "--model", model)
    assert varied.out.split() == ["words/words-0001.txt", "words/words-0002.txt"]
    refused = versatile("decode", file, "--task", "image-variation", "--out", "x", "--model", model)
    assert refused.err == (
        "error: text context embeddings support these tasks: text-to-image, text-variation, text-to-audio\n"
    )


def test_other_libraries_are_noted(versatile: Command, model: str, folder: Path) -> None:
    versatile("encode", folder / "words.txt", "--out", "tokens", "--as", "latent", "--model", model)
    (file,) = Path("tokens").iterdir()
    held = load_embeddings(file)
    replace(held, libraries={**held.libraries, "torch": "1.13.1"}).save(file)
    answer = versatile("decode", file, "--model", model)
    assert answer.code == 0
    assert answer.err.startswith(f"note: {file} was encoded with torch 1.13.1 (here ")


def test_what_was_made_from_tokens_is_replayed_with_their_file(versatile: Command, model: str, folder: Path) -> None:
    versatile("encode", folder / "words.txt", "--out", "tokens", "--model", model)
    made = versatile("decode", "tokens", "--task", "text-to-image", "--steps", 2, "--model", model).out.split()[1]
    alone = versatile("replay", made)
    assert alone.code == 2
    assert "give their file with --embeddings" in alone.err
    assert versatile("replay", made, "--embeddings", "tokens").out.startswith("identical: ")


def test_tasks_take_files_of_tokens(versatile: Command, model: str, apple: Path, tiny_pipeline: Any) -> None:
    versatile("encode", apple, "a small cat", "--out", ".", "--model", model)
    (text,) = Path().glob("a-small-cat-*.text-context.safetensors")
    options = ("--steps", 2, "--seed", 3, "--model", model, "--out", "made")
    answer = versatile("dual-guided", text, "apple.image-context.safetensors", *options)
    expected = tiny_pipeline.generate(
        "image", [Condition("text", "a small cat"), Condition("image", apple)], seed=3, **FEW
    )
    assert np.array_equal(np.asarray(Image.open(answer.out.strip())), np.asarray(expected.images[0]))
    wrong = versatile("image-variation", text, *options)
    assert (wrong.code, wrong.err) == (2, "error: text embeddings given, but image is required\n")


def test_another_model_is_refused(
    versatile: Command, model: str, apple: Path, tiny_pipeline: Any, tmp_path: Path
) -> None:
    versatile("encode", apple, "--out", "tokens", "--model", model)
    encoder = tiny_pipeline.bank.encoders["image"]
    before = encoder.to_local.bias.detach().clone()
    encoder.to_local.bias.data += 1
    try:
        tiny_pipeline.save_pretrained("other")
    finally:
        encoder.to_local.bias.data.copy_(before)
    file = "tokens/apple.image-context.safetensors"
    for command in (("encode", apple, "--out", "tokens"), ("decode", file), ("image-variation", file)):
        answer = versatile(*command, "--model", "other")
        assert answer.code == 2, command
        assert "DualImageEncoder-" in answer.err
    told = versatile("decode", file, "--any-encoder", "--steps", 1, "--model", "other")
    assert told.out.split() == ["out/decoded/apple.png"]


def test_one_bad_file_does_not_stop_the_others(versatile: Command, model: str, folder: Path) -> None:
    (folder / "aa.png").write_bytes(b"no picture")
    answer = versatile("encode", folder, "--out", "tokens", "--model", model, "--json")
    result = json.loads(answer.out)
    assert (answer.code, len(result["files"]), list(result["failed"])) == (1, 3, [str(folder / "aa.png")])
    alone = versatile("encode", folder / "aa.png", "--out", "tokens", "--model", model)
    assert alone.code == 2
    assert "not an image" in alone.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "a", "--as", "tokens"), "unknown --as 'tokens'; allowed: context, latent"),
        (("encode", "no.png"), "no.png: no such file"),
        (("encode", "empty"), "empty contains no images or texts"),
        (("encode", "twice"), "have the same output name"),
        (("encode", "notes.md"), "neither an image nor a text"),
        (("encode", "blank.txt"), "blank.txt contains no text"),
        (("decode", "no.safetensors"), "no such embeddings file"),
        (("decode", "empty"), "empty holds no embeddings"),
        (("decode", "x", "--task", "sing"), "unknown task 'sing'; allowed: text-to-image"),
        (("text-to-image", "no.safetensors"), "no such embeddings file"),
    ],
)
def test_mistakes(versatile: Command, model: str, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / "twice" / name)
    (tmp_path / "notes.md").write_text("x", encoding="utf-8")
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    answer = versatile(*arguments, "--model", model)
    assert answer.code == 2
    assert message in answer.err


def test_long_texts_are_texts_and_their_names_differ() -> None:
    one, other = sources_of(["a red apple " * 500, "a red apple " * 501])
    assert one.modality == other.modality == "text"
    assert one.name("context") != other.name("context")
    assert len(one.name("context")) < 100
